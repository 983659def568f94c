"""Ways of learning a sequence of tasks, for ``sona bench forgetting``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sona.config import SonaConfig
from sona.continual import EwcConfig, EwcPlusPlus, PriorityReplayBuffer
from sona.engine import SonaEngine
from sona.lora import BaseLoRA

__all__ = ["ARMS", "Learner", "Settings", "Task"]

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """Requests with the item that each wants, and held-out requests to judge by.

    ``candidates`` holds the positions of the items that each held-out request is ranked against; None: all.
    """

    name: str
    items: Vectors
    train: Vectors
    train_target: NDArray[np.int64]
    test: Vectors
    test_relevant: tuple[tuple[int, ...], ...]
    anchors: Vectors
    anchor_target: NDArray[np.int64]
    candidates: NDArray[np.int64] | None
    metric: str

    def pool(self, i: int) -> NDArray[np.int64]:
        """Positions of the items that held-out request ``i`` is ranked against."""
        return np.arange(len(self.items)) if self.candidates is None else self.candidates[i]


@dataclass(frozen=True)
class Settings:
    """Of the trained adapter; chosen on CLINC150's validation split with seeds of their own.

    ``ewc_lambda`` is for EWC++ alone and beside replay: each has the strength that is best for it.
    """

    rank: int = 16
    learning_rate: float = 0.003
    passes: int = 8
    batch: int = 64
    temperature: float = 0.05
    ewc_lambda: tuple[float, float] = (0.3, 0.03)
    replay: int = 1500


class Learner(Protocol):
    """Learns tasks in turn, and scores the candidates of held-out requests."""

    def learn(self, task: Task) -> None:
        """Take in the training requests of a task, in their order."""

    def scores(self, task: Task, requests: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        """Scores of the candidates of some held-out requests."""


class Frozen:
    """Cosine of the untouched vectors."""

    def learn(self, task: Task) -> None:
        """Nothing."""

    def scores(self, task: Task, requests: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        """By cosine."""
        for i in requests:
            yield task.items[task.pool(int(i))] @ task.test[i]


class NearestCentroid:
    """Each item is the mean of its vector and of the requests that wanted it."""

    def __init__(self) -> None:
        self._sums: dict[int, Vectors] = {}

    def _centroids(self, task: Task) -> Vectors:
        return self._sums.setdefault(id(task.items), task.items.copy())

    def learn(self, task: Task) -> None:
        """Add the requests to their items."""
        np.add.at(self._centroids(task), task.train_target, task.train)

    def scores(self, task: Task, requests: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        """By cosine with the centroids."""
        sums = self._centroids(task)
        unit = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        for i in requests:
            yield unit[task.pool(int(i))] @ task.test[i]


class Adapter:
    """A ``BaseLoRA`` trained on each task in turn by in-batch InfoNCE; with replay and EWC++ as wanted."""

    def __init__(self, dim: int, seed: int, s: Settings, *, replay: str | None = None, ewc: bool = False) -> None:
        self._s, self._rng = s, np.random.default_rng([seed, 3])
        self._lora = BaseLoRA(dim, s.rank, learning_rate=s.learning_rate, seed=seed)
        self._ewc = None
        if ewc:
            strength = s.ewc_lambda[replay is not None]
            self._ewc = EwcPlusPlus(EwcConfig(param_count=2 * s.rank * dim, initial_lambda=strength))
        self._old = None
        if replay is not None:
            # A uniform sample of everything that came; drawn evenly, or by what is still far from its item.
            alpha = 0.6 if replay == "prioritised" else 0.0
            self._old = PriorityReplayBuffer(s.replay, alpha=alpha, policy="reservoir", seed=seed)

    def learn(self, task: Task) -> None:
        """Several passes over the task's requests; then they are remembered."""
        s = self._s
        pairs = [(q, task.items[t]) for q, t in zip(task.train, task.train_target, strict=True)]
        for _ in range(s.passes):
            order = self._rng.permutation(len(pairs))
            for start in range(0, len(order), s.batch):
                self._step([pairs[i] for i in order[start : start + s.batch]])
        if self._ewc is not None:
            for start in range(0, len(pairs), s.batch):
                rows = _distinct(pairs[start : start + s.batch])
                self._ewc.update_fisher(self._lora.sample_gradients(0, *_arrays(pairs, rows, start), temperature=s.temperature))
            self._ewc.start_new_task(params=np.concatenate([f.ravel() for f in self._lora.factors(0)]))
        if self._old is not None:
            for pair in pairs:
                self._old.add(pair)

    def _step(self, pairs: list[tuple[Vectors, Vectors]]) -> None:
        drawn = None
        if self._old is not None and len(self._old):
            drawn = self._old.sample(self._s.batch)
            pairs = pairs + drawn.items
        rows = _distinct(pairs)
        queries, targets = _arrays(pairs, rows)
        self._lora.train_step(0, queries, targets, temperature=self._s.temperature, ewc=self._ewc)
        if drawn is not None:
            first = len(pairs) - len(drawn.items)
            old = [i for i, row in enumerate(rows) if row >= first]
            y = self._lora.forward_layer(0, queries[old]) if old else queries[:0]
            cosines = np.einsum("ij,ij->i", y, targets[old]) / np.linalg.norm(y, axis=1)
            self._old.update_priorities(drawn.indices[[rows[i] - first for i in old]], 1.0 - cosines)  # type: ignore[union-attr]

    def scores(self, task: Task, requests: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        """By dot product with the adapted requests."""
        for i, y in zip(requests, self._lora.forward_layer(0, task.test[requests]), strict=True):
            yield task.items[task.pool(int(i))] @ y


def _distinct(pairs: Sequence[tuple[Vectors, Vectors]]) -> list[int]:
    """One pair per item, in order: two on one item would be each other's negatives."""
    first: dict[bytes, int] = {}
    for i, (_, item) in enumerate(pairs):
        first.setdefault(item.tobytes(), i)
    return list(first.values())


def _arrays(pairs: Sequence[tuple[Vectors, Vectors]], rows: list[int], start: int = 0) -> tuple[Vectors, Vectors]:
    chosen = [pairs[start + i] for i in rows]
    return np.stack([q for q, _ in chosen]), np.stack([t for _, t in chosen])


class Engine:
    """``SonaEngine`` with default settings: one feedback per request, naming the item that it wants."""

    def __init__(
        self,
        dim: int,
        seed: int,
        *,
        anchors: bool = False,
        scopes: bool = False,
        background: bool = False,
        ewc: bool = False,
    ) -> None:
        self._engine = SonaEngine(SonaConfig(hidden_dim=dim, seed=seed, ewc=ewc))
        self._anchors, self._scopes, self._background = anchors, scopes, background
        self._kept: list[Task] = []
        self._offsets: dict[int, int] = {}
        self._known: set[tuple[str, int]] = set()

    def _scope(self, task: Task) -> str:
        return task.name if self._scopes else "default"

    def _rank(self, task: Task, query: Vectors, pool: NDArray[np.int64], k: int) -> tuple[str, list[int], list[float]]:
        # Items of different sets have different ids.
        offset = self._offsets.setdefault(id(task.items), 1_000_000 * len(self._offsets))
        scope = self._scope(task)
        # In a closed set the vectors are known from the second request on.
        known = (scope, offset) in self._known
        if task.candidates is None:
            self._known.add((scope, offset))
        d = self._engine.rank(query, pool + offset, None if known else task.items[pool], k=k, scope=scope, now=0.0)
        return str(d.id), [int(i) - offset for i in d.ids], [float(s) for s in d.scores]

    def learn(self, task: Task) -> None:
        """Rank, then say what was wanted."""
        everything = np.arange(len(task.items))
        for query, target in zip(task.train, task.train_target, strict=True):
            pool = everything
            if task.candidates is not None:
                near = np.argsort(-(task.items @ query), kind="stable")[: len(task.candidates[0])]
                pool = near if (near == target).any() else np.append(near, target)
            decision, _, _ = self._rank(task, query, pool, 5)
            offset = self._offsets[id(task.items)]
            self._engine.feedback(decision, chosen=int(target) + offset, source="label", now=0.0)
        self._kept.append(task)
        if self._anchors:
            self._guard()
        if self._background:
            self._engine.background_learn(now=0.0)

    def _guard(self) -> None:
        """Held-out requests of every task so far become anchors."""
        queries = np.concatenate([t.anchors for t in self._kept])
        sets = {id(t.items): t for t in self._kept}
        ids: list[int] = []
        vectors: list[Vectors] = []
        wanted = {(id(t.items), int(r)) for t in self._kept for r in t.anchor_target}
        for key, task in sets.items():
            offset = self._offsets[key]
            some = range(len(task.items)) if len(task.items) <= 200 else sorted(r for k, r in wanted if k == key)
            ids += [offset + int(i) for i in some]
            vectors.append(task.items[list(some)])
        relevant = [[self._offsets[id(t.items)] + int(r)] for t in self._kept for r in t.anchor_target]
        self._engine.set_anchors(queries, ids, np.concatenate(vectors), relevant)

    def scores(self, task: Task, requests: NDArray[np.int64]) -> Iterator[NDArray[np.floating]]:
        """As the engine ranks."""
        for i in requests:
            pool = task.pool(int(i))
            _, ids, values = self._rank(task, task.test[i], pool, len(pool))
            place = {item: n for n, item in enumerate(pool.tolist())}
            out = np.empty(len(pool))
            out[[place[item] for item in ids]] = values
            yield out


ARMS: dict[str, Callable[[int, int, Settings], Learner]] = {
    "frozen": lambda dim, seed, s: Frozen(),
    "none": Adapter,
    "EWC++": lambda dim, seed, s: Adapter(dim, seed, s, ewc=True),
    "replay": lambda dim, seed, s: Adapter(dim, seed, s, replay="uniform"),
    "prioritised replay": lambda dim, seed, s: Adapter(dim, seed, s, replay="prioritised"),
    "replay + EWC++": lambda dim, seed, s: Adapter(dim, seed, s, replay="uniform", ewc=True),
    "nearest centroid": lambda dim, seed, s: NearestCentroid(),
    "engine": lambda dim, seed, s: Engine(dim, seed),
    "engine, background cycle": lambda dim, seed, s: Engine(dim, seed, background=True),
    "engine, background cycle with EWC++": lambda dim, seed, s: Engine(dim, seed, background=True, ewc=True),
    "engine, anchor gate": lambda dim, seed, s: Engine(dim, seed, anchors=True),
    "engine, a scope per task (told which)": lambda dim, seed, s: Engine(dim, seed, scopes=True),
}
