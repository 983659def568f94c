"""Loop B and the coordinator: what is kept, deadlines, state; when what runs, threads, fork, interpreter exit."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch
from sona.loops import BackgroundLoop, BackgroundLoopConfig, DeepLoop, InstantLoop, InstantLoopConfig, LoopCoordinator
from sona.patterns import Verdict
from sona.trajectory import QueryTrajectory, TrajectoryStep

D = 16


def requests(n, seed=0, quality=0.9, reward=0.9, rotate=1):
    """Requests whose answer is a fixed rotation of the query."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(n):
        q = rng.normal(size=D)
        out.append(QueryTrajectory(i, q, (TrajectoryStep(np.roll(q, rotate), [], reward),), quality))
    return out


def loop_of(**kwargs):
    return BackgroundLoop(BackgroundLoopConfig(**{"min_trajectories": 20, "base_lora_lr": 0.01, **kwargs}), D)


def test_too_few_wait_and_nothing_is_lost():
    loop = loop_of(min_trajectories=50)
    first = loop.run_cycle(requests(30))
    assert (first.status, first.trajectories_processed, first.patterns_extracted, loop.pending) == ("waiting", 0, 0, 30)
    assert loop.run_cycle([]).status == "waiting"
    second = loop.run_cycle(requests(20, 1))
    assert (second.status, second.trajectories_processed, loop.pending) == ("done", 50, 0)
    assert loop.reasoning_bank.trajectory_count == 50
    assert loop.run_cycle([]).status == "waiting"


def test_it_learns_the_map_and_patterns():
    loop = loop_of(min_trajectories=200)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, D)) * 3
    held = []
    for cycle in range(12):
        batch = []
        for i in range(200):
            k = i % 8
            q = centres[k] + rng.normal(size=D) * 0.2
            batch.append(QueryTrajectory(i, q, (TrajectoryStep(np.roll(centres[k], 3), [], 0.9),), 0.9))
        result = loop.run_cycle(batch)
        assert result.status == "done"
        held.append(float(np.mean([cosine(loop.base_lora.forward_layer(0, c), np.roll(c, 3)) for c in centres])))
        assert cycle >= 0
    assert held[-1] > held[0] + 0.2
    assert result.patterns_extracted == len(loop.reasoning_bank.patterns) >= 8
    assert loop.ewc.samples_seen > 0


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_bad_outcomes_are_judged_and_not_trained_towards():
    loop = loop_of()
    loop.run_cycle(requests(30, quality=0.1) + requests(30, reward=0.2) + [QueryTrajectory(0, np.ones(D), (), 1.0)])
    m = loop.metrics()
    assert (m["pairs"], m["without_pair"], m["base_steps"]) == (0, 61, 0)
    assert loop.reasoning_bank.trajectory_count == 61
    # The judge can be replaced.
    loop.reasoning_bank.judge_with(lambda t: Verdict.SUCCESS if t.final_quality < 0.5 else Verdict.FAILURE)
    loop.run_cycle(requests(20, quality=0.1) + requests(20, quality=1.0))
    assert loop.metrics()["pairs"] == 20


def test_a_deadline_stops_and_the_next_call_goes_on():
    whole, parts = loop_of(), loop_of()
    made = requests(600)
    full = whole.run_cycle(made, now=5.0)
    assert full.status == "done"
    results = [parts.run_cycle(made, deadline_s=0.0, now=5.0)]
    assert results[0].status == "partial"
    assert parts.unfinished
    for _ in range(200):
        results.append(parts.run_cycle([], deadline_s=0.0, now=5.0))
        if len(results) % 7 == 0:
            parts = BackgroundLoop.from_bytes(parts.to_bytes())
        if results[-1].status != "partial":
            break
    assert results[-1].status == "done"
    assert not parts.unfinished
    assert sum(r.trajectories_processed for r in results) == 600
    np.testing.assert_array_equal(parts.base_lora.factors(0)[1], whole.base_lora.factors(0)[1])
    assert parts.ewc.to_bytes() == whole.ewc.to_bytes()


def test_a_stop_ends_a_cycle_early():
    loop = loop_of()
    asked = []

    def stop():
        asked.append(1)
        return len(asked) == 3

    assert loop.run_cycle(requests(600), should_stop=stop).status == "partial"
    assert loop.run_cycle([]).status == "done"


