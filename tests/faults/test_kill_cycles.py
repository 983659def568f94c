"""kill -9 in the middle of background cycles: nothing acknowledged is lost, and the log alone gives the same bits."""

from __future__ import annotations

import random
import shutil

import pytest

from .conftest import killed, setting

KILLS = setting("SONA_KILLS", 15)

# Cycles run without a pause on one thread; the other feeds and traces. Every line is written after the call has returned, but
# for "begin".
CHILD = """
import os, sys, threading
sys.path.insert(0, sys.argv[4])
from conftest import World
world = World()
engine = world.open(sys.argv[1], fsync=sys.argv[3])
say = lambda *words: os.write(1, (" ".join(map(str, words)) + "\\n").encode())
say("ready")
n = int(sys.argv[2])

def cycles():
    while True:
        say("begin")
        engine.background_learn(scope="acme", now=1e6)
        say("end")

threading.Thread(target=cycles, daemon=True).start()
while True:
    n += 1
    if n % 50 == 0:
        engine.checkpoint()
    decision, chosen = world.step(engine, n, scope="acme", user=f"user-{n}", traces=False)
    say("fed", decision, chosen, n)
    world.trace(engine, n, scope="acme", user=f"tracer-{n}")
    say("traced", n)
"""


@pytest.mark.slow
@pytest.mark.timeout(120 + 20 * KILLS)
def test_no_acknowledged_outcome_is_lost_when_a_cycle_is_killed(world, tmp_path, request):
    directory = tmp_path / "state"
    rng = random.Random(1)
    fed: dict[str, tuple[str, int]] = {}
    traced: list[int] = []
    within = steps = 0
    for kill in range(KILLS):
        fsync = ("group", "none", "always")[kill % 3]
        arguments = [str(directory), str(steps), fsync, str(request.path.parent)]
        lines = killed(CHILD, arguments, rng.random() * 0.2)
        running = False
        for line in lines:
            match line:
                case ["fed", decision, chosen, n]:
                    fed[decision] = (chosen, int(n))
                    steps = int(n)
                case ["traced", n]:
                    traced.append(int(n))
                case [word]:
                    running = word == "begin"
        within += running
        steps += 10
        if kill % 5 == 4:
            with world.open(directory) as engine:
                with_snapshot = world.digests(engine)
            shutil.rmtree(directory / "snapshots")
            with world.open(directory) as engine:
                assert world.digests(engine) == with_snapshot, f"kill {kill}"
    assert within > KILLS // 3, "hardly a kill fell into a cycle"
    with world.open(directory) as engine:
        before = world.digests(engine)
        for decision, (chosen, n) in fed.items():
            assert not world.judge(engine, decision, chosen, n, f"user-{n}"), f"{decision} was lost"
        assert world.digests(engine) == before
        for n in rng.sample(traced, min(5, len(traced))):
            assert engine.forget(user=f"tracer-{n}").events == 1, f"trace {n} was lost"
