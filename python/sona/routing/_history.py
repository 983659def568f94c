"""Fit of a history in which every model's outcome is known: ridge, kernel residual, multi-task Gaussian process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sona.exceptions import LearningError
from sona.routing._arrays import Floats, matrix

__all__ = ["HistoryModel"]

#: Ridge penalty; landmarks; width of the process's kernel; pilot ridge; ridge penalties that are compared.
RIDGE, LANDMARKS, WIDTH, PILOT = 60.0, 700, 0.4, 2.0
PENALTIES = np.logspace(-1, 4, 26)
#: Neighbours over which costs are averaged, and for a history of at most 500 requests.
COST_NEIGHBOURS, COST_NEIGHBOURS_SMALL, SMALL = 100, 40, 500
#: Neighbours, width and pseudo-count of the kernel residual, as the core has them.
NEIGHBOURS, TAU, KAPPA = 100, 0.2, 5.0


@dataclass(frozen=True)
class HistoryModel:
    """Quality of every model on a request, from requests on which all of them were tried.

    The mean of two predictors: a ridge regression with a kernel-weighted mean of its leave-one-out residuals over the 100
    nearest requests, and a Gaussian process over all models at once, on 700 landmarks.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(300, 8))
    >>> y = (x[:, :2] > 0).astype(float)
    >>> quality, _ = HistoryModel.fit(x, y).predict(x[:5])
    >>> bool((abs(quality - y[:5]) < 0.5).all())
    True
    """

    parts: dict[str, npt.NDArray[np.float32]]
    cost_neighbours: int

    @classmethod
    def fit(cls, embeddings: Any, quality: Any, costs: Any = None, *, seed: int = 0) -> HistoryModel:
        """Fit from (n, d) embeddings, (n, m) qualities in [0, 1] and, if known, (n, m) costs. O(n·d² + n·700²).

        Raises
        ------
        NotFiniteError, ShapeError, DimensionMismatch
            If an input is not such an array.
        LearningError
            If there are fewer than 10 requests.
        """
        x = unit_rows(matrix("embeddings", embeddings))
        y = matrix("quality", quality)
        if len(y) != len(x):
            from sona.exceptions import DimensionMismatch

            raise DimensionMismatch(f"quality: expected dimension {len(x)}, got {len(y)}")
        if len(x) < 10:
            raise LearningError(f"embeddings: expected 10 requests or more, got {len(x)}")
        mean = y.mean(axis=0)
        ridge, intercept, residuals = _ridge(x, y, mean)
        landmarks, process = _process(x, y - mean, np.random.default_rng(seed))
        parts = {
            "rows": x,
            "residuals": residuals,
            "ridge": ridge.T,
            "intercept": intercept,
            "landmarks": landmarks,
            "process": process,
            "mean": mean,
        }
        if costs is not None:
            parts["costs"] = matrix("costs", costs, y.shape[1])
        near = COST_NEIGHBOURS if len(x) > SMALL else COST_NEIGHBOURS_SMALL
        return cls({k: np.ascontiguousarray(v, dtype=np.float32) for k, v in parts.items()}, near)

    def predict(self, embeddings: Any) -> tuple[Floats, Floats | None]:
        """Return (n, m) qualities, and (n, m) local costs if costs were given, for (n, d) embeddings.

        The core computes the same for one request at a time; this is the reference, and fast for many.
        """
        p = self.parts
        x = unit_rows(matrix("embeddings", embeddings, p["rows"].shape[1]))
        s = x @ p["rows"].T.astype(np.float64)
        count = min(max(NEIGHBOURS, self.cost_neighbours), s.shape[1])
        near = np.argsort(-s, axis=1, kind="stable")[:, :count]
        at = near[:, :NEIGHBOURS]
        w = np.exp((np.take_along_axis(s, at, axis=1) - s.max(axis=1, keepdims=True)) / TAU)
        local = np.einsum("nk,nkm->nm", w, p["residuals"][at]) / (w.sum(axis=1, keepdims=True) + KAPPA)
        linear = x @ p["ridge"].T + p["intercept"] + local
        kernel = np.exp((x @ p["landmarks"].T - 1.0) / WIDTH)
        quality = 0.5 * (linear + p["mean"] + kernel @ p["process"])
        if "costs" not in p:
            return quality, None
        return quality, p["costs"][near[:, : self.cost_neighbours]].mean(axis=1).astype(np.float64)


def unit_rows(x: Floats) -> Floats:
    """Rows of length one; zero rows stay."""
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 0, norm, 1.0)


def _ridge(x: Floats, y: Floats, mean: Floats) -> tuple[Floats, Floats, Floats]:
    """Coefficients (d, m), intercepts (m,) and leave-one-out residuals (n, m)."""
    centre = x.mean(axis=0)
    xc = x - centre
    gram = xc.T @ xc + RIDGE * np.eye(x.shape[1])
    solved = np.linalg.solve(gram, xc.T)
    w = solved @ (y - mean)
    leverage = np.einsum("nd,dn->n", xc, solved) + 1.0 / len(x)
    residuals = (y - mean - xc @ w) / (1.0 - leverage)[:, None]
    return w, mean - centre @ w, residuals


def _process(x: Floats, y: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Landmarks (l, d) and their coefficients (l, m): a Gaussian process whose tasks share what their noise allows."""
    n, m = y.shape
    landmarks = x[rng.choice(n, size=min(LANDMARKS, n), replace=False)]
    kernel = np.exp((landmarks @ landmarks.T - 1.0) / WIDTH)
    values, vectors = np.linalg.eigh(kernel)
    root = vectors / np.sqrt(np.maximum(values, 1e-6))
    features = np.exp((x @ landmarks.T - 1.0) / WIDTH) @ root
    values, vectors = np.linalg.eigh(features.T @ features)
    values = np.maximum(values, 0.0)
    rotated = features @ vectors
    # Tasks that the signal tells apart: eigenvectors of the pilot fit's covariance in units of its residual's.
    fit = rotated @ ((rotated.T @ y) / (values + PILOT)[:, None])
    noise = (y - fit).T @ (y - fit) / n + 1e-4 * np.eye(m)
    lower = np.linalg.cholesky(noise)
    inverse = np.linalg.inv(lower)
    _, q = np.linalg.eigh(inverse @ (fit.T @ fit / n) @ inverse.T)
    tasks = inverse.T @ q
    targets = y @ tasks
    projected = rotated.T @ targets
    weights = np.empty_like(projected)
    total = (targets**2).sum(axis=0)
    for j in range(m):
        # Generalised cross-validation in the eigenbasis of the features.
        shrink = values[:, None] / (values[:, None] + PENALTIES)
        a = projected[:, j] ** 2
        gain = (a[:, None] * (2.0 / (values[:, None] + PENALTIES) - values[:, None] / (values[:, None] + PENALTIES) ** 2)).sum(
            axis=0
        )
        score = (total[j] - gain) / (1.0 - shrink.sum(axis=0) / n) ** 2
        weights[:, j] = projected[:, j] / (values + PENALTIES[int(np.argmin(score))])
    return landmarks, root @ (vectors @ (weights @ np.linalg.inv(tasks)))
