"""What the router of an engine was told, written down: so that it survives a killed process, and a user can be forgotten."""

from __future__ import annotations

import json
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sona.exceptions import CorruptStateError, StoreError
from sona.routing import RoutingDecision, TinyDancerRouter
from sona.store import EventLog

__all__ = ["RouterJournal"]

#: Records between two checkpoints, which only shorten the next opening.
CHECKPOINT_EVERY = 2000
#: Records that a journal in memory keeps.
MEMORY = 20_000
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

    A folder ``router/NNNN`` of the state directory holds ``base`` (the router before its first event), ``events`` (the log)
    and ``checkpoint`` (the router after so many events). Without a directory the last :data:`MEMORY` events are kept.
    """

    def __init__(self, router: TinyDancerRouter, store: str | os.PathLike[str] | None) -> None:
        self.router = router
        self._lock = threading.RLock()
        self._root = None if store is None else Path(store) / "router"
        self._folder: Path | None = None
        self._log: EventLog | None = None
        self._memory: deque[bytes] = deque(maxlen=MEMORY)
        self._base = b""
        self._fresh = 0
        self._pid = os.getpid()

    @classmethod
    def open(
        cls, router: TinyDancerRouter | None, default: Callable[[], TinyDancerRouter], store: str | os.PathLike[str] | None
    ) -> RouterJournal:
        """The journal of the first writer that no living process is; ``router`` begins it anew, None continues it."""
        self = cls(default() if router is None else router, store)
        self._claim(afresh=router is not None)
        return self

    def _claim(self, *, afresh: bool) -> None:
        self._pid = os.getpid()
        if self._root is None:
            self._base = self.router.to_bytes()
            return
        for number in range(1, WRITERS):
            folder = self._root / f"{number:04}"
            folder.mkdir(parents=True, exist_ok=True)
            try:
                self._log = EventLog(folder / "events")
            except StoreError as error:
                if BUSY not in str(error):
                    raise
                continue
            self._folder = folder
            break
        else:
            raise StoreError(f"{self._root}: more than {WRITERS - 1} writers")
        try:
            if (self._folder / "base").exists() and not afresh:
                self._restore()
            else:
                self._begin()
        except BaseException:
            self._log.close()
            raise

    def _begin(self) -> None:
        """The router as it is now is the base; what was learned before stays in it."""
        assert self._folder is not None
        if self._log is not None and self._log.next_seq > self._log.first_seq:
            self._rewrite([])
        self._base = self.router.to_bytes()
        self._write("base", self._base)

    def _restore(self) -> None:
        assert self._folder is not None
        assert self._log is not None
        self._base = (self._folder / "base").read_bytes()
        done, router = 0, None
        path = self._folder / "checkpoint"
        if path.exists():
            data = path.read_bytes()
            try:
                done, router = int.from_bytes(data[:8], "little"), TinyDancerRouter.from_bytes(data[8:])
            except CorruptStateError:
                done = 0
        if router is None or done > self._log.next_seq:
            done, router = 0, TinyDancerRouter.from_bytes(self._base)
        self.router = router
        _replay(self.router, (_unpack(p) for seq, p in self._log.replay(done)))

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

        The router is then the base with the other events replayed. What was spent stays spent.
        """
        with self._lock:
            self._own()
            decisions = _decisions_of(self._payloads(), user)
            before = self._records()
            if decisions:
                # No number is given out twice: a late outcome of a forgotten decision finds nothing.
                mark = _pack({"kind": "next", "id": self.router._core.next_id}, np.empty(0, np.float32))
                if self._folder is not None:
                    # First: a process killed in between must not find a checkpoint that knows more than the log.
                    (self._folder / "checkpoint").unlink(missing_ok=True)
                self._rewrite(chain(_without(self._payloads(), decisions), [mark]))
                rebuilt = TinyDancerRouter.from_bytes(self._base)
                _replay(rebuilt, map(_unpack, self._payloads()))
                rebuilt._core.succeed(self.router._core)
                self.router._take(rebuilt)
                self.checkpoint()
                before += 1
            return before - self._records() + self._forget_of_the_dead(user)

    def _forget_of_the_dead(self, user: str) -> int:
        removed = 0
        for folder in sorted(self._root.iterdir()) if self._root is not None and self._root.exists() else []:
            if folder == self._folder or not (folder / "events").exists():
                continue
            other = RouterJournal(self.router, None)
            try:
                other._log = EventLog(folder / "events")
            except StoreError as error:
                if BUSY not in str(error):
                    raise
                continue
            other._folder = folder
            before = other._records()
            if decisions := _decisions_of(other._payloads(), user):
                (folder / "checkpoint").unlink(missing_ok=True)
                # Its next decision gets a number above all that it gave out.
                last = max(head["id"] for head, _ in map(_unpack, other._payloads()) if "id" in head)
                mark = _pack({"kind": "next", "id": last + 1}, np.empty(0, np.float32))
                other._rewrite(chain(_without(other._payloads(), decisions), [mark]))
                before += 1
            removed += before - other._records()
            other._log.close()
        return removed

    def checkpoint(self) -> None:
        """Write the router beside its log, so that the next opening need not replay it."""
        if self._folder is None or self._log is None or self._log.closed or self._pid != os.getpid():
            return
        self._write("checkpoint", self._log.next_seq.to_bytes(8, "little") + self.router.to_bytes())
        self._fresh = 0

    def close(self) -> None:
        """Checkpoint and give up the log."""
        with self._lock:
            if self._log is not None and self._pid == os.getpid() and not self._log.closed:
                self.checkpoint()
                self._log.close()

    def _own(self) -> None:
        """In a forked child: go on as a writer of its own, from the router as the fork left it."""
        if self._pid != os.getpid():
            self._log, self._folder = None, None
            self._claim(afresh=True)

    def _append(self, head: dict[str, Any], x: Vector) -> None:
        payload = _pack(head, x)
        if self._log is None:
            self._memory.append(payload)
            return
        self._log.append(payload)
        self._fresh += 1
        if self._fresh >= CHECKPOINT_EVERY:
            self.checkpoint()

    def _payloads(self) -> Iterator[bytes]:
        if self._log is None:
            return iter(list(self._memory))
        return (p for _, p in self._log.replay(self._log.first_seq))

    def _records(self) -> int:
        return len(self._memory) if self._log is None else self._log.next_seq - self._log.first_seq

    def _rewrite(self, kept: Iterable[bytes]) -> None:
        if self._log is None or self._folder is None:
            self._memory = deque(kept, maxlen=MEMORY)
            return
        path, fresh = self._folder / "events", self._folder / "events.new"
        fresh.unlink(missing_ok=True)
        with EventLog(fresh, fsync="none") as log:
            for payload in kept:
                log.append(payload)
            log.flush()
        self._log.close()
        os.replace(fresh, path)
        _sync(self._folder)
        self._log = EventLog(path)
        (self._folder / "events.new.lock").unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        """Whole or not at all."""
        assert self._folder is not None
        fresh = self._folder / f"{name}.new"
        with open(fresh, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        os.replace(fresh, self._folder / name)
        _sync(self._folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _decisions_of(payloads: Iterable[bytes], user: str) -> set[int]:
    heads = (head for head, _ in map(_unpack, payloads))
    return {head["id"] for head in heads if head["kind"] == "decision" and head["user"] == user}


def _without(payloads: Iterable[bytes], decisions: set[int]) -> Iterator[bytes]:
    """The records that are neither of these decisions nor their outcomes."""
    for payload in payloads:
        head, _ = _unpack(payload)
        if head["kind"] not in ("decision", "outcome") or head["id"] not in decisions:
            yield payload


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
