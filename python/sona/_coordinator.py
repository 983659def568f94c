"""Who runs the loops, and when. Public as ``sona.loops.LoopCoordinator``."""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Protocol

from sona.background import take_second_place

if TYPE_CHECKING:
    from sona.loops import BackgroundLoop, InstantLoop

__all__ = ["Circadian", "LoopCoordinator"]

_LOG = logging.getLogger("sona")

#: Seconds between two deep cycles.
DEEP_INTERVAL_S = 7 * 86_400.0
#: Seconds between two deep cycles at the least, when a circadian controller says that now is a good time.
DEEP_REST_S = 86_400.0
#: A cycle is put off by the circadian controller for this many of its intervals at the most.
MAX_DEFERRAL = 2.0
#: Shortest time between two looks of the thread.
MIN_POLL_S = 0.01


class Circadian(Protocol):
    """What a coordinator asks about the time of day."""

    def should_learn(self, now: float) -> bool:
        """Tell whether background cycles are welcome at ``now`` (seconds)."""

    def should_consolidate(self, now: float) -> bool:
        """Tell whether deep cycles are welcome at ``now`` (seconds)."""


class _Deep(Protocol):
    def run_cycle(self) -> Any: ...


class LoopCoordinator:
    """Runs the three loops at their times: on a thread of its own after :meth:`start`, or in :meth:`tick` on yours.

    - *instant*: flushes what waits longer than ``flush_ms``.
    - *background*: gets what the instant loop has buffered, and runs when ``min_trajectories`` have come or
      ``extraction_interval_s`` has passed, and again at once after a cycle that ran out of time.
    - *deep*: every seven days; with a ``circadian`` controller once a day when it says that now is a good time.

    No thread runs before :meth:`start`. An error in a loop is logged and counted, and the others go on. A forked child starts
    without a thread and with free locks. At interpreter exit the thread is stopped. Safe to share between threads.

    Parameters
    ----------
    instant : InstantLoop, optional
    background : BackgroundLoop, optional
    deep : DeepLoop, optional
        Any object with ``run_cycle()``.
    circadian : object, optional
        With ``should_learn(now)`` and ``should_consolidate(now)``, both bool. It puts cycles off, but never for longer than
        two of their intervals.

    Examples
    --------
    >>> from sona.loops import BackgroundLoop, BackgroundLoopConfig, InstantLoop, LoopCoordinator
    >>> from sona.trajectory import QueryTrajectory, TrajectoryStep
    >>> instant = InstantLoop(4)
    >>> loops = LoopCoordinator(instant, BackgroundLoop(BackgroundLoopConfig(min_trajectories=2), 4), None)
    >>> for i in range(2):
    ...     instant.on_inference(QueryTrajectory(i, [1, 0, 0, i], (TrajectoryStep([0, 1, 0, 0], [], 0.9),), 0.9), now=0.0)
    >>> loops.tick(now=1.0)
    ['instant', 'background']
    >>> loops.running
    False
    """

    def __init__(
        self,
        instant: InstantLoop | None,
        background: BackgroundLoop | None,
        deep: _Deep | None = None,
        *,
        circadian: Circadian | None = None,
    ) -> None:
        self.instant, self.background, self.deep, self.circadian = instant, background, deep, circadian
        self._busy = threading.RLock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._paused = False
        self._interrupt = False
        self._last: dict[str, float] = {}
        self._counts = dict.fromkeys(("ticks", "instant", "background", "deep", "deferred", "failures"), 0)
        _COORDINATORS.add(self)

    @property
    def running(self) -> bool:
        """True while a thread of this process runs the loops and is not paused."""
        return self._thread is not None and self._thread.is_alive() and not self._paused

    def start(self) -> None:
        """Start the thread; one that runs already is left alone, a pause ends."""
        self._paused = self._interrupt = False
        if self._thread is not None and self._thread.is_alive():
            return
        self._wake = threading.Event()
        poll = MIN_POLL_S if self.instant is None else max(MIN_POLL_S, self.instant.config.flush_ms / 1e3)
        self._thread = threading.Thread(target=_run, args=(weakref.ref(self), self._wake, poll), name="sona-loops", daemon=True)
        self._thread.start()

    def pause(self) -> None:
        """Run nothing until :meth:`resume`; a background cycle in progress stops at its next minibatch."""
        self._paused = self._interrupt = True

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._paused = self._interrupt = False

    def tick(self, now: float | None = None) -> list[str]:
        """Run on this thread what is due.

        Parameters
        ----------
        now : float, optional
            Seconds; default ``time.time()``.

        Returns
        -------
        list of str
            The loops that ran, of "instant", "background", "deep"; empty while paused.
        """
        now = time.time() if now is None else now
        ran: list[str] = []
        if self._paused:
            return ran
        with self._busy:
            self._counts["ticks"] += 1
            for name, due, run in (
                ("instant", self._instant_due, self._run_instant),
                ("background", self._background_due, self._run_background),
                ("deep", self._deep_due, self._run_deep),
            ):
                self._last.setdefault(name, now)
                if due(now) and self._guarded(name, run, now):
                    self._last[name] = now
                    self._counts[name] += 1
                    ran.append(name)
        return ran

    def drain(self, timeout_s: float = 10.0) -> bool:
        """Take in everything that waits, on this thread, whatever the intervals and a pause say.

        Parameters
        ----------
        timeout_s : float, default 10.0

        Returns
        -------
        bool
            True if nothing waits any more but what the background loop keeps as too little for a cycle.
        """
        end = time.monotonic() + timeout_s
        if not self._busy.acquire(timeout=max(0.0, timeout_s)):
            return False
        try:
            now = time.time()
            if self.instant is not None:
                self._guarded("instant", self._run_instant, now)
            if self.background is None:
                return True
            while time.monotonic() < end:
                left = max(0.0, end - time.monotonic())
                given = [] if self.instant is None else self.instant.drain_trajectories()
                result = self.background.run_cycle(given, deadline_s=left, now=now)
                if result.status != "partial":
                    return self.instant is None or self.instant.buffered == 0
            return False
        finally:
            self._busy.release()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop the thread; a background cycle in progress ends at its next minibatch and is gone on with after a start."""
        self._interrupt = True
        thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)
        self._interrupt = self._paused

    def metrics(self) -> dict[str, int | float]:
        """Counters: ticks, runs of each loop, cycles put off by the circadian controller, failures."""
        return dict(self._counts)

    def _guarded(self, name: str, run: Any, now: float) -> bool:
        try:
            return bool(run(now))
        except Exception:  # noqa: BLE001 - whatever a loop or a user's callable raises, the others go on
            self._counts["failures"] += 1
            self._last[name] = now
            _LOG.exception("%s loop failed", name)
            return False

    def _instant_due(self, now: float) -> bool:
        return self.instant is not None and self.instant.waiting

    def _run_instant(self, now: float) -> bool:
        assert self.instant is not None
        self.instant.flush_updates(now=now)
        return True

    def _welcome(self, kind: str, now: float, interval: float) -> bool:
        if self.circadian is None or now - self._last[kind] >= MAX_DEFERRAL * interval:
            return True
        asked = self.circadian.should_learn if kind == "background" else self.circadian.should_consolidate
        welcome = bool(asked(now))
        self._counts["deferred"] += not welcome
        return welcome

    def _background_due(self, now: float) -> bool:
        loop = self.background
        if loop is None:
            return False
        waiting = loop.pending + (0 if self.instant is None else self.instant.buffered)
        elapsed = now - self._last["background"]
        due = loop.unfinished or waiting >= loop.config.min_trajectories or elapsed >= loop.config.extraction_interval_s
        return due and self._welcome("background", now, loop.config.extraction_interval_s)

    def _run_background(self, now: float) -> bool:
        assert self.background is not None
        given = [] if self.instant is None else self.instant.drain_trajectories()
        self.background.run_cycle(given, should_stop=lambda: self._interrupt, now=now)
        return True

    def _deep_due(self, now: float) -> bool:
        if self.deep is None:
            return False
        elapsed = now - self._last["deep"]
        if self.circadian is None:
            return elapsed >= DEEP_INTERVAL_S
        return elapsed >= DEEP_REST_S and self._welcome("deep", now, DEEP_INTERVAL_S)

    def _run_deep(self, now: float) -> bool:
        assert self.deep is not None
        self.deep.run_cycle()
        return True

    def _before_fork(self) -> None:
        # The cycle in progress ends at its next minibatch, so that the child finds every lock free.
        self._interrupt = True
        self._busy.acquire()

    def _after_fork_in_parent(self) -> None:
        self._interrupt = self._paused
        self._busy.release()

    def _after_fork_in_child(self) -> None:
        self._busy = threading.RLock()
        self._wake = threading.Event()
        self._thread = None
        self._paused = self._interrupt = False

    def __repr__(self) -> str:
        return f"LoopCoordinator(running={self.running}, ticks={self._counts['ticks']})"


_COORDINATORS: weakref.WeakSet[LoopCoordinator] = weakref.WeakSet()


def _run(owner: weakref.ref[LoopCoordinator], wake: threading.Event, poll: float) -> None:
    take_second_place()
    while not wake.wait(poll):
        coordinator = owner()
        if coordinator is None:
            return
        coordinator.tick()
        del coordinator


def _each(method: str) -> None:
    for coordinator in list(_COORDINATORS):
        getattr(coordinator, method)()


atexit.register(_each, "stop")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _each("_before_fork"),
        after_in_parent=lambda: _each("_after_fork_in_parent"),
        after_in_child=lambda: _each("_after_fork_in_child"),
    )
