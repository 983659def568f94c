"""Data and float64 scores for the tests of the index."""

from __future__ import annotations

import numpy as np

METRICS = ["cosine", "dot", "euclidean"]
DTYPES = ["float32", "int8"]


def scores64(metric, queries, rows):
    """Exact scores in float64, (m, n)."""
    q, x = np.asarray(queries, np.float64), np.asarray(rows, np.float64)
    if metric == "euclidean":
        return np.stack([-((v - x) ** 2).sum(-1) for v in q])
    dots = q @ x.T
    if metric == "dot":
        return dots
    norms = np.linalg.norm(q, axis=1)[:, None] * np.linalg.norm(x, axis=1)[None, :]
    return np.divide(dots, norms, out=np.zeros_like(dots), where=norms > 0)


def mixture(n, d, seed, centres=40, noise=0.6):
    """Points around shared centres on the sphere, as sentence vectors lie."""
    centre = np.random.default_rng(1234).standard_normal((centres, d))
    rng = np.random.default_rng(seed)
    x = centre[rng.integers(0, centres, n)] + noise * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def recall(found, exact):
    return np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, exact, strict=True)])
