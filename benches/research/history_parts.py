"""The parts of a fitted history on a fold of the requests; for ``history_variants.py``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

from sona.bench.routing_curves import fold_rows
from sona.routing._history import KAPPA, LANDMARKS, NEIGHBOURS, PENALTIES, PILOT, RIDGE, TAU, WIDTH, unit_rows

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
#: Widths of the process's kernel that are compared.
WIDTHS = (0.1, 0.2, 0.4, 0.8, 1.6)


class Fold:
    """What depends on requests only: shared by all lists of models."""

    def __init__(self, x: NDArray[Any], at: NDArray[Any]) -> None:
        self.x, self.at = x.astype(np.float64), at.astype(np.float64)
        self.near = np.argsort(-(self.at @ self.x.T), axis=1, kind="stable")[:, :NEIGHBOURS]
        chosen = np.random.default_rng(0).choice(len(self.x), size=min(LANDMARKS, len(self.x)), replace=False)
        self.landmarks = self.x[chosen]
        self.basis = cache(self._basis)
        self.other = cache(self._other)
        self.clusters = cache(self._clusters)
        self.logistic = cache(self._logistic)

    @cached_property
    def ridge(self) -> tuple[Floats, Floats, Floats]:
        """Hat matrix of the training rows, its diagonal, and that of the others."""
        centre = self.x.mean(axis=0)
        xc = self.x - centre
        solved = np.linalg.solve(xc.T @ xc + RIDGE * np.eye(xc.shape[1]), xc.T)
        return xc @ solved, np.einsum("nd,dn->n", xc, solved) + 1.0 / len(xc), (self.at - centre) @ solved

    @cached_property
    def weights(self) -> Floats:
        """Of the residuals of the nearest, with the pseudo-count."""
        s = np.einsum("nd,nkd->nk", self.at, self.x[self.near])
        w = np.exp((s - s[:, :1]) / TAU)
        return np.asarray(w / (w.sum(axis=1, keepdims=True) + KAPPA))

    def local(self, residuals: Floats) -> Floats:
        """Kernel-weighted residuals of the nearest."""
        return np.asarray(np.einsum("nk,nkm->nm", self.weights, residuals[self.near]))

    def _basis(self, width: float) -> tuple[Floats, Floats, Floats]:
        values, vectors = np.linalg.eigh(np.exp((self.landmarks @ self.landmarks.T - 1.0) / width))
        root = vectors / np.sqrt(np.maximum(values, 1e-6))
        features, at = (np.exp((x @ self.landmarks.T - 1.0) / width) @ root for x in (self.x, self.at))
        values, vectors = np.linalg.eigh(features.T @ features)
        return np.maximum(values, 0.0), features @ vectors, at @ vectors

    @cached_property
    def inner(self) -> list[tuple[Rows, Rows, Fold]]:
        """Folds within the training rows."""
        rows = np.arange(len(self.x))
        parts = [(np.setdiff1d(rows, out), out) for out in fold_rows(len(rows), 5, 1)]
        return [(kept, out, Fold(self.x[kept], self.x[out])) for kept, out in parts]

    @cached_property
    def bags(self) -> list[tuple[Rows, Fold]]:
        """Ten bootstrap samples of the training rows."""
        draws = [np.random.default_rng(i).integers(0, len(self.x), len(self.x)) for i in range(10)]
        return [(rows, Fold(self.x[rows], self.at)) for rows in draws]

    def _other(self, how: str) -> Fold:
        kind, _, number = how.partition(" ")
        centre = self.x.mean(axis=0) * (kind != "svd")
        x, at = self.x - centre, self.at - centre
        _, s, v = np.linalg.svd(x, full_matrices=False)
        if kind == "without":
            x, at = (z - (z @ v[: int(number)].T) @ v[: int(number)] for z in (x, at))
        elif kind in ("pca", "svd"):
            kept = len(x) // int(number[2:]) if number.startswith("n/") else int(number)
            x, at = (z @ v[:kept].T for z in (x, at))
        elif kind == "white":
            scale = 1.0 / np.sqrt(s**2 / len(x) + float(number) * (s**2).sum() / len(x) / len(s))
            x, at = ((z @ v.T) * scale for z in (x, at))
        return Fold(unit_rows(x), unit_rows(at))

    def _logistic(self, outcomes: bytes, penalty: float) -> tuple[Floats, Floats]:
        """Chances of the others, and residuals as if left out, of one model; by bytes because lists share models."""
        y, centre = np.frombuffer(outcomes), self.x.mean(axis=0)
        x, at = (np.hstack([z - centre, np.ones((len(z), 1))]) for z in (self.x, self.at))
        ridge, w = np.diag([penalty] * self.x.shape[1] + [1e-6]), np.zeros(x.shape[1])
        for _ in range(6):
            p = 1.0 / (1.0 + np.exp(-x @ w))
            inverse = np.linalg.inv((x * (p * (1.0 - p))[:, None]).T @ x + ridge)
            w = w + inverse @ (x.T @ (y - p) - ridge @ w)
        p = 1.0 / (1.0 + np.exp(-x @ w))
        leverage = p * (1.0 - p) * ((x @ inverse) * x).sum(axis=1)
        return 1.0 / (1.0 + np.exp(-at @ w)), (y - p) / (1.0 - leverage)

    def _clusters(self, k: int) -> tuple[Rows, Rows]:
        centres, own = kmeans2(self.x, k, minit="++", rng=np.random.default_rng(0))
        return own, np.asarray(((self.at[:, None] - centres[None]) ** 2).sum(axis=2).argmin(axis=1))


@dataclass(frozen=True, eq=False)
class Case:
    """A fold and the outcomes of one list of models on its training rows."""

    fold: Fold
    y: Floats
    c: Floats

    @cached_property
    def mean(self) -> Floats:
        """Of every model."""
        return np.asarray(self.y.mean(axis=0))

    @cached_property
    def a(self) -> Floats:
        """Ridge and kernel residual."""
        hat, leverage, at = self.fold.ridge
        z = self.y - self.mean
        return np.asarray(self.mean + at @ z + self.fold.local((z - hat @ z) / (1.0 - leverage)[:, None]))

    @cached_property
    def b(self) -> Floats:
        """Gaussian process."""
        return self.process()

    def process(self, y: Floats | None = None, width: float = WIDTH, rule: str = "gcv", common: bool = False) -> Floats:
        """The process on some outcomes, its penalties by GCV or by likelihood, for each task or one in common."""
        y = self.y if y is None else y
        mean, n = y.mean(axis=0), len(y)
        z = y - mean
        values, rotated, at = self.fold.basis(width)
        fit = rotated @ ((rotated.T @ z) / (values + PILOT)[:, None])
        noise = (z - fit).T @ (z - fit) / n + 1e-4 * np.eye(z.shape[1])
        inverse = np.linalg.inv(np.linalg.cholesky(noise))
        tasks = inverse.T @ np.linalg.eigh(inverse @ (fit.T @ fit / n) @ inverse.T)[1]
        score, projected = losses(values, rotated, z @ tasks, rule)
        if common:
            score = np.repeat(np.log(score).sum(axis=1, keepdims=True), score.shape[1], axis=1)
        weights = projected / (values[:, None] + PENALTIES[score.argmin(axis=0)])
        return np.asarray(mean + at @ weights @ np.linalg.inv(tasks))

    def width(self, rule: str) -> float:
        """The width that GCV or the likelihood prefers over all models."""
        scores = []
        for width in WIDTHS:
            values, rotated, _ = self.fold.basis(width)
            score, _ = losses(values, rotated, self.y - self.mean, rule)
            scores.append(float(np.log(score).sum(axis=1).min()) if rule == "gcv" else float(score.sum(axis=1).min()))
        return WIDTHS[int(np.argmin(scores))]

    def nearest(self, values: Floats, k: int) -> Floats:
        """Means over the nearest."""
        return np.asarray(values[self.fold.near[:, :k]].mean(axis=1))

    @cached_property
    def cost(self) -> Floats:
        """As the history has it."""
        return self.nearest(self.c, 100 if len(self.y) > 500 else 40)

    @cached_property
    def parts(self) -> Floats:
        """A, B, kNN-100, kNN-40, mean: (parts, rows, models)."""
        knn = [self.nearest(self.y, k) for k in (100, 40)]
        return np.stack([self.a, self.b, *knn, np.repeat(self.mean[None], len(self.a), axis=0)])

    @cached_property
    def held_out(self) -> tuple[Floats, Floats]:
        """``parts`` and costs of the training rows by folds within them."""
        parts, cost = np.empty((5, *self.y.shape)), np.empty_like(self.c)
        for kept, out, fold in self.fold.inner:
            case = Case(fold, self.y[kept], self.c[kept])
            parts[:, out], cost[out] = case.parts, case.cost
        return parts, cost

    def on(self, fold: Fold, rows: Rows | slice = slice(None)) -> Case:
        """The same outcomes on another fold."""
        return Case(fold, self.y[rows], self.c[rows])

    @cached_property
    def base(self) -> Floats:
        """The present model."""
        return 0.5 * (self.a + self.b)


def losses(values: Floats, rotated: Floats, z: Floats, rule: str) -> tuple[Floats, Floats]:
    """GCV, or minus twice the profile log-likelihood over n, of every penalty and column; and projections."""
    n, projected, total = len(z), rotated.T @ z, (z**2).sum(axis=0)
    v, p = values[None, :], PENALTIES[:, None]
    if rule == "gcv":
        gain = (2.0 / (v + p) - v / (v + p) ** 2) @ projected**2
        return (total - gain) / (1.0 - (v / (v + p)).sum(axis=1, keepdims=True) / n) ** 2, projected
    unit = projected**2 / np.maximum(values, 1e-9)[:, None]
    form = (1.0 / (v + p)) @ unit + np.maximum(total - unit.sum(axis=0), 0.0) / p
    return np.log(form / n) + (np.log1p(v / p).sum(axis=1, keepdims=True) + n * np.log(p)) / n, projected