def test_ewc_can_be_switched_off():
    off, on = loop_of(ewc_lambda=0.0), loop_of()
    for loop in (off, on):
        assert loop.run_cycle(requests(100)).status == "done"
    assert off.ewc.samples_seen == 0
    assert on.ewc.samples_seen > 0
    # Before the first boundary nothing is held, and both are the same.
    np.testing.assert_array_equal(off.base_lora.factors(0)[1], on.base_lora.factors(0)[1])


def test_save_load_continue_equals_never_stopping():
    a, b = loop_of(), loop_of()
    for cycle in range(4):
        for loop in (a, b):
            loop.run_cycle(requests(40 + cycle, cycle), now=float(cycle))
            loop.run_cycle(requests(5, 90 + cycle), now=float(cycle))
        b = pickle.loads(pickle.dumps(b)) if cycle == 2 else BackgroundLoop.from_bytes(b.to_bytes())  # noqa: S301
    assert a.pending == 5
    assert a.to_bytes() == b.to_bytes()
    assert a.metrics() == b.metrics()


def test_bad_input():
    loop = loop_of()
    with pytest.raises(DimensionMismatch):
        loop.run_cycle([*requests(30), QueryTrajectory(0, [1.0], (), 0.5)])
    assert loop.pending == 0
    for bad in ({"min_trajectories": 0}, {"base_lora_lr": -1.0}, {"ewc_lambda": np.nan}, {"deadline_s": -1.0}):
        with pytest.raises(ConfigError):
            BackgroundLoopConfig(**bad)
    with pytest.raises(ConfigError):
        BackgroundLoop(BackgroundLoopConfig(), 0)
    data = loop.to_bytes()
    for bad in (b"", data[:-1], data[:20], data + b"x", b"\xff" * 64, data.replace(b'"open": false', b'"open": 12345')[:-1]):
        with pytest.raises(CorruptStateError):
            BackgroundLoop.from_bytes(bad)
    assert repr(loop) == "BackgroundLoop(hidden_dim=16, pending=0, patterns=0)"


def test_readers_do_not_wait_for_a_cycle():
    loop = loop_of()
    stop, seen, failures = threading.Event(), [], []

    def read():
        x = np.ones(D, np.float32)
        try:
            while not stop.is_set():
                seen.append(loop.base_lora.forward_layer(0, x))
                loop.reasoning_bank.find_patterns(x)
                loop.metrics()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for t in threads:
        t.start()
    for seed in range(3):
        loop.run_cycle(requests(300, seed))
    stop.set()
    for t in threads:
        t.join(30)
        assert not t.is_alive()
    assert not failures
    assert seen


class Deep:
    def __init__(self):
        self.runs = 0

    def run_cycle(self):
        self.runs += 1


class Circadian:
    def __init__(self):
        self.learn = self.consolidate = False

    def should_learn(self, now):
        return self.learn

    def should_consolidate(self, now):
        return self.consolidate


def three(**kwargs):
    instant = InstantLoop(D, InstantLoopConfig(flush_every=1000, flush_ms=1e9))
    return LoopCoordinator(instant, loop_of(), Deep(), **kwargs)


def feed(loops, n, seed=0):
    for t in requests(n, seed):
        loops.instant.on_inference(t, now=0.0)


def test_ticks_run_what_is_due():
    loops = three()
    assert loops.tick(now=0.0) == []
    feed(loops, 5)
    assert loops.tick(now=1.0) == ["instant"]
    assert loops.instant.buffered == 5
    feed(loops, 15, 1)
    assert loops.tick(now=2.0) == ["instant", "background"]
    assert loops.instant.buffered == loops.background.pending == 0
    feed(loops, 3)
    assert loops.tick(now=3.0) == ["instant"]
    assert loops.tick(now=3601.0) == []
    assert loops.tick(now=3602.0) == ["background"]
    assert loops.background.pending == 3
    assert loops.tick(now=7 * 86_400.0) == ["background", "deep"]
    assert loops.deep.runs == 1
    assert loops.metrics()["background"] == 3


def test_the_deep_loop_runs_weekly():
    loops = LoopCoordinator(None, None, DeepLoop())
    assert loops.tick(now=0.0) == loops.tick(now=6 * 86_400.0) == []
    assert loops.tick(now=7 * 86_400.0) == ["deep"]
    assert loops.metrics()["failures"] == 0


