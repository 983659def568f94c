"""K-means: D² seeding, exact and mini-batch clustering."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sona import _core

__all__ = ["KMeansResult", "kmeans", "kmeans_plus_plus"]


@dataclass(frozen=True, kw_only=True, eq=False)
class KMeansResult:
    """What :func:`kmeans` found.

    Attributes:
        centroids: ``(k, d)`` float32; fewer rows than asked for where seeding found fewer distinct points.
        labels: ``(n,)`` int64, nearest centroid of each row, the lowest index among equals.
        inertia: sum of weight times squared distance to that centroid.
        iterations: updates done (mini-batches with ``algorithm="minibatch"``).
        converged: the last largest centroid move was at most ``tol``.

    """

    centroids: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    inertia: float
    iterations: int
    converged: bool


def kmeans(
    X: npt.ArrayLike,
    k: int,
    *,
    init: npt.ArrayLike | Literal["k-means++"] = "k-means++",
    weights: npt.ArrayLike | None = None,
    max_iterations: int = 100,
    tol: float = 1e-3,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    algorithm: Literal["auto", "lloyd", "hamerly", "minibatch"] = "auto",
    seed: int = 0,
    n_threads: int = 1,
) -> KMeansResult:
    """Cluster the rows of ``X`` around ``k`` centroids.

    Args:
        X: ``(n, d)`` float32.
        k: number of clusters, ``1 <= k <= n``.
        init: ``"k-means++"`` (D² seeding from ``seed``) or the first centroids ``(k, d)``.
        weights: ``(n,)``, at least 0, not all 0; default 1 each.
        max_iterations: updates at most; mini-batches of 2,048 points with ``algorithm="minibatch"``.
        tol: stop when the largest centroid move, a Euclidean distance, is at most this.
        metric: ``"cosine"`` is spherical k-means: rows are scaled to unit length, centroids too, and a squared
            distance is ``2 (1 - cos)``. A zero row has no direction and is refused.
        algorithm: ``"lloyd"`` scans all centroids for every point, ``"hamerly"`` skips points whose nearest centroid
            cannot have changed; both return the same bits. ``"auto"`` takes the faster exact one. ``"minibatch"`` is
            approximate, for large ``n``.
        seed: seed of all draws.
        n_threads: threads; the result is the same, bit for bit, for any number.

    Returns:
        Centroids, labels, inertia, iterations and whether it converged. The labels belong to the returned centroids.

    Raises:
        ValueError: ``k``, ``tol``, ``weights`` or a name out of range, or no rows.
        NotFiniteError: NaN or infinity in ``X``, ``init`` or ``weights``.
        DimensionMismatch: ``init`` or ``weights`` of another length.

    An empty cluster is re-seeded at the point of largest weighted error. O(n k d) per iteration. Holds a copy of ``X``,
    one more packed for the scan, and a third where rows are scaled or lie far from the origin.

    References:
        Arthur & Vassilvitskii 2007, k-means++; Lloyd 1982; Hamerly 2010, Making k-means even faster;
        Sculley 2010, Web-scale k-means clustering.

    >>> import numpy as np
    >>> from sona.patterns import kmeans
    >>> result = kmeans(np.array([[0.0], [0.2], [5.0], [5.2]]), 2)
    >>> sorted(result.centroids.ravel().round(1).tolist())
    [0.1, 5.1]
    >>> result.labels[0] == result.labels[1], result.labels[0] == result.labels[2]
    (np.True_, np.False_)
    >>> round(result.inertia, 3)
    0.04

    """
    centroids, labels, inertia, iterations, converged = _core.kmeans(
        X,
        k,
        init=init,
        weights=weights,
        max_iterations=max_iterations,
        tol=tol,
        metric=metric,
        algorithm=algorithm,
        seed=seed,
        n_threads=n_threads,
    )
    return KMeansResult(
        centroids=centroids, labels=labels, inertia=inertia, iterations=iterations, converged=converged
    )


def kmeans_plus_plus(
    X: npt.ArrayLike, k: int, *, weights: npt.ArrayLike | None = None, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Draw rows of ``X`` as first centroids: the first in proportion to its weight, each next to weight times D².

    Args:
        X: ``(n, d)`` float32.
        k: number of rows, ``1 <= k <= n``.
        weights: ``(n,)``, at least 0, not all 0; default 1 each.
        seed: seed of the draws.

    Returns:
        ``(k,)`` int64 indices in the order they were drawn; fewer where fewer distinct rows carry weight.

    Raises:
        ValueError: ``k`` or ``weights`` out of range, or no rows.
        NotFiniteError: NaN or infinity.
        DimensionMismatch: ``weights`` of another length.

    O(n k d).

    References:
        Arthur & Vassilvitskii 2007, k-means++: the advantages of careful seeding, algorithm 1.

    >>> import numpy as np
    >>> from sona.patterns import kmeans_plus_plus
    >>> sorted(kmeans_plus_plus(np.array([[0.0], [1.0], [1.0]]), 3).tolist()) in ([0, 1], [0, 2])
    True

    """
    return _core.kmeans_plus_plus(X, k, weights=weights, seed=seed)
