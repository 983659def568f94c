"""A small world for the fault tests: documents, users, and an engine that can be driven by number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sona import SonaConfig, SonaEngine

DIM = 8
DOCS = 12


class World:
    """Requests and outcomes that depend on a number alone, so that two runs are alike."""

    config = SonaConfig(hidden_dim=DIM, user_cap_per_minute=0)
    scopes = ("acme", "globex", "default")

    def __init__(self) -> None:
        self.ids = [f"doc-{i}" for i in range(DOCS)]
        rng = np.random.default_rng(0)
        self.docs = rng.normal(size=(DOCS, DIM)).astype(np.float32)
        self.queries = rng.normal(size=(64, DIM)).astype(np.float32)

    def query(self, n: int) -> np.ndarray:
        return self.queries[n % len(self.queries)]

    def step(
        self, engine: SonaEngine, n: int, *, scope: str | None = None, user: str | None = None, traces: bool = True
    ) -> tuple[str, str]:
        """Rank and give feedback, now and then with a trace; the decision's id and what was chosen."""
        scope = scope or self.scopes[n % len(self.scopes)]
        user = user or f"user-{n % 5}"
        decision = engine.rank(self.query(n), self.ids, self.docs, scope=scope, k=5, user=user, now=1e6 + n)
        assert decision.id is not None
        chosen = self.ids[(n * 7) % DOCS]
        assert self.judge(engine, decision.id, chosen, n, user)
        if traces and n % 4 == 0:
            self.trace(engine, n, scope=scope, user=user)
        return decision.id, chosen

    def trace(self, engine: SonaEngine, n: int, *, scope: str, user: str, source: str = "") -> bool:
        """A request of another kind: two steps and a quality."""
        with engine.trace(self.query(n), scope=scope, user=user, source=source, now=1e6 + n) as t:
            t.step(self.docs[n % DOCS], [1.0], reward=0.8)
            t.step(self.docs[(n + 1) % DOCS], [0.5], reward=0.1)
            return t.finish(quality=(n % 10) / 10)

    def judge(self, engine: SonaEngine, decision: str, chosen: str, n: int, user: str) -> bool:
        return engine.feedback(decision, chosen=chosen, source="click", user=user, now=1e6 + n)

    def digests(self, engine: SonaEngine) -> dict[str, str]:
        return {s: engine.digest(s) for s in self.scopes}

    def open(self, path: Path, **changes: object) -> SonaEngine:
        return SonaEngine(self.config.replace(**changes), store=path)


@pytest.fixture(scope="session")
def world() -> World:
    return World()


@pytest.fixture
def engine(world: World, tmp_path: Path) -> Iterator[SonaEngine]:
    with world.open(tmp_path / "state") as engine:
        yield engine


def setting(name: str, default: int) -> int:
    return int(os.environ.get(name, str(default)))


def state_files(directory: Path) -> list[Path]:
    """Every file of a state directory that holds bytes."""
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.stat().st_size)


def killed(code: str, arguments: list[str], seconds: float) -> list[list[str]]:
    """Runs `code` in a process of its own, kills it `seconds` after it said "ready", and returns what it said, by words."""
    child = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n", "the state does not load"
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    lines = child.stdout.read().decode().splitlines()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL
    return [line.split() for line in lines]