def test_an_unfinished_cycle_is_due_at_once():
    loops = three()
    loops.background.run_cycle(requests(600), deadline_s=0.0)
    assert loops.background.unfinished
    assert loops.tick(now=0.0) == ["background"]
    assert not loops.background.unfinished


def test_circadian_puts_off_but_not_for_ever():
    rhythm = Circadian()
    loops = three(circadian=rhythm)
    loops.tick(now=0.0)
    feed(loops, 30)
    assert loops.tick(now=10.0) == ["instant"]
    assert loops.metrics()["deferred"] == 1
    rhythm.learn = True
    assert loops.tick(now=20.0) == ["background"]
    rhythm.learn = False
    feed(loops, 30)
    assert loops.tick(now=30.0) == ["instant"]
    assert loops.tick(now=20.0 + 2 * 3600.0) == ["background"]
    rhythm.consolidate = True
    assert "deep" not in loops.tick(now=80_000.0)
    assert "deep" in loops.tick(now=86_400.0)
    rhythm.consolidate = False
    assert "deep" not in loops.tick(now=3 * 86_400.0)
    assert "deep" in loops.tick(now=16 * 86_400.0)


def test_an_error_in_one_loop_spares_the_others(caplog):
    loops = three()

    def broken(*args, **kwargs):
        raise RuntimeError("no")

    loops.background.run_cycle = broken
    loops.tick(now=0.0)
    feed(loops, 30)
    assert loops.tick(now=7 * 86_400.0) == ["instant", "deep"]
    assert loops.metrics()["failures"] == 1
    assert "background loop failed" in caplog.text


def test_pause_drain_resume():
    loops = three()
    feed(loops, 30)
    loops.pause()
    assert loops.tick(now=0.0) == []
    assert loops.drain()
    assert loops.instant.buffered == loops.background.pending == 0
    feed(loops, 7)
    assert loops.drain()
    assert loops.background.pending == 7
    loops.resume()
    feed(loops, 1)
    assert loops.tick(now=0.0) == ["instant"]
    feed(loops, 600)
    assert not loops.drain(timeout_s=0.0)


def wait_for(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_no_thread_before_start_and_none_after_stop():
    before = threading.active_count()
    loops = LoopCoordinator(InstantLoop(D), loop_of(), None)
    feed(loops, 30)
    assert threading.active_count() == before
    assert not loops.running
    loops.start()
    loops.start()
    assert loops.running
    assert threading.active_count() == before + 1
    wait_for(lambda: loops.background.metrics()["cycles"] == 1)
    loops.pause()
    assert not loops.running
    loops.resume()
    assert loops.running
    loops.stop()
    assert not loops.running
    assert threading.active_count() == before
    loops.stop()
    loops.start()
    assert loops.running
    loops.stop()


def test_the_thread_ends_with_its_coordinator():
    before = threading.active_count()
    loops = LoopCoordinator(InstantLoop(D), None)
    loops.start()
    assert threading.active_count() == before + 1
    del loops
    wait_for(lambda: threading.active_count() == before)


def run(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


SETUP = """
    import os, sys, time
    import numpy as np
    from sona.loops import BackgroundLoop, BackgroundLoopConfig, InstantLoop, LoopCoordinator
    from sona.trajectory import QueryTrajectory, TrajectoryStep
    rng = np.random.default_rng(0)
    instant = InstantLoop(16)
    loops = LoopCoordinator(instant, BackgroundLoop(BackgroundLoopConfig(min_trajectories=20), 16), None)
    def feed(n):
        for i in range(n):
            instant.on_inference(QueryTrajectory(i, rng.normal(size=16), (TrajectoryStep(rng.normal(size=16), [], 0.9),), 0.9))
"""


def test_a_running_coordinator_does_not_hold_up_the_interpreters_exit():
    start = time.monotonic()
    assert run(SETUP + "    loops.start(); feed(2000); time.sleep(0.1); print('end')") == "end\n"
    assert time.monotonic() - start < 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_starts_clean():
    out = run(
        SETUP
        + """
    loops.start()
    for round in range(5):
        feed(300)
        child = os.fork()
        if child == 0:
            ok = not loops.running
            feed(30)
            ok = ok and loops.drain(60) and 'background' not in loops.tick()
            loops.start()
            ok = ok and loops.running
            loops.stop()
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert loops.running
    loops.stop()
    print('clean')
    """
    )
    assert out == "clean\n"
