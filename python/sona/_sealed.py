"""States that are put together in Python: a head and a checksum around them, JSON or parts within."""

from __future__ import annotations

import json
import struct
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Self

from sona.exceptions import CorruptStateError

__all__ = ["HEAD", "Told", "opened", "pack", "packed", "sealed", "unpack"]

#: How joined parts begin, and its length.
PARTS = b"SPRT\x01"
HEAD = len(PARTS)


def sealed(head: bytes, state: bytes) -> bytes:
    """A head of magic and version, a checksum of all, the state."""
    return head + struct.pack("<I", zlib.crc32(head + state)) + state


def opened(what: str, head: bytes, data: bytes) -> bytes:
    """The state; ``CorruptStateError`` for bytes that :func:`sealed` did not write with this head."""
    data = bytes(memoryview(data))
    state = data[len(head) + 4 :]
    if data[: len(head)] != head:
        raise CorruptStateError(f"{what} state: bad magic or version")
    if data[len(head) : len(head) + 4] != struct.pack("<I", zlib.crc32(head + state)):
        raise CorruptStateError(f"{what} state: checksum does not match")
    return state


def pack(parts: Iterable[bytes]) -> bytes:
    """Join parts, each with its length before it, and seal them."""
    return sealed(PARTS, b"".join(struct.pack("<Q", len(part)) + part for part in parts))


def packed(data: bytes) -> bool:
    """Whether bytes begin as what :func:`pack` joined."""
    return data[:HEAD] == PARTS


def unpack(what: str, data: bytes, count: int) -> list[bytes]:
    """Split what :func:`pack` joined; anything else raises ``CorruptStateError``."""
    parts: list[bytes] = []
    rest = memoryview(opened(what, PARTS, data))
    while len(rest) >= 8 and (n := struct.unpack("<Q", rest[:8])[0]) <= len(rest) - 8:
        parts.append(bytes(rest[8 : 8 + n]))
        rest = rest[8 + n :]
    if len(parts) != count or len(rest):
        raise CorruptStateError(f"{what} state: expected {count} parts, got {len(parts)} and {len(rest)} bytes")
    return parts


class Told(ABC):
    """``to_bytes`` and ``from_bytes`` of a class that can tell its state in JSON."""

    @abstractmethod
    def _tell(self) -> dict[str, Any]: ...

    @classmethod
    @abstractmethod
    def _told(cls, state: dict[str, Any]) -> Self: ...

    def to_bytes(self) -> bytes:
        """Return the state, versioned and with a checksum."""
        return sealed(b"STLD\x01", json.dumps([type(self).__name__, self._tell()]).encode())

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; ``CorruptStateError`` for anything else."""
        what = cls.__name__
        text = opened(what, b"STLD\x01", b)
        try:
            name, state = json.loads(text)
            if name != what:
                raise CorruptStateError(f"{what} state: it is one of {name}")
            return cls._told(state)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError) as error:
            raise CorruptStateError(f"{what} state: {error}") from error
