"""kill -9 while learning, forgetting and saving: no acknowledged feedback is lost, and the state loads."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from .conftest import killed, setting, state_files

KILLS = setting("SONA_KILLS", 20)

# Every line is written to the parent after the call that it acknowledges has returned.
CHILD = """
import os, random, sys
sys.path.insert(0, sys.argv[4])
from conftest import World
world = World()
directory, start, fsync = sys.argv[1], int(sys.argv[2]), sys.argv[3]
rng = random.Random(start)
engine = world.open(directory, fsync=fsync)
say = lambda *words: os.write(1, (" ".join(map(str, words)) + "\\n").encode())
say("ready")
n = start
while True:
    n += 1
    draw = rng.random()
    if draw < 0.03:
        engine.checkpoint()
    elif draw > 0.98:
        engine.background_learn()
    elif draw < 0.05:
        say("forgetting", f"user-{n}")
        engine.forget(user=f"user-{n}")
    elif draw < 0.06:
        engine.rollback(max(0, engine.version - 20), scope="globex" if "globex" in engine.scopes else None)
    user = f"user-{n + (5 if rng.random() < 0.3 else 0)}"
    decision, chosen = world.step(engine, n, user=user)
    say("fed", decision, chosen, n, user)
    ranked = engine.rank(world.query(n), world.ids, world.docs, scope="acme", k=3, user=user, now=1e6 + n)
    say("ranked", ranked.id, user)
"""


@pytest.mark.slow
@pytest.mark.timeout(120 + 10 * KILLS)
def test_no_acknowledged_feedback_is_lost_in_many_kills(world, tmp_path, request):
    directory = tmp_path / "state"
    rng = random.Random(0)
    fed: dict[str, tuple[str, int, str]] = {}
    ranked: dict[str, str] = {}
    forgotten: set[str] = set()
    steps = 0
    for kill in range(KILLS):
        fsync = ("group", "none", "always")[kill % 3]
        arguments = [str(directory), str(steps), fsync, str(request.path.parent)]
        lines = killed(CHILD, arguments, rng.random() * 0.2)
        for line in lines:
            match line:
                case ["fed", decision, chosen, n, user]:
                    fed[decision] = (chosen, int(n), user)
                    steps = int(n)
                case ["ranked", decision, user]:
                    ranked[decision] = user
                case ["forgetting", user]:
                    # Begun, and perhaps not ended: what they gave may be gone or not.
                    forgotten.add(user)
        steps += 10
        if kill % 5 == 4:
            # The snapshot only saves time: without it the log gives the same bits.
            with world.open(directory) as engine:
                with_snapshot = world.digests(engine)
            shutil.rmtree(directory / "snapshots")
            with world.open(directory) as engine:
                assert world.digests(engine) == with_snapshot, f"kill {kill}, after {lines[-3:]}"
    assert len(fed) > KILLS
    with world.open(directory) as engine:
        before = world.digests(engine)
        for decision, (chosen, n, user) in fed.items():
            if user not in forgotten:
                assert not world.judge(engine, decision, chosen, n, user), f"{decision} was lost"
        assert world.digests(engine) == before
        for decision in [d for d, user in ranked.items() if user not in forgotten][-20:]:
            assert len(engine.explain(decision).items) == 3
        assert len({*fed, *ranked}) == len(fed) + len(ranked), "a decision id was given twice"


def test_a_forget_that_was_killed_and_repeated_leaves_nothing(world, tmp_path, request):
    child = """
import sys
sys.path.insert(0, sys.argv[2])
from conftest import World
world = World()
engine = world.open(sys.argv[1])
print("ready", flush=True)
engine.forget(user="somebody-special")
print("done", flush=True)
sys.stdin.read()
"""
    directory, copy = tmp_path / "state", tmp_path / "copy"
    delay = 0.0
    for attempt in range(12):
        with world.open(directory) as engine:
            for n in range(30):
                world.step(engine, attempt * 100 + n, user="somebody-special" if n % 2 else "other")
            engine.checkpoint()
        process = subprocess.Popen(
            [sys.executable, "-c", child, str(directory), str(request.path.parent)],
            stdout=subprocess.PIPE,
            stdin=subprocess.PIPE,
        )
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        time.sleep(delay)
        delay += 0.0015
        process.send_signal(signal.SIGKILL)
        process.communicate()
        shutil.copytree(directory, copy)
        with world.open(copy) as engine:
            with_snapshot = world.digests(engine)
        shutil.rmtree(copy / "snapshots")
        with world.open(copy) as engine:
            assert world.digests(engine) == with_snapshot, f"attempt {attempt}: the snapshot knows more than the log"
        shutil.rmtree(copy)
        with world.open(directory) as engine:
            engine.forget(user="somebody-special")
        for path in state_files(directory):
            assert b"somebody-special" not in path.read_bytes(), f"attempt {attempt}: {path.name}"
