"""States that carry names beside the core's bytes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sona.exceptions import CorruptStateError

_LARGEST = 1 << 24


@dataclass(frozen=True)
class Head:
    """What stands before the core's bytes."""

    what: str
    values: dict[str, Any]

    def names(self, key: str, count: int) -> list[str]:
        """A list of ``count`` different strings."""
        out = self.values.get(key)
        if not (isinstance(out, list) and all(isinstance(n, str) for n in out) and len(set(out)) == len(out) == count):
            raise CorruptStateError(f"{self.what} state: names that do not fit")
        return out


def join(magic: bytes, values: dict[str, Any], body: bytes) -> bytes:
    """Magic, checksum of the head, its length, the head, the core's bytes (which have a checksum of their own)."""
    text = json.dumps(values, separators=(",", ":")).encode()
    return magic + hashlib.blake2b(text, digest_size=8).digest() + len(text).to_bytes(4, "little") + text + body


def split(magic: bytes, data: bytes, what: str) -> tuple[Head, bytes]:
    """Head and core's bytes; ``CorruptStateError`` if they are damaged or foreign."""
    size = int.from_bytes(data[12:16], "little")
    text = data[16 : 16 + size]
    whole = data[:4] == magic and size <= _LARGEST and len(text) == size
    if not whole or hashlib.blake2b(text, digest_size=8).digest() != data[4:12]:
        raise CorruptStateError(f"{what} state: damaged, foreign or of another version")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CorruptStateError(f"{what} state: {error}") from None
    if not isinstance(values, dict):
        raise CorruptStateError(f"{what} state: no names")
    return Head(what, values), data[16 + size :]
