"""What the router of an engine was told, written down: so that it survives a killed process, and a user can be forgotten."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sona._sealed import pack, unpack
from sona.exceptions import CorruptStateError, StoreError
from sona.process_log import Base, Files, Log, MemoryFiles, MemoryLog
from sona.routing import RoutingDecision, TinyDancerRouter
from sona.store import EventLog, EventLogReader

__all__ = ["RouterJournal"]

#: Records between two checkpoints, which only shorten the next opening.
CHECKPOINT_EVERY = 2000
#: Bytes of events in a directory and in memory before the older half is folded into the router that they begin with.
LOG_BYTES, MEMORY_BYTES = 1 << 28, 1 << 25
#: Writers that may share a state directory.
WRITERS = 1024

#: What the event log says when another writer holds it.
BUSY = "another writer has the log open"

Vector = npt.NDArray[np.float32]
Record = tuple[dict[str, Any], Vector]


def _pack(head: dict[str, Any], x: Vector) -> bytes:
    text = json.dumps(head, separators=(",", ":")).encode()
    return len(text).to_bytes(4, "little") + text + x.astype("<f4").tobytes()


def _unpack(payload: bytes) -> Record:
    size = int.from_bytes(payload[:4], "little")
    try:
        head = json.loads(payload[4 : 4 + size])
        x = np.frombuffer(payload[4 + size :], "<f4").astype(np.float32)
        if not isinstance(head, dict) or head.get("kind") not in ("decision", "outcome", "model", "next"):
            raise ValueError("no record of a router")
    except (ValueError, RecursionError) as error:
        raise CorruptStateError(f"router journal: {error}") from None
    return head, x


class RouterJournal:
    """The router of one writer, with the events that made it what it is.

    A folder ``router/NNNN`` of the state directory holds ``base`` (the router before its first event), ``events`` (the log),
    ``checkpoint`` (the router after so many events, which shortens the next opening) and ``mark`` (the same at half of the
    log's bytes). When the log is full, the mark becomes the base and the events before it go: the router keeps what they
    taught, and the base notes whose they were. Without a directory all of it is in memory.
    """

    def __init__(self, router: TinyDancerRouter, store: str | os.PathLike[str] | None) -> None:
        self.router = router
        self._lock = threading.RLock()
        self._root = None if store is None else Path(store) / "router"
        self._files: Files | MemoryFiles = MemoryFiles()
        self._log: Log = MemoryLog()
        self._base = Base(0, b"")
        self._marked = False
        self._fresh = 0
        self._pid = os.getpid()

    @classmethod
    def open(
        cls, router: TinyDancerRouter | None, default: Callable[[], TinyDancerRouter], store: str | os.PathLike[str] | None
    ) -> Self:
        """The journal of the first writer that no living process is; ``router`` begins it anew, None continues it."""
        self = cls(default() if router is None else router, store)
        self._claim(afresh=router is not None)
        return self

    def _claim(self, *, afresh: bool, base: Base | None = None) -> None:
        self._pid = os.getpid()
        if self._root is not None:
            self._log, self._files = _first_free(self._root)
        try:
            if not afresh and (data := self._files.read("base")) is not None:
                self._restore(Base.from_bytes(data))
            else:
                base = base or Base(0, self.router.to_bytes())
                self._begin(replace(base, seq=self._log.next_seq))
        except BaseException:
            self._log.close()
            raise

    def _begin(self, base: Base) -> None:
        """Take this as the base; no event is left."""
        for name in ("checkpoint", "mark"):
            self._files.remove(name)
        self._marked = False
        self._put(base)
        self._log.checkpoint(base.seq)

    def _put(self, base: Base) -> None:
        self._files.write("base", base.to_bytes())
        self._base = base

    def _restore(self, base: Base) -> None:
        if base.seq > self._log.next_seq:
            # The disk lost the end of the log: events to come must not count as known.
            base = replace(base, seq=self._log.next_seq)
            self._put(base)
        self._base = base
        # A fold may have been killed before its end.
        if self._log.first_seq < base.seq:
            self._log.checkpoint(base.seq)
        mark = self._snapshot("mark")
        self._marked = mark is not None
        done, self.router = self._snapshot("checkpoint") or (base.seq, TinyDancerRouter.from_bytes(base.router))
        _replay(self.router, self._records(done))

    def _snapshot(self, name: str) -> tuple[int, TinyDancerRouter] | None:
        """(events that it knows, router) that was written beside the log; None without one that is whole and of this log."""
        data = self._files.read(name)
        if data is None:
            return None
        try:
            done, router = int.from_bytes(data[:8], "little"), TinyDancerRouter.from_bytes(data[8:])
        except CorruptStateError:
            return None
        return (done, router) if self._base.seq <= done <= self._log.next_seq else None

    def route(self, x: npt.ArrayLike, candidates: list[str], user: str, tenant: str, now: float) -> RoutingDecision:
        """Decide, and write the decision down."""
        x = np.asarray(x, dtype=np.float32)
        with self._lock:
            self._own()
            d = self.router.route(x, candidates=candidates, tenant=tenant, now=now)
            head = {
                "kind": "decision",
                "id": int(d.decision_id[2:]),
                "user": user,
                "tenant": tenant,
                "candidates": candidates,
                "model": d.model,
                "propensity": d.propensity,
                "now": now,
            }
            self._append(head, x)
            return d

    def feedback(
        self, decision_id: str, quality: float, cost: float | None, latency_ms: float | None, error: bool, now: float
    ) -> bool:
        """Hand an outcome to the router, and write it down."""
        with self._lock:
            self._own()
            taken = self.router.feedback(decision_id, quality, cost=cost, latency_ms=latency_ms, error=error, now=now)
            # What was known, or given up, or forgotten, changes nothing.
            if taken or error:
                head = {
                    "kind": "outcome",
                    "id": int(decision_id[2:]),
                    "quality": float(quality),
                    "cost": None if cost is None else float(cost),
                    "latency_ms": None if latency_ms is None else float(latency_ms),
                    "error": bool(error),
                    "now": now,
                }
                self._append(head, np.empty(0, np.float32))
            return taken

    def add_model(self, name: str, price: float) -> None:
        """Bring in a model, and write it down."""
        with self._lock:
            self._own()
            self.router.add_model(name, price)
            self._append({"kind": "model", "name": name, "price": float(price)}, np.empty(0, np.float32))

    def forget(self, user: str) -> int:
        """Take a user's decisions and their outcomes out of this journal and those of writers that ended; rebuild the router.

        The router is then the base with the other events replayed; where the base knew the user, the router before all that was
        folded into it takes its place. What was spent stays spent. Returns the number of events that were removed.
        """
        with self._lock:
            self._own()
            removed = 0
            if self._concerns(user):
                removed = self._strike(user, self.router._core.next_id)
                rebuilt = TinyDancerRouter.from_bytes(self._base.router)
                _replay(rebuilt, self._records(self._base.seq))
                rebuilt._core.succeed(self.router._core)
                self.router._take(rebuilt)
                self.checkpoint()
            if self._root is not None:
                removed += forget_in(self._root.parent, user)
            return removed

    def _concerns(self, user: str) -> bool:
        return self._base.knows(user) or any(True for _ in self._decisions_of(user))

    def _decisions_of(self, user: str) -> Iterator[int]:
        heads = (head for _, (head, _) in self._numbered(self._base.seq))
        return (head["id"] for head in heads if head["kind"] == "decision" and head["user"] == user)

    def _strike(self, user: str, next_id: int) -> int:
        """Empty a user's events and take the user out of the base. Killed meanwhile, it leaves no snapshot behind."""
        for name in ("checkpoint", "mark"):
            self._files.remove(name)
        self._marked = False
        gone = set(self._decisions_of(user))
        known = self._base.knows(user)
        # No number is given out twice: a late outcome of a forgotten decision finds nothing.
        self._log.append(_pack({"kind": "next", "id": next_id}, np.empty(0, np.float32)))
        if known:
            self._put(self._base.before(self._base.seq))
        here = {head["id"] for _, (head, _) in self._numbered(self._base.seq) if head["kind"] == "decision"}
        erased = {
            seq
            for seq, (head, _) in self._numbered(self._base.seq)
            if head["kind"] in ("decision", "outcome") and (head["id"] in gone or (known and head["id"] not in here))
        }
        return self._log.erase(erased)

    def checkpoint(self) -> None:
        """Write the router beside its log, so that the next opening need not replay it."""
        if self._root is not None and not self._log.closed and self._pid == os.getpid():
            self._write("checkpoint")
            self._fresh = 0

    def _write(self, name: str) -> None:
        self._files.write(name, self._log.next_seq.to_bytes(8, "little") + self.router.to_bytes())

    def close(self) -> None:
        """Checkpoint and give up the log."""
        with self._lock:
            if self._pid == os.getpid() and not self._log.closed:
                self.checkpoint()
                self._log.close()

    def to_bytes(self) -> bytes:
        """The router, and all that forgetting needs."""
        with self._lock:
            self._own()
            base = replace(self._base, seq=0)
            payloads = [p for _, p in self._log.replay(self._base.seq) if p]
            return pack([base.to_bytes(), self.router.to_bytes(), pack([b"".join(_framed(payloads))])])

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """A journal in memory, as ``to_bytes`` found it; ``CorruptStateError`` for anything else."""
        base, router, framed = unpack("router journal", data, 3)
        self = cls(TinyDancerRouter.from_bytes(router), None)
        self._put(Base.from_bytes(base))
        self._log = MemoryLog(_frames(unpack("router journal", framed, 1)[0]))
        for _ in self._records(0):
            pass
        return self

    def _own(self) -> None:
        """In a forked child: go on as a writer of its own, from the router as the fork left it."""
        if self._pid == os.getpid():
            return
        if self._root is None:
            self._pid = os.getpid()
            return
        assert isinstance(self._files, Files)
        # What the parent's users taught is in this router too: forgetting one of them has to find that.
        events = EventLogReader(self._files.folder / "events", from_seq=self._base.seq)
        users = set()
        while batch := events.poll():
            users |= {head["user"] for head, _ in (_unpack(p) for _, p in batch if p) if head["kind"] == "decision"}
        self._claim(afresh=True, base=self._folded(0, self.router, users))

    def _append(self, head: dict[str, Any], x: Vector) -> None:
        self._log.append(_pack(head, x))
        self._fresh += 1
        if self._fresh >= CHECKPOINT_EVERY:
            self.checkpoint()
        limit = MEMORY_BYTES if self._root is None else LOG_BYTES
        if self._marked and self._log.nbytes >= limit:
            self._fold()
        if not self._marked and 2 * self._log.nbytes >= limit:
            self._write("mark")
            self._marked = True

    def _fold(self) -> None:
        """The mark becomes the base, and the events that it knows go."""
        mark = self._snapshot("mark")
        self._marked = False
        if mark is None:
            return
        seq, router = mark
        known = (head for n, (head, _) in self._numbered(self._base.seq) if n < seq)
        self._put(self._folded(seq, router, {head["user"] for head in known if head["kind"] == "decision"}))
        self._log.checkpoint(seq)
        self._files.remove("mark")

    def _folded(self, seq: int, router: TinyDancerRouter, users: set[str]) -> Base:
        """``router`` as the base, with what these users taught in it."""
        origin = TinyDancerRouter.from_bytes(self._base.origin or self._base.router)
        for name, price in router.models.items():
            if name not in origin.models:
                origin.add_model(name, price)
        return self._base.after(seq, router.to_bytes(), origin.to_bytes(), users)

    def _numbered(self, seq: int) -> Iterator[tuple[int, Record]]:
        """Events from a number on that were not erased."""
        return ((n, _unpack(p)) for n, p in self._log.replay(seq) if p)

    def _records(self, seq: int) -> Iterator[Record]:
        return (record for _, record in self._numbered(seq))


def _first_free(root: Path) -> tuple[EventLog, Files]:
    """The log of the first writer that no living process is, and the files beside it."""
    for number in range(1, WRITERS):
        folder = root / f"{number:04}"
        folder.mkdir(parents=True, exist_ok=True)
        if (log := _free(folder)) is not None:
            return log, Files(folder)
    raise StoreError(f"{root}: more than {WRITERS - 1} writers")


def _free(folder: Path) -> EventLog | None:
    """The log of a folder, unless a living writer has it."""
    try:
        return EventLog(folder / "events")
    except StoreError as error:
        if BUSY in str(error):
            return None
        raise


def forget_in(store: str | os.PathLike[str], user: str) -> int:
    """Take a user out of the journals in a state directory whose writers ended; returns the number of events removed."""
    root, removed = Path(store) / "router", 0
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        files = Files(folder)
        if (data := files.read("base")) is None or (log := _free(folder)) is None:
            continue
        with log:
            base = Base.from_bytes(data)
            other = RouterJournal(TinyDancerRouter.from_bytes(base.router), None)
            other._log, other._files, other._base = log, files, base
            if other._concerns(user):
                ids = [head["id"] + 1 for head, _ in other._records(base.seq) if "id" in head]
                removed += other._strike(user, max([other.router._core.next_id, *ids]))
    return removed


def _framed(payloads: Iterable[bytes]) -> Iterator[bytes]:
    for p in payloads:
        yield len(p).to_bytes(4, "little")
        yield p


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        if end > len(data):
            raise CorruptStateError("router journal: a record that is cut off")
        yield data[at + 4 : end]
        at = end


def _replay(router: TinyDancerRouter, records: Iterator[Record]) -> None:
    """Lead a router through records, in their order."""
    for head, x in records:
        try:
            if head["kind"] == "decision":
                router._follow(
                    head["id"], x, head["candidates"], head["model"], head["propensity"], head["tenant"], head["now"]
                )
            elif head["kind"] == "model":
                router.add_model(head["name"], head["price"])
            elif head["kind"] == "next":
                router._core.skip_to(head["id"])
            else:
                router.feedback(
                    f"r-{head['id']}",
                    head["quality"],
                    cost=head["cost"],
                    latency_ms=head["latency_ms"],
                    error=head["error"],
                    now=head["now"],
                )
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptStateError(f"router journal: a record that does not fit: {error}") from None
