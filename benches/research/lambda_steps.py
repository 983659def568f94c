"""The curve of a router at every λ at once, and at any list of λ without drawing it again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sona.routing import aiq

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """Mean cost and quality of argmax q̂ − λĉ as they step with λ: exact, for every λ at once."""

    weights: Floats
    points: Floats
    low: float
    high: float

    def aiq(self, weights: Floats | None = None) -> float:
        """Area under the hull, drawn at some λ in units of 1 / (mean cost of the dearest model), or at all."""
        at = slice(None) if weights is None else np.searchsorted(self.weights, weights / self.high, side="right")
        return float(aiq(self.points[at], self.low, self.high))


def steps(quality: Floats, cost: Floats, true_quality: Floats, true_cost: Floats) -> Steps:
    """Walk down from λ = 0: every request changes to the model whose turn comes first, until it is at the cheapest."""
    n = len(quality)
    at, means = np.arange(n), true_cost.mean(axis=0)
    tied = quality >= quality.max(axis=1, keepdims=True) - 1e-12
    now = np.where(tied, cost, np.inf).argmin(axis=1)
    turns, moves = [np.zeros(n)], [np.stack([true_cost[at, now], true_quality[at, now]], axis=1) / n]
    while True:
        saved = cost[at, now][:, None] - cost
        with np.errstate(divide="ignore", invalid="ignore"):
            turn = np.where(saved > 1e-15, (quality[at, now][:, None] - quality) / saved, np.inf)
        first = turn.min(axis=1)
        going = np.flatnonzero(np.isfinite(first))
        if not len(going):
            break
        cheapest = np.where(turn <= first[:, None] * (1 + 1e-12) + 1e-15, cost, np.inf).argmin(axis=1)
        new, old = cheapest[going], now[going]
        turns.append(first[going])
        gained = (true_cost[going, new] - true_cost[going, old], true_quality[going, new] - true_quality[going, old])
        moves.append(np.stack(gained, axis=1) / n)
        now[going] = new
    weights, points = np.concatenate(turns[1:]), np.concatenate(moves[1:])
    order = np.argsort(weights, kind="stable")
    points = moves[0].sum(axis=0) + np.concatenate([np.zeros((1, 2)), np.cumsum(points[order], axis=0)])
    return Steps(weights[order], points, float(means.min()), float(means.max()))
