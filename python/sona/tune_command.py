"""``sona tune STATE``: which index, adapter rank and bits suit the clicks of a saved engine."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from sona._saved import opened
from sona.control import AdaptiveArchitecture, ParetoFront
from sona.engine import SonaEngine
from sona.exceptions import LearningError
from sona.lora import BaseLoRA, dequantize_symmetric, quantize_symmetric
from sona.patterns import VectorIndex
from sona.progress import Progress

__all__ = ["Tuning", "add_arguments", "run", "tune"]

Array = npt.NDArray[np.float32]

#: What is searched. 32 bits are float32, 0 is no adapter.
SPACE: dict[str, list[Any]] = {
    "kind": ["flat", "hnsw"],
    "dtype": ["float32", "int8"],
    "rank": [0, 1, 2, 4, 8, 16],
    "bits": [32, 8, 6, 4],
}
#: Fewer clicks than this tell nothing on the held-out part.
LEAST = 50
#: Least steps of an adapter's training.
STEPS = 300
#: Requests whose latency is taken, one at a time.
TIMED = 100


class Tuning(NamedTuple):
    """Trade-offs that were found, on clicks that no adapter was trained on."""

    front: ParetoFront
    """Objectives: 1 − MRR@10, microseconds per request, bytes."""
    recommended: dict[str, Any] | None
    """The best MRR within the targets; None if nothing is within them."""
    clicks: int
    items: int


class _Evaluation:
    """Objectives of a setting; indexes and adapters are made once."""

    def __init__(self, queries: Array, chosen: npt.NDArray[np.int64], items: Array, seed: int) -> None:
        order = np.random.default_rng(seed).permutation(len(queries))
        cut = int(0.7 * len(order))
        self.train, self.test = order[:cut], order[cut:]
        self.queries, self.chosen, self.items, self.seed = queries, chosen, items, seed
        self._indexes: dict[tuple[str, str], VectorIndex] = {}
        self._adapters: dict[int, BaseLoRA] = {}

    def index(self, kind: Literal["flat", "hnsw"], dtype: Literal["float32", "int8"]) -> VectorIndex:
        if (kind, dtype) not in self._indexes:
            index = VectorIndex(self.items.shape[1], kind=kind, dtype=dtype, seed=self.seed)
            index.add(np.arange(len(self.items)), self.items)
            self._indexes[kind, dtype] = index
        return self._indexes[kind, dtype]

    def adapter(self, rank: int, bits: int) -> tuple[BaseLoRA | None, int]:
        """The adapter, its factors rounded to the bits, and its bytes."""
        if rank == 0:
            return None, 0
        dim = self.queries.shape[1]
        rank = min(rank, dim)
        if rank not in self._adapters:
            lora = BaseLoRA(dim, rank, learning_rate=0.003, seed=self.seed)
            rng = np.random.default_rng(self.seed)
            batches = max(1, len(self.train) // 64)
            for _ in range(max(8, STEPS // batches)):
                for batch in np.array_split(rng.permutation(self.train), batches):
                    # Clicks on one item are no negatives of each other: one of each item per batch.
                    one = batch[np.unique(self.chosen[batch], return_index=True)[1]]
                    if len(one) > 1:
                        lora.train_step(0, self.queries[one], self.items[self.chosen[one]])
            self._adapters[rank] = lora
        trained = self._adapters[rank]
        if bits == 32:
            return trained, 4 * trained.param_count
        rounded = BaseLoRA(dim, rank, seed=self.seed)
        a, b = (dequantize_symmetric(*quantize_symmetric(f, bits)) for f in trained.factors(0))
        rounded.set_factors(0, a, b)
        return rounded, trained.param_count * bits // 8 + 4 * (rank + dim)

    def __call__(self, config: dict[str, Any]) -> tuple[float, float, float]:
        index = self.index(config["kind"], config["dtype"])
        lora, size = self.adapter(config["rank"], config["bits"])
        k = min(10, len(self.items))

        def search(x: Array) -> npt.NDArray[np.int64]:
            return index.search(x if lora is None else lora.forward_layer(0, x), k)[0]

        hits = search(self.queries[self.test]) == self.chosen[self.test][:, None]
        rank = hits.argmax(axis=1) + 1.0
        mrr = float(np.where(hits.any(axis=1), 1.0 / rank, 0.0).mean())
        times = []
        for i in self.test[:TIMED]:
            start = time.perf_counter()
            search(self.queries[i])
            times.append(time.perf_counter() - start)
        return 1.0 - mrr, 1e6 * float(np.median(times)), float(index.nbytes + size)


def tune(
    engine: SonaEngine,
    *,
    scope: str = "default",
    generations: int = 6,
    latency_us: float = float("inf"),
    megabytes: float = float("inf"),
    seed: int = 0,
    show: bool = False,
) -> Tuning:
    """Search index, adapter rank and bits on an engine's own clicks; 30 % of them are held out.

    Raises
    ------
    LearningError
        If the scope has fewer than 50 positive clicks or fewer than two chosen items.
    """
    keys, queries, vectors, rewards, _ = engine._clicks(scope)
    good = np.flatnonzero(np.asarray(rewards) > 0)
    numbers: dict[Any, int] = {}
    chosen = np.array([numbers.setdefault(keys[i], len(numbers)) for i in good], dtype=np.int64)
    if len(good) < LEAST or len(numbers) < 2:
        raise LearningError(
            f"scope {scope!r}: expected at least {LEAST} positive clicks on two items, got {len(good)} on {len(numbers)}"
        )
    items = np.empty((len(numbers), queries.shape[1]), dtype=np.float32)
    items[chosen] = np.asarray(vectors)[good]
    evaluate = _Evaluation(np.asarray(queries)[good], chosen, items, seed)
    search = AdaptiveArchitecture(SPACE, population=12, seed=seed)
    with Progress("generations", generations, show=show) as progress:
        front = search.evolve(evaluate, generations=1)
        progress.advance()
        for _ in range(generations - 1):
            front = search.evolve(evaluate, generations=1)
            progress.advance()
    fits = np.flatnonzero((front.objectives[:, 1] <= latency_us) & (front.objectives[:, 2] <= 1e6 * megabytes))
    best = None if not len(fits) else front.configs[int(fits[np.argmin(front.objectives[fits, 0])])]
    return Tuning(front, best, len(good), len(numbers))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("state", help="state directory, or a file written by save()")
    parser.add_argument("--scope", default="default", help="scope whose clicks are used (default: %(default)s)")
    parser.add_argument("--generations", type=int, default=6, help="of the search (default: %(default)s)")
    parser.add_argument("--latency-us", type=float, default=float("inf"), help="target: microseconds per request")
    parser.add_argument("--megabytes", type=float, default=float("inf"), help="target: size of index and adapter")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Search, then print the trade-offs."""
    with opened(options.state) as engine:
        found = tune(
            engine,
            scope=options.scope,
            generations=options.generations,
            latency_us=options.latency_us,
            megabytes=options.megabytes,
            seed=options.seed,
            show=not options.json,
        )
    rows = [
        {**config, "mrr": 1.0 - o[0], "latency_us": o[1], "bytes": int(o[2]), "recommended": config == found.recommended}
        for config, o in zip(found.front.configs, found.front.objectives.tolist(), strict=True)
    ]
    if options.json:
        print(json.dumps({"clicks": found.clicks, "items": found.items, "front": rows}, indent=2))
        return 0
    print(f"{found.clicks:,} clicks on {found.items:,} items, 30 % held out; {found.front.evaluations} settings tried")
    print("index          rank  bits   MRR@10      µs        bytes")
    for row in rows:
        mark = "  <- recommended" if row["recommended"] else ""
        index = f"{row['kind']} {row['dtype']}"
        print(f"{index:13} {row['rank']:5} {row['bits']:5} {row['mrr']:8.4f} {row['latency_us']:7.1f} {row['bytes']:12,}{mark}")
    if found.recommended is None:
        print("nothing is within the targets")
    return 0
