"""Where the events of a router are kept, and what it was before the first of them: in a folder or in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path

from sona._sealed import pack, unpack
from sona.store import EventLog

__all__ = ["Base", "Files", "MemoryFiles", "MemoryLog", "digest"]

#: Bytes of a digest of a user's name.
DIGEST = 8


def digest(user: str) -> bytes:
    """What stands for a user whose events were folded into a router."""
    return blake2b(user.encode(), digest_size=DIGEST).digest()


@dataclass(frozen=True, slots=True)
class Base:
    """A router before the events of a log.

    ``seq`` is the number of the first event that it does not know. Where older events were folded into it, ``origin`` is the
    router before all of them (empty otherwise) and ``folded`` holds the digests of their users.
    """

    seq: int
    router: bytes
    origin: bytes = b""
    folded: frozenset[bytes] = frozenset()

    def to_bytes(self) -> bytes:
        """All of it, with a checksum."""
        return pack([self.seq.to_bytes(8, "little"), self.router, self.origin, b"".join(sorted(self.folded))])

    @classmethod
    def from_bytes(cls, data: bytes) -> Base:
        """What ``to_bytes`` gave; ``CorruptStateError`` for anything else."""
        seq, router, origin, users = unpack("router journal", data, 4)
        digests = (users[i : i + DIGEST] for i in range(0, len(users), DIGEST))
        return cls(int.from_bytes(seq, "little"), router, origin, frozenset(digests))

    def knows(self, user: str) -> bool:
        """Whether events of the user were folded into the router."""
        return digest(user) in self.folded

    def before(self, seq: int) -> Base:
        """The router before everything that was folded into it, ``seq`` being the first event that is left."""
        return replace(self, seq=seq, router=self.origin or self.router, origin=b"", folded=frozenset())

    def after(self, seq: int, router: bytes, origin: bytes, users: Iterable[str]) -> Base:
        """``router``, which knows the events below ``seq`` of these users, as the base."""
        return Base(seq, router, origin, self.folded | {digest(u) for u in users})


class Files:
    """Named pieces of bytes in a folder, each replaced whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> bytes | None:
        """The bytes, or None."""
        path = self.folder / name
        return path.read_bytes() if path.exists() else None

    def write(self, name: str, data: bytes) -> None:
        """Put the bytes there; when this returns they are on the disk."""
        fresh = self.folder / f"{name}.new"
        with open(fresh, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(fresh, self.folder / name)
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def remove(self, name: str) -> None:
        """Delete the bytes, if there are any."""
        (self.folder / name).unlink(missing_ok=True)


class MemoryFiles:
    """The same in memory."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    def read(self, name: str) -> bytes | None:
        """The bytes, or None."""
        return self._data.get(name)

    def write(self, name: str, data: bytes) -> None:
        """Put the bytes there."""
        self._data[name] = data

    def remove(self, name: str) -> None:
        """Forget the bytes, if there are any."""
        self._data.pop(name, None)


class MemoryLog:
    """What a journal needs of an :class:`~sona.store.EventLog`, in memory."""

    closed = False

    def __init__(self, payloads: Iterable[bytes] = ()) -> None:
        self._payloads = list(payloads)
        self.first_seq = 0
        self.nbytes = sum(map(len, self._payloads))

    @property
    def next_seq(self) -> int:
        """Number of the next event."""
        return self.first_seq + len(self._payloads)

    def append(self, payload: bytes) -> int:
        """Add an event; returns its number."""
        self._payloads.append(payload)
        self.nbytes += len(payload)
        return self.next_seq - 1

    def replay(self, from_seq: int = 0) -> Iterator[tuple[int, bytes]]:
        """Events from a number on."""
        begin = max(from_seq - self.first_seq, 0)
        return iter(list(enumerate(self._payloads[begin:], self.first_seq + begin)))

    def erase(self, seqs: set[int]) -> int:
        """Empty these events; numbers stay."""
        self._payloads = [b"" if i in seqs else p for i, p in enumerate(self._payloads, self.first_seq)]
        self.nbytes = sum(map(len, self._payloads))
        return len(seqs)

    def checkpoint(self, seq: int) -> None:
        """Drop the events below a number."""
        self._payloads = self._payloads[seq - self.first_seq :]
        self.first_seq = seq
        self.nbytes = sum(map(len, self._payloads))

    def close(self) -> None:
        """Nothing to give up."""


#: Either kind of log.
Log = EventLog | MemoryLog
