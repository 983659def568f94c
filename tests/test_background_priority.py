"""Threads that learn let requests go first."""

from __future__ import annotations

import os
import sys
import threading

import pytest

from sona import SonaConfig, SonaEngine
from sona.background import SECOND_PLACE, take_second_place
from sona.loops import InstantLoop, LoopCoordinator

linux = pytest.mark.skipif(sys.platform != "linux", reason="a thread has no priority of its own here")


def niceness(thread: threading.Thread) -> int:
    assert thread.native_id is not None
    return os.getpriority(os.PRIO_PROCESS, thread.native_id)


def thread_named(name: str) -> threading.Thread:
    return next(t for t in threading.enumerate() if t.name == name)


@linux
def test_only_the_thread_that_asks_steps_back():
    before = niceness(threading.main_thread())
    got: list[int] = []

    def steps_back() -> None:
        for _ in range(2):
            take_second_place()
            got.append(niceness(threading.current_thread()))

    thread = threading.Thread(target=steps_back)
    thread.start()
    thread.join()
    assert got == [max(before, SECOND_PLACE)] * 2
    assert niceness(threading.main_thread()) == before


@linux
def test_the_threads_of_engine_and_coordinator_step_back():
    before = niceness(threading.main_thread())
    engine = SonaEngine(SonaConfig(hidden_dim=4))
    loops = LoopCoordinator(InstantLoop(4), None)
    for name, owner in (("sona-background", engine), ("sona-loops", loops)):
        owner.start()
        thread = thread_named(name)
        for _ in range(2000):
            if niceness(thread) >= SECOND_PLACE:
                break
            threading.Event().wait(0.005)
        assert niceness(thread) >= SECOND_PLACE
        owner.pause()
    loops.stop()
    engine.close()
    assert niceness(threading.main_thread()) == before
