"""Fork as gunicorn does with --preload: the parent builds the engine, the children serve, all logs merge."""

from __future__ import annotations

import functools
import json
import os
import signal
import warnings

import pytest

from .conftest import World, state_files

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def fork(work) -> tuple[int, int]:
    """Run ``work(write)`` in a child; its id, and the end of a pipe to read what it said."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads: exactly what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            work(lambda *words: os.write(write, (json.dumps(words) + "\n").encode()))
            code = 0
        except BaseException as e:  # noqa: BLE001 - the parent judges
            os.write(write, (json.dumps(["raised", repr(e)]) + "\n").encode())
        finally:
            os._exit(code)
    os.close(write)
    return pid, read


def collect(children: list[tuple[int, int]], *, killed: bool = False) -> list[list]:
    said = []
    for pid, read in children:
        with os.fdopen(read) as pipe:
            lines = [json.loads(line) for line in pipe]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in ((0, -signal.SIGKILL) if killed else (0,)), lines[-1:]
        said += lines
    return said


def serve(world: World, engine, start: int, steps: int, say) -> None:
    for n in range(start, start + steps):
        user = f"user-{n}"
        decision, chosen = world.step(engine, n, user=user)
        say(decision, chosen, n, user)


def forked_servers(world: World, engine, starts, steps: int) -> list[tuple[int, int]]:
    return [fork(functools.partial(serve, world, engine, start, steps)) for start in starts]


@pytest.mark.parametrize("closes", [True, False])
def test_children_of_a_preloaded_engine_learn_and_all_logs_merge(world, tmp_path, closes):
    directory = tmp_path / "state"
    engine = world.open(directory)
    said: list[list] = []
    serve(world, engine, 0, 10, lambda *words: said.append(list(words)))

    def child(start: int):
        def work(say) -> None:
            before = world.digests(engine)
            assert before == inherited
            serve(world, engine, start, 25, say)
            assert world.digests(engine) != before
            if closes:
                engine.close()

        return work

    inherited = world.digests(engine)
    children = [fork(child(1000 * (c + 1))) for c in range(4)]
    serve(world, engine, 500, 25, lambda *words: said.append(list(words)))
    said += collect(children)
    assert len(said) == 10 + 5 * 25
    assert len({decision for decision, *_ in said}) == len(said), "a decision id was given twice"

    # The parent takes in what the children learned, and takes late feedback for their decisions as its own.
    assert engine.refresh() > 0
    decision, chosen, n, user = said[-1]
    assert not world.judge(engine, decision, chosen, n, user)
    assert world.judge(engine, decision, world.ids[0], n, "somebody else")
    engine.close()
    with world.open(directory) as engine:
        for decision, chosen, n, user in said:
            assert not world.judge(engine, decision, chosen, n, user), f"{decision} was lost"
    assert len([p for p in state_files(directory) if p.suffix == ".log"]) <= 5


def test_killed_children_lose_nothing_they_acknowledged(world, tmp_path):
    directory = tmp_path / "state"
    said: list[list] = []
    for attempt in range(4):
        base = 10_000 * attempt
        engine = world.open(directory)
        children = forked_servers(world, engine, (base, base + 1000), 500)
        for n in range(base + 5000, base + 5020):
            said.append([*world.step(engine, n, user="parent"), n, "parent"])
        for pid, _ in children:
            os.kill(pid, signal.SIGKILL)
        said += collect(children, killed=True)
        engine.close()
    with world.open(directory) as engine:
        for decision, chosen, n, user in said:
            assert not world.judge(engine, decision, chosen, n, user), f"{decision} was lost"
    assert len({decision for decision, *_ in said}) == len(said)


def test_an_engine_in_memory_forks_into_independent_copies(world):
    from sona import SonaEngine

    engine = SonaEngine(world.config)
    serve(world, engine, 0, 5, lambda *_: None)
    before = world.digests(engine)
    said = collect(forked_servers(world, engine, (100, 200), 10))
    assert len({decision for decision, *_ in said}) == 20
    assert world.digests(engine) == before


def test_fork_while_other_threads_learn(world, tmp_path):
    import threading

    engine = world.open(tmp_path / "state", fsync="none")
    stop = threading.Event()

    def learn(worker: int) -> None:
        n = worker * 100_000
        while not stop.is_set():
            n += 1
            world.step(engine, n)

    threads = [threading.Thread(target=learn, args=(w,)) for w in range(3)]
    for t in threads:
        t.start()
    try:
        for round in range(5):
            children = forked_servers(world, engine, (10**6 * (round + 1), 10**6 * (round + 1) + 1000), 5)
            assert len(collect(children)) == 10
    finally:
        stop.set()
        for t in threads:
            t.join(60)
    assert not any(t.is_alive() for t in threads)
    engine.close()
