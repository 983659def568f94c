"""The protocol of the retrieval benchmark: a stream of requests, users who click what helps, held-out judgement.

At each step the current engine ranks the whole corpus and shows the first places. Click = every shown relevant item;
without a click nothing is learned. Noise: with this probability the event is one click on a uniformly drawn shown item
instead. Hidden items never get clicks. "Seen" is the metric on items that could be clicked, "unseen" on those that could
not, with the relevant items of the other kind taken out of the ranking. NaN and ties rank worst.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sona.bench.datasets import RetrievalSet
from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.evaluate import hit_at, ndcg_at, relevant_ranks

__all__ = ["Condition", "Judged", "Run", "judge", "rocchio", "simulate"]

Scorer = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Condition:
    """What the users do: share of stray clicks, share of items that never get clicks."""

    name: str
    noise: float = 0.0
    hidden: float = 0.0


@dataclass(frozen=True)
class Judged:
    """Metric of each held-out request, (m,) float64; NaN where the group has no relevant item for it."""

    all: NDArray[np.float64]
    seen: NDArray[np.float64]
    unseen: NDArray[np.float64]


@dataclass
class Run:
    """One stream: metrics after so many feedbacks, and at the end (key -1)."""

    frozen: Judged
    marks: dict[int, Judged] = field(default_factory=dict)
    rocchio: Judged | None = None
    feedbacks: int = 0


def _metric(name: str, scores: NDArray[np.float32], relevant: Sequence[int]) -> float:
    if not relevant:
        return float("nan")
    ranks = relevant_ranks(scores, relevant)
    return hit_at(ranks, 1) if name == "hit@1" else ndcg_at(ranks, 10)


def judge(data: RetrievalSet, clickable: NDArray[np.bool_], score: Scorer) -> Judged:
    """Judge a scorer on the held-out requests."""
    out = np.full((3, len(data.test)), np.nan)
    for i, relevant in enumerate(data.test_relevant):
        if not relevant:
            continue
        scores = score(data.test[i])
        out[0, i] = _metric(data.metric, scores, relevant)
        seen = [j for j in relevant if clickable[j]]
        unseen = [j for j in relevant if not clickable[j]]
        for row, group, other in ((1, seen, unseen), (2, unseen, seen)):
            if group:
                reduced = scores.copy()
                reduced[other] = -np.inf
                out[row, i] = _metric(data.metric, reduced, group)
    return Judged(*out)


def rocchio(data: RetrievalSet, clicks: Sequence[tuple[int, int]], weight: float = 0.5) -> Scorer:
    """The simple strong baseline: each clicked document moves toward the mean of the requests that chose it.

    Rocchio 1971 on the document side, one pass over all clicks, unit vectors.
    """
    total = np.zeros_like(data.items)
    for row, item in clicks:
        total[item] += data.train[row]
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    moved = data.items + weight * np.divide(total, norm, out=np.zeros_like(total), where=norm > 0)
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return lambda q: moved @ q


def simulate(
    data: RetrievalSet, condition: Condition, seed: int, *, marks: Sequence[int] = (), config: SonaConfig | None = None
) -> Run:
    """One stream through one engine.

    Cost: one ranking of the whole corpus per request and per held-out request and mark.
    """
    rng = np.random.default_rng(seed)
    n = len(data.items)
    hidden = np.zeros(n, bool)
    hidden[rng.permutation(n)[: round(condition.hidden * n)]] = True
    order = [int(i) for i in rng.permutation(len(data.train))]
    if data.closed:
        order = [i for i in order if not hidden[data.train_relevant[i][0]]]
    order = order[: data.requests]
    clickable = np.zeros(n, bool)
    for i in order if not data.closed else range(len(data.train)):
        clickable[list(data.train_relevant[i])] = True
    clickable &= ~hidden

    engine = SonaEngine((config or SonaConfig()).replace(hidden_dim=data.items.shape[1], seed=seed))
    ids = list(range(n))
    engine.rank(data.train[order[0]], ids, data.items, k=1, now=0.0)  # from here on the vectors are known

    def learned(q: NDArray[np.float32]) -> NDArray[np.float32]:
        decision = engine.rank(q, ids, k=n, now=0.0)
        scores = np.empty(n, np.float32)
        scores[decision.ids] = decision.scores
        return scores

    run = Run(frozen=judge(data, clickable, lambda q: data.items @ q))
    clicks: list[tuple[int, int]] = []
    for i in order:
        decision = engine.rank(data.train[i], ids, k=data.shown, now=0.0)
        relevant = set(data.train_relevant[i])
        if condition.noise and rng.random() < condition.noise:
            chosen = [decision.ids[int(rng.integers(len(decision.ids)))]]
        else:
            chosen = [j for j in decision.ids if j in relevant]
        chosen = [j for j in chosen if not hidden[j]]
        if not chosen:
            continue
        engine.feedback(decision, chosen=chosen, source="click", now=0.0)
        clicks += [(i, j) for j in chosen]
        run.feedbacks += 1
        if run.feedbacks in marks:
            run.marks[run.feedbacks] = judge(data, clickable, learned)
    run.marks[-1] = judge(data, clickable, learned)
    run.rocchio = judge(data, clickable, rocchio(data, clicks))
    return run
