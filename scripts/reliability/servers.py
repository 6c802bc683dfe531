"""Servers where the hub or a mirror should be: good ones, and ones that are down, slow or lying."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# What a server does with whatever it is asked.
KINDS = {
    "down": "refuses",
    "silent": "accepts and never answers",
    "slow": "says a byte a second",
    "nonsense": "answers with other JSON",
    "page": "answers with a web page",
}
# The hub's libraries have a limit for silence, none for an answer: one that drips is waited for.
HUB_KINDS = {kind: does for kind, does in KINDS.items() if kind != "slow"}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "org/model"


@contextlib.contextmanager
def server(kind: str) -> Iterator[str]:
    """The address of a server of one of the KINDS."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    open_: list[socket.socket] = []
    body = b'{"a": [1]}' if kind == "nonsense" else b"<html><body>Please log in</body></html>"
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (
        b"application/json" if kind == "nonsense" else b"text/html",
        len(body),
    )

    def answer(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.recv(65536)
            while kind == "slow":
                connection.sendall(b"H")
                time.sleep(1)
            if kind != "silent":
                connection.sendall(head + body)
                connection.close()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_.append(connection)
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    if kind == "down":
        listener.close()
    else:
        threading.Thread(target=accept, daemon=True).start()
    try:
        yield address
    finally:
        for each in (listener, *open_):
            each.close()


@contextlib.contextmanager
def hub(folder: Path, lie: str = "") -> Iterator[str]:
    """A hub that has one model, the files of a folder, under REPOSITORY.

    Args:
        lie: in what it lies: ``short`` files end before their announced size, ``altered`` weights are of the
            right size with a wrong byte, and ``moved`` is another commit at the first question than later.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if self.path.startswith("/api/models/"):
                self.answer({"Content-Type": "application/json"}, json.dumps(self.told()).encode())
            elif (folder / name).is_file():
                content = (folder / name).read_bytes()
                etag = hashlib.sha256(content).hexdigest()
                self.answer({"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}, content)
            else:
                self.send_error(404)

        def told(self) -> dict[str, object] | list[dict[str, object]]:
            """The model's commit, or what files it has then."""
            files = sorted(folder.iterdir())
            if "/tree/" in self.path:
                return [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": "0" * 40} for f in files
                ]
            asked.append(self.path)
            commit = COMMIT[::-1] if lie == "moved" and len(asked) == 1 else COMMIT
            return {"id": REPOSITORY, "sha": commit, "siblings": [{"rfilename": f.name} for f in files]}

        def answer(self, headers: dict[str, str], content: bytes) -> None:
            self.send_response(200)
            for key, value in (
                headers | {"Content-Length": str(len(content)), "Connection": "close"}
            ).items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            if self.path.endswith(".safetensors") and lie == "altered":
                content = content[:-1] + bytes([content[-1] ^ 1])
            if "ETag" in headers and lie == "short":
                content = content[:-10]
            with contextlib.suppress(OSError):
                self.wfile.write(content)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
    finally:
        httpd.shutdown()
        httpd.server_close()


def point_hub_at(address: str, cache: Path) -> None:
    """The library has read its environment already, in the process that this one was forked from."""
    import huggingface_hub.constants as constants
    from huggingface_hub import HfApi, hf_api

    constants.ENDPOINT = address
    constants.HUGGINGFACE_CO_URL_TEMPLATE = address + "/{repo_id}/resolve/{revision}/{filename}"
    constants.HF_HUB_CACHE = str(cache)
    constants.HF_HUB_OFFLINE = False
    hf_api.api = HfApi(endpoint=address)
