"""The simulation behind ``sona demo``: users ask and click, the engine learns, then others ask.

A request is what an application does: move the query (`adapt`), let the own index find candidates, re-score
them (`rank`), tell how it went (`feedback`). The index here is a matrix product.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.evaluate import hit_at, ndcg_at, reciprocal_rank, relevant_ranks, simulate_click
from sona.patterns import VectorIndex

__all__ = ["METRICS", "Asked", "Library", "Run", "Scores", "judge", "run_stream"]

#: What is measured on each held-out question, in the order of `Scores.figures`.
METRICS = ("hit@1", "MRR", "nDCG@10")
#: Candidates that the index hands to `rank`, and places that a user sees.
CANDIDATES = 100
SHOWN = 10


class Library:
    """The application's side: names and unit vectors of the documents, and an exact index over them.

    Parameters
    ----------
    names
        Ids of the documents.
    vectors
        One row a document, shape ``(n, d)``, float32.
    """

    def __init__(self, names: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self.names = names
        self.vectors = vectors
        self.place = {name: i for i, name in enumerate(names)}
        self._index = VectorIndex(vectors.shape[1], metric="dot", kind="flat")
        self._index.add(np.arange(len(names)), vectors)

    def search(self, queries: NDArray[np.float32], k: int = CANDIDATES) -> NDArray[np.int64]:
        """Positions of the ``k`` best documents for each query, best first, shape ``(len(queries), k)``."""
        return self._index.search(queries, min(k, len(self.names)))[0]


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions as vectors, with the documents that answer them.

    Attributes
    ----------
    vectors
        One row a question, shape ``(m, d)``, float32.
    relevant
        Positions of the right answers in the library, one set a question.
    """

    vectors: NDArray[np.float32]
    relevant: Sequence[frozenset[int]]

    def __len__(self) -> int:
        return len(self.relevant)


@dataclass(frozen=True, slots=True)
class Scores:
    """How an engine answers the held-out questions.

    Attributes
    ----------
    figures
        One row a question, columns as `METRICS`, shape ``(m, 3)``.
    raw
        Positions and scores of all candidates of all questions, as bytes: two engines that agree here agree
        exactly.
    """

    figures: NDArray[np.float64]
    raw: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """One stream of users, from an untrained engine to the end.

    Attributes
    ----------
    clicks
        Events that were learned from, at each checkpoint, ``(checkpoints + 1,)``.
    curve
        Scores at each checkpoint; the last one is the end of the stream.
    rolled_back
        Scores after going back to the untrained version.
    latency_us
        Microseconds of each call by name (``"adapt"``, ``"rank"``, ``"feedback"``).
    cases, memory_bytes, disk_bytes
        Remembered cases, bytes of cases and items in memory, and bytes of the state directory, at the end
        of the stream.
    """

    clicks: tuple[int, ...]
    curve: tuple[Scores, ...]
    rolled_back: Scores
    latency_us: dict[str, NDArray[np.float64]]
    cases: int
    memory_bytes: int
    disk_bytes: int


def judge(engine: SonaEngine, library: Library, asked: Asked) -> Scores:
    """Ask the held-out questions without telling how it went.

    Parameters
    ----------
    engine
        The engine; nothing is learned, but the decisions are recorded, so give it a copy if that matters.
    library, asked
        Documents and questions.

    Returns
    -------
    Scores
        An answer outside the candidates counts as not found; a NaN score counts as worst.
    """
    figures = np.zeros((len(asked), len(METRICS)))
    raw = []
    candidates = library.search(engine.adapt(asked.vectors))
    for i, found in enumerate(candidates):
        names = [library.names[j] for j in found]
        decision = engine.rank(asked.vectors[i], ids=names, vectors=library.vectors[found], k=len(names))
        order = [library.place[str(name)] for name in decision.ids]
        scores = np.asarray(decision.scores, dtype=np.float32)
        here = [p for p, j in enumerate(order) if j in asked.relevant[i]]
        lost = len(asked.relevant[i]) - len(here)
        ranks = [*relevant_ranks(scores, here).tolist(), *[float("inf")] * lost]
        figures[i] = hit_at(ranks, 1), reciprocal_rank(ranks), ndcg_at(ranks, 10)
        raw.append(np.asarray(order, dtype=np.int64).tobytes() + scores.tobytes())
    return Scores(figures, b"".join(raw))


def run_stream(
    library: Library,
    train: Asked,
    test: Asked,
    *,
    seed: int,
    noise: float = 0.0,
    checkpoints: Sequence[float] = (),
    tick: Callable[[], None] = lambda: None,
) -> Run:
    """Let users ask the training questions, once each, in random order, and judge what was learned.

    Parameters
    ----------
    library
        The documents.
    train, test
        Questions of the stream, and held-out questions.
    seed
        Seed of the order and of the clicks. The engine runs with its defaults.
    noise
        Share of events that are one click on a random shown document.
    checkpoints
        Shares of the stream, in ``(0, 1)``, ascending, after which the held-out questions are judged as well.
    tick
        Called after every request.

    Returns
    -------
    Run

    Notes ----- State is written to a temporary directory, so the latencies include durability. Held-out
    questions are put to a copy of the engine: nothing of them enters the state.
    """
    rng = np.random.default_rng(seed)
    stops = {int(share * len(train)) for share in checkpoints}
    times: dict[str, list[float]] = {"adapt": [], "rank": [], "feedback": []}
    clicks, curve, learned = [], [], 0
    config = SonaConfig(hidden_dim=library.vectors.shape[1])
    with tempfile.TemporaryDirectory(prefix="sona-demo-") as folder:
        state, copy = Path(folder) / "state", Path(folder) / "copy"
        with SonaEngine(config, store=state) as engine:

            def look() -> None:
                engine.save(copy)
                with SonaEngine.load(copy) as other:
                    curve.append(judge(other, library, test))
                clicks.append(learned)

            for step, i in enumerate(rng.permutation(len(train)), start=1):
                user, query = f"user-{step}", train.vectors[i]
                begin = time.perf_counter()
                moved = engine.adapt(query)
                times["adapt"].append(time.perf_counter() - begin)
                found = library.search(moved[None])[0]
                names, vectors = [library.names[j] for j in found], library.vectors[found]
                begin = time.perf_counter()
                decision = engine.rank(query, ids=names, vectors=vectors, k=SHOWN, user=user)
                times["rank"].append(time.perf_counter() - begin)
                shown = [library.place[str(name)] for name in decision.ids]
                clicked = simulate_click(shown, train.relevant[i], rng, noise)
                if clicked:
                    chosen = [library.names[j] for j in clicked]
                    begin = time.perf_counter()
                    learned += engine.feedback(decision, chosen=chosen, source="click", user=user)
                    times["feedback"].append(time.perf_counter() - begin)
                if step in stops:
                    look()
                tick()
            look()
            metrics = engine.metrics()
            disk = sum(path.stat().st_size for path in state.rglob("*") if path.is_file())
            engine.rollback(0)
            rolled_back = judge(engine, library, test)
    return Run(
        clicks=tuple(clicks),
        curve=tuple(curve),
        rolled_back=rolled_back,
        latency_us={name: 1e6 * np.asarray(values) for name, values in times.items()},
        cases=int(metrics["cases"]),
        memory_bytes=int(metrics["case_bytes"]) + int(metrics["item_bytes"]),
        disk_bytes=disk,
    )
