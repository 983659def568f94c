"""Cost/quality curves of predictors, and the predictors that a router is measured against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sona.bench.routing_data import RoutingSet
from sona.evaluate import Interval
from sona.routing import HistoryModel, aiq, pareto_hull

__all__ = ["BASELINES", "Curve", "curve", "mean_of_folds", "out_of_fold", "single_models"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
#: Expected quality and cost, (rows, models) each, on ``test`` from all outcomes of ``train``.
Predictor = Callable[[RoutingSet, Rows, Rows], tuple[Floats, Floats]]

#: λ in units of 1 / (mean cost of the dearest model).
WEIGHTS = np.concatenate([[0.0], np.logspace(-4, 3, 120)])


@dataclass(frozen=True)
class Curve:
    """Quality and cost of every request at every λ: (rows, points)."""

    quality: Floats
    cost: Floats
    low: float
    high: float

    def points(self, weights: Floats | None = None) -> Floats:
        """(points, 2) mean cost and quality, with weights of the rows."""
        n = len(self.quality)
        w = np.full(n, 1.0 / n) if weights is None else weights
        return np.stack([w @ self.cost, w @ self.quality], axis=1)

    @property
    def aiq(self) -> float:
        """Average quality under the hull, between the mean costs of the cheapest and the dearest model."""
        return aiq(self.points(), self.low, self.high)

    def cost_at(self, quality: float) -> float:
        """Least mean cost on the hull that reaches ``quality``; NaN if it is not reached."""
        hull = pareto_hull(self.points())
        if hull[-1, 1] < quality:
            return float("nan")
        return float(np.interp(quality, hull[:, 1], hull[:, 0]))


def curve(data: RoutingSet, rows: Rows, quality: Floats, cost: Floats) -> Curve:
    """Choices of argmax q̂ − λĉ on ``rows``, ties to the cheaper, and what they gave."""
    true_quality, true_cost = data.quality[rows], data.cost[rows]
    means = true_cost.mean(axis=0)
    at = np.arange(len(rows))
    got_quality, got_cost = [], []
    for weight in WEIGHTS / means.max():
        utility = quality - weight * cost
        tied = utility >= utility.max(axis=1, keepdims=True) - 1e-12
        choice = np.where(tied, cost, np.inf).argmin(axis=1)
        got_quality.append(true_quality[at, choice])
        got_cost.append(true_cost[at, choice])
    return Curve(np.array(got_quality).T, np.array(got_cost).T, float(means.min()), float(means.max()))


def single_models(data: RoutingSet, rows: Rows) -> Curve:
    """The zero router: random mixes of single models."""
    means = data.cost[rows].mean(axis=0)
    return Curve(data.quality[rows], data.cost[rows], float(means.min()), float(means.max()))


def two_models(data: RoutingSet, rows: Rows) -> Curve:
    """Random mixes of the cheapest and the best model."""
    zero = single_models(data, rows)
    pair = [int(data.cost[data.train].mean(axis=0).argmin()), data.best]
    return Curve(zero.quality[:, pair], zero.cost[:, pair], zero.low, zero.high)


def difference(a: Curve, b: Curve, *, draws: int = 400, seed: int = 0) -> Interval:
    """AIQ of ``a`` minus that of ``b`` on the same rows, with a bootstrap interval over requests."""
    n = len(a.quality)
    rng = np.random.default_rng(seed)
    deltas = []
    for _ in range(draws):
        w = rng.multinomial(n, np.full(n, 1.0 / n)) / n
        deltas.append(aiq(a.points(w), a.low, a.high) - aiq(b.points(w), b.low, b.high))
    low, high = np.quantile(deltas, [0.025, 0.975])
    return Interval(a.aiq - b.aiq, float(low), float(high))


def fold_rows(n: int, folds: int = 5, seed: int = 0) -> list[Rows]:
    """The rows of each fold."""
    fold = np.random.default_rng(seed).permutation(n) % folds
    return [np.flatnonzero(fold == f) for f in range(folds)]


def out_of_fold(data: RoutingSet, predict: Predictor, *, folds: int = 5, seed: int = 0) -> tuple[Floats, Floats]:
    """Predictions for every row by the other folds."""
    n = len(data.x)
    quality, cost = np.empty_like(data.quality), np.empty_like(data.cost)
    for test in fold_rows(n, folds, seed):
        quality[test], cost[test] = predict(data, np.setdiff1d(np.arange(n), test), test)
    return quality, cost


def mean_of_folds(data: RoutingSet, quality: Floats, cost: Floats, *, folds: int = 5, seed: int = 0) -> float:
    """Mean of each fold's own AIQ: the hull is drawn on a fold at a time, which flatters it more than one over all rows."""
    return float(np.mean([curve(data, rows, quality[rows], cost[rows]).aiq for rows in fold_rows(len(data.x), folds, seed)]))


def shuffled_within_tasks(data: RoutingSet, rows: Rows, quality: Floats, cost: Floats, seed: int) -> tuple[Floats, Floats]:
    """The predictions of another request of the same task: what is left is knowing the task."""
    rng = np.random.default_rng(seed)
    order = np.arange(len(rows))
    for task in np.unique(data.task[rows]):
        mine = np.flatnonzero(data.task[rows] == task)
        order[mine] = rng.permutation(mine)
    return quality[order], cost[order]


def _nearest(data: RoutingSet, train: Rows, test: Rows, k: int) -> tuple[Floats, Floats]:
    s = data.x[test] @ data.x[train].T
    near = np.argpartition(-s, min(k, s.shape[1] - 1), axis=1)[:, :k]
    return data.quality[train][near].mean(axis=1), data.cost[train][near].mean(axis=1)


def _ridge(data: RoutingSet, train: Rows, test: Rows) -> tuple[Floats, Floats]:
    x, at = data.x[train].astype(np.float64), data.x[test].astype(np.float64)
    centre, mean = x.mean(axis=0), data.quality[train].mean(axis=0)
    xc = x - centre
    w = np.linalg.solve(xc.T @ xc + np.eye(x.shape[1]), xc.T @ (data.quality[train] - mean))
    return mean + (at - centre) @ w, np.repeat(data.cost[train].mean(axis=0)[None], len(test), axis=0)


def _task_table(data: RoutingSet, train: Rows, test: Rows) -> tuple[Floats, Floats]:
    quality = np.repeat(data.quality[train].mean(axis=0)[None], len(test), axis=0)
    cost = np.repeat(data.cost[train].mean(axis=0)[None], len(test), axis=0)
    for task in np.unique(data.task[train]):
        mine, at = train[data.task[train] == task], data.task[test] == task
        overall = data.quality[train].mean(axis=0)
        quality[at] = (data.quality[mine].sum(axis=0) + 5.0 * overall) / (len(mine) + 5.0)
        cost[at] = data.cost[mine].mean(axis=0)
    return quality, cost


def history(data: RoutingSet, train: Rows, test: Rows) -> tuple[Floats, Floats]:
    """Ours: what ``TinyDancerRouter.fit`` fits."""
    model = HistoryModel.fit(data.x[train], data.quality[train], data.cost[train])
    quality, cost = model.predict(data.x[test])
    assert cost is not None
    return quality, cost


BASELINES: dict[str, Predictor] = {
    "kNN-40": lambda data, train, test: _nearest(data, train, test, 40),
    "kNN-100": lambda data, train, test: _nearest(data, train, test, 100),
    "ridge": _ridge,
    "task table (told the task)": _task_table,
    "oracle": lambda data, train, test: (data.quality[test], data.cost[test]),
}
