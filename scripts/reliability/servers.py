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
        lie: in what it lies: ``short`` files end before their announced size, ``stalled`` ones come a byte
            a second, ``altered`` weights are of the right size with a wrong byte, ``moved`` is another commit
            for every file than for the model.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            if self.path.startswith("/api/models/"):
                files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                content = json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": files}).encode()
                self.answer({"Content-Type": "application/json"}, content)
            elif (folder / name).is_file():
                content = (folder / name).read_bytes()
                commit = COMMIT[::-1] if lie == "moved" else COMMIT
                etag = hashlib.sha256(content).hexdigest()
                self.answer({"ETag": f'"{etag}"', "X-Repo-Commit": commit}, content)
            else:
                self.send_error(404)

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
                if "ETag" in headers and lie == "stalled":
                    for byte in content[:60]:
                        self.wfile.write(bytes([byte]))
                        self.wfile.flush()
                        time.sleep(1)
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
