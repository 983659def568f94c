"""The background thread of an engine: one learning cycle per interval, never on a caller's thread."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sona.engine import SonaEngine

__all__ = ["BackgroundThread", "LearningResult", "ScopeLearning", "take_second_place"]

#: Niceness of threads that learn: a request that wants a processor gets it at once.
SECOND_PLACE = 10


@dataclass(frozen=True)
class ScopeLearning:
    """What a background cycle did in one scope.

    ``accepted`` tells whether the slow adapter was published: only with a sure gain (95 % interval above zero) in DCG on clicks
    that it was not trained on, with the cases about the clicked item taken out.
    """

    scope: str
    trajectories: int
    patterns: int
    trained_on: int
    accepted: bool
    reason: str
    gain: float
    low: float
    high: float
    elapsed_s: float


@dataclass(frozen=True)
class LearningResult:
    """What ``background_learn`` did, over all scopes."""

    trajectories_processed: int
    patterns_extracted: int
    elapsed_s: float
    status: str
    scopes: tuple[ScopeLearning, ...]

    @classmethod
    def of(cls, scopes: tuple[ScopeLearning, ...]) -> LearningResult:
        """Sum up; the status is "waiting" where nothing was there to learn from."""
        return cls(
            trajectories_processed=sum(s.trajectories for s in scopes),
            patterns_extracted=sum(s.patterns for s in scopes),
            elapsed_s=sum(s.elapsed_s for s in scopes),
            status="done" if any(s.trajectories for s in scopes) else "waiting",
            scopes=scopes,
        )


def take_second_place() -> None:
    """Let other threads go before the calling one, where a thread can have a priority of its own (Linux)."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, max(SECOND_PLACE, os.getpriority(os.PRIO_PROCESS, thread)))


class BackgroundThread:
    """Runs ``engine.background_learn()`` every ``interval_s`` seconds until stopped or the engine is gone.

    Nothing runs before ``start``; a forked child starts without it. An error in a cycle is logged and counted, and the next
    cycle is tried.
    """

    def __init__(self, engine: SonaEngine, interval_s: float) -> None:
        self._engine = weakref.ref(engine)
        self._interval_s = interval_s
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._pid = 0
        self.cycles = 0
        self.failures = 0

    @property
    def running(self) -> bool:
        """True while the thread lives in this process."""
        return self._thread is not None and self._pid == os.getpid() and self._thread.is_alive()

    def start(self) -> None:
        """Start; a thread that runs already is left alone."""
        if self.running:
            return
        self._wake = threading.Event()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, args=(self._wake,), name="sona-background", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> None:
        """Let the cycle in progress end, then stop."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pid == os.getpid():
            self._wake.set()
            if thread is not threading.current_thread():
                thread.join(timeout_s)

    def _run(self, wake: threading.Event) -> None:
        take_second_place()
        while not wake.wait(self._interval_s):
            engine = self._engine()
            if engine is None or engine.closed:
                return
            try:
                engine.background_learn()
                self.cycles += 1
            except (OSError, ValueError, RuntimeError):
                self.failures += 1
                import logging  # not at import

                logging.getLogger("sona").exception("background cycle failed")
            del engine
