"""``sona dream STATE``: a deep cycle over what the users of a saved engine chose. Suggests links, changes nothing."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sona._deep_loop import DeepLoop, DeepLoopConfig
from sona.dreams import Dream, DreamEngine, MemoryNode
from sona.engine import SonaEngine
from sona.exceptions import StoreError
from sona.patterns import VectorIndex
from sona.progress import Progress

__all__ = ["add_arguments", "memory_graph", "run"]

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


def _read(path: str, scope: str, seed: int) -> tuple[DreamEngine, list[Any]]:
    where = Path(path)
    if not where.exists():
        raise StoreError(2, "no such state directory or file", str(where))
    if where.is_file():
        return memory_graph(SonaEngine.load(where), scope=scope, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        # A copy: no lock is taken from a living engine, and its state stays as it is.
        copy = Path(folder) / "state"
        shutil.copytree(where, copy, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
        with SonaEngine.load(copy) as engine:
            return memory_graph(engine, scope=scope, seed=seed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("state", help="state directory, or a file written by save()")
    parser.add_argument("--scope", default="default", help="scope to dream about (default: %(default)s)")
    parser.add_argument("--dreams", type=int, default=50, help="dreams (default: %(default)s)")
    parser.add_argument("--phi", type=float, default=0.3, help="least integration of a dream (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    parser.add_argument("--top", type=int, default=10, help="suggestions to show (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Dream, and print what came of it."""
    graph, ids = _read(options.state, options.scope, options.seed)
    before = {"memories": graph.node_count, "edges": graph.edge_count}
    loop = DeepLoop(DeepLoopConfig(dreams_per_cycle=options.dreams, phi_threshold=options.phi), engine=graph)
    with Progress("dreams", options.dreams, show=not options.json) as progress:

        def dreamt(dream: Dream, phi: float, added: int) -> None:
            progress.advance()

        result = loop.run_cycle(on_dream=dreamt)
    suggested = sorted(((w, a, b) for a, b, w, open_ in graph.edges() if open_), reverse=True)
    if options.json:
        links = [{"a": _plain(ids[a]), "b": _plain(ids[b]), "weight": w} for w, a, b in suggested]
        row = {
            "scope": options.scope,
            **before,
            "dreams": result.dreams_generated,
            "integrated": result.dreams_integrated,
            "merged_or_dropped": result.patterns_pruned,
            "strengthened": result.patterns_strengthened,
            "elapsed_s": round(result.elapsed_s, 6),
            "status": result.status,
            "suggestions": links,
        }
        print(json.dumps(row, indent=2))
        return 0
    for name, value in [
        ("memories", before["memories"]),
        ("links", before["edges"]),
        ("dreams", result.dreams_generated),
        ("integrated", result.dreams_integrated),
        ("merged or dropped", result.patterns_pruned),
        ("strengthened", result.patterns_strengthened),
        ("suggested links", len(suggested)),
        ("seconds", f"{result.elapsed_s:.3f}"),
        ("status", result.status),
    ]:
        print(f"{name:<20}{value}")
    for w, a, b in suggested[: options.top]:
        print(f"  {w:.4f}  {_plain(ids[a])}  {_plain(ids[b])}")
    return 0


def _plain(key: Any) -> Any:
    if isinstance(key, bytes):
        return key.hex()
    return [_plain(part) for part in key] if isinstance(key, tuple) else key
