"""What a configured value is hashed as: plain data that hangs on no module path and no machine.

A class that YAML may name declares ``identity_name``, which never changes: ids of finished runs are made of
it. One that declares none (a user's own) is known by where it lies.
"""

from __future__ import annotations

import dataclasses
from typing import Any

NOT_IDENTITY: dict[str, Any] = {"identity": False}
"""Metadata of a field that does not change what is computed (paths, mirrors, batch budgets)."""
IF_SET: dict[str, Any] = {"identity": "if set"}
"""Metadata of an option that came later: runs from before it keep their ids."""


def identity(value: Any) -> Any:
    """Return a dataclass as plain data, without the fields that do not change what is computed."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = (f for f in dataclasses.fields(value) if _counts(f, getattr(value, f.name)))
        content = {f.name: identity(getattr(value, f.name)) for f in kept}
        return {"_target_": identity_name(type(value))} | content
    if isinstance(value, dict):
        return {str(key): identity(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [identity(item) for item in value]
    return value


def identity_name(kind: type) -> str:
    """Return the name that a class is hashed by: its own, not one that it inherits, or else its path."""
    return str(vars(kind).get("identity_name", f"{kind.__module__}.{kind.__qualname__}"))


def _counts(field: dataclasses.Field[Any], value: Any) -> bool:
    counts = field.metadata.get("identity", True)
    if counts != "if set":
        return bool(counts)
    if field.default_factory is not dataclasses.MISSING:
        return bool(value != field.default_factory())
    return bool(value != field.default)
