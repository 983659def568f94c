"""Deep learning cycles of an engine: links between items that were chosen for similar requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sona._deep_loop import DeepLoop, DeepLoopConfig, DeepResult
from sona.dreams import Dream, DreamEngine, MemoryNode
from sona.patterns import VectorIndex

if TYPE_CHECKING:
    from sona.engine import SonaEngine

__all__ = ["DeepLearningResult", "ScopeDreams", "SuggestedLink", "deep_learn", "dream", "memory_graph"]

#: Choices for similar requests that are linked, per choice, and the least similarity of the requests.
NEIGHBOURS = 5
SIMILAR = 0.6


def memory_graph(engine: SonaEngine, *, scope: str = "default", seed: int = 0) -> tuple[DreamEngine, list[Any]]:
    """Graph of the items that were chosen, linked where they were chosen for similar requests.

    A memory is an item: importance is its mean reward (0 for a negative one), accesses are its choices, its time is that
    of the last one. The weight of an edge is the sum of the requests' similarities. Edges need a similarity of at least
    0.6, and each choice is linked to those of its five most similar requests.

    Returns
    -------
    (DreamEngine, list)
        The graph, and the item ids by memory id.

    Examples
    --------
    >>> from sona import SonaConfig, SonaEngine
    >>> with SonaEngine(SonaConfig(hidden_dim=2)) as engine:
    ...     for query, chosen in [([1, 0], "a"), ([1, 0.1], "b")]:
    ...         d = engine.rank(query=query, ids=["a", "b"], vectors=[[1, 0], [0.8, 0.6]])
    ...         _ = engine.feedback(d.id, chosen=chosen, source="click", user=chosen)
    ...     graph, ids = memory_graph(engine)
    >>> ids, graph.edge_count
    (['a', 'b'], 1)
    """
    keys, queries, vectors, rewards, times = engine._clicks(scope)
    numbers: dict[Any, int] = {}
    where = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    reward = np.asarray(rewards, dtype=np.float64)
    chosen = np.flatnonzero(reward > 0)
    graph = DreamEngine(seed=seed)
    for number in range(len(numbers)):
        rows = np.flatnonzero(where == number)
        good = rows[reward[rows] > 0]
        graph.add_memory_node(
            MemoryNode(
                number,
                vectors[rows[-1]],
                timestamp=max((times[i] for i in (good if len(good) else rows)), default=0.0),
                access_count=len(good),
                importance=float(np.clip(reward[rows].mean(), 0.0, 1.0)),
            )
        )
    if len(chosen):
        index = VectorIndex(queries.shape[1])
        index.add(np.arange(len(chosen)), queries[chosen])
        weights: dict[tuple[int, int], float] = {}
        found, similarity = index.search(queries[chosen], k=NEIGHBOURS + 1)
        for i, (hits, cosines) in enumerate(zip(found, similarity, strict=True)):
            for j, cosine in zip(hits, cosines, strict=True):
                pair = sorted((int(where[chosen[i]]), int(where[chosen[j]]))) if j >= 0 else [0, 0]
                if pair[0] != pair[1] and cosine >= SIMILAR:
                    key = (pair[0], pair[1])
                    weights[key] = weights.get(key, 0.0) + float(cosine)
        for (a, b), weight in sorted(weights.items()):
            graph.add_edge(a, b, weight)
    return graph, list(numbers)


@dataclass(frozen=True, slots=True)
class SuggestedLink:
    """Two items that belong together, by the dreams; a proposal, used by nothing."""

    a: Any
    b: Any
    weight: float


@dataclass(frozen=True, slots=True)
class ScopeDreams:
    """What a deep cycle found in one scope."""

    scope: str
    memories: int
    links: int
    result: DeepResult
    suggestions: tuple[SuggestedLink, ...]
    """The strongest first."""


@dataclass(frozen=True, slots=True)
class DeepLearningResult:
    """What ``deep_learn`` did, over all scopes."""

    dreams_generated: int
    dreams_integrated: int
    elapsed_s: float
    status: str
    """``"complete"``, ``"deadline"``, or ``"empty"`` where there was nothing to dream about."""
    scopes: tuple[ScopeDreams, ...]


def dream(
    graph: DreamEngine,
    ids: list[Any],
    *,
    dreams: int = 50,
    phi_threshold: float = 0.3,
    deadline_s: float = 600.0,
    now: float | None = None,
    on_dream: Callable[[Dream, float, int], object] | None = None,
) -> tuple[DeepResult, list[SuggestedLink]]:
    """One deep cycle over a :func:`memory_graph`; its result, and the links it suggests, the strongest first."""
    config = DeepLoopConfig(dreams_per_cycle=dreams, phi_threshold=phi_threshold, max_cycle_s=deadline_s)
    result = DeepLoop(config, engine=graph).run_cycle(now=now, on_dream=on_dream)
    suggested = sorted(((w, a, b) for a, b, w, open_ in graph.edges() if open_), reverse=True)
    return result, [SuggestedLink(ids[a], ids[b], w) for w, a, b in suggested]


def deep_learn(
    engine: SonaEngine, *, dreams: int, phi_threshold: float, deadline_s: float, seed: int, now: float | None
) -> DeepLearningResult:
    """A deep cycle in every scope, within one deadline for all."""
    scopes = []
    left = deadline_s
    for scope in engine.scopes:
        graph, ids = memory_graph(engine, scope=scope, seed=seed)
        memories, links = graph.node_count, graph.edge_count
        result, found = dream(graph, ids, dreams=dreams, phi_threshold=phi_threshold, deadline_s=left, now=now)
        left = max(0.0, left - result.elapsed_s)
        scopes.append(ScopeDreams(scope, memories, links, result, tuple(found)))
    states = {s.result.status for s in scopes}
    status = "deadline" if "deadline" in states else "complete" if "complete" in states else "empty"
    return DeepLearningResult(
        sum(s.result.dreams_generated for s in scopes),
        sum(s.result.dreams_integrated for s in scopes),
        sum(s.result.elapsed_s for s in scopes),
        status,
        tuple(scopes),
    )
