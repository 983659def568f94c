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

    Attributes
    ----------
    centroids
        Shape ``(k, d)``, float32; fewer rows than asked for where seeding found fewer distinct points.
    labels
        Nearest centroid of each row, the lowest index among equals, shape ``(n,)``, int64.
    inertia
        Sum of weight times squared distance to that centroid.
    iterations
        Updates done (mini-batches with ``algorithm="minibatch"``).
    converged
        Whether the last largest centroid move was at most ``tol``.
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

    Parameters
    ----------
    X
        Points, shape ``(n, d)``, float32.
    k
        Number of clusters, ``1 <= k <= n``.
    init
        ``"k-means++"`` (greedy D² seeding: of 2 + ln k draws the one that lowers the error most, judged on a
        sample where ``n`` is large), or the first centroids, shape ``(k, d)``.
    weights
        Shape ``(n,)``, at least 0 and not all 0; 1 each by default.
    max_iterations
        Updates at most; mini-batches of 2,048 points with ``algorithm="minibatch"``.
    tol
        Stop when the largest centroid move, a Euclidean distance, is at most this.
    metric
        ``"euclidean"`` or ``"cosine"``. The latter is spherical k-means: rows and centroids are scaled to
        unit length and a squared distance is ``2 (1 - cos)``. A zero row has no direction and is refused.
    algorithm
        ``"lloyd"`` scans all centroids for every point, ``"hamerly"`` skips points whose nearest centroid
        cannot have changed and scans in full while that would not pay; both return the same bits. ``"auto"``
        is ``"hamerly"``. ``"minibatch"`` is approximate, for large ``n``.
    seed
        Seed of all draws.
    n_threads
        Threads; the result is the same, bit for bit, for any number.

    Returns
    -------
    KMeansResult
        The labels belong to the returned centroids.

    Raises
    ------
    ValueError
        If ``k``, ``tol``, ``weights`` or a name is out of range, or there are no rows.
    NotFiniteError
        If ``X``, ``init`` or ``weights`` holds NaN or infinity.
    DimensionMismatch
        If ``init`` or ``weights`` has another length.

    Notes
    -----
    An empty cluster is re-seeded at the point of largest weighted error. O(n k d) per iteration. Holds a copy
    of ``X``, one more packed for the scan, and a third where rows are scaled or lie far from the origin.

    References
    ----------
    Arthur & Vassilvitskii 2007, k-means++ (algorithm 1; section 5 for the greedy form); Lloyd 1982; Hamerly
    2010, Making k-means even faster; Sculley 2010, Web-scale k-means clustering (algorithm 1).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.patterns import kmeans
    >>> result = kmeans(np.array([[0.0], [0.5], [5.0], [5.5]]), 2)
    >>> sorted(result.centroids.ravel().tolist())
    [0.25, 5.25]
    >>> bool(result.labels[0] == result.labels[1]), bool(result.labels[0] == result.labels[2])
    (True, False)
    >>> result.inertia
    0.25
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
    return KMeansResult(centroids=centroids, labels=labels, inertia=inertia, iterations=iterations, converged=converged)


def kmeans_plus_plus(X: npt.ArrayLike, k: int, *, weights: npt.ArrayLike | None = None, seed: int = 0) -> npt.NDArray[np.int64]:
    """Draw rows of ``X`` as centroids: the first in proportion to its weight, each next to weight times D².

    Parameters
    ----------
    X
        Points, shape ``(n, d)``, float32.
    k
        Number of rows to draw, ``1 <= k <= n``.
    weights
        Shape ``(n,)``, at least 0 and not all 0; 1 each by default.
    seed
        Seed of the draws.

    Returns
    -------
    numpy.ndarray
        Indices in the order they were drawn, shape ``(k,)``, int64; fewer where fewer distinct rows carry
        weight.

    Raises
    ------
    ValueError
        If ``k`` or ``weights`` is out of range, or there are no rows.
    NotFiniteError
        If ``X`` or ``weights`` holds NaN or infinity.
    DimensionMismatch
        If ``weights`` has another length.

    Notes
    -----
    O(n k d).

    References
    ----------
    Arthur & Vassilvitskii 2007, k-means++: the advantages of careful seeding (algorithm 1).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.patterns import kmeans_plus_plus
    >>> sorted(kmeans_plus_plus(np.array([[0.0], [1.0], [1.0]]), 3).tolist()) in ([0, 1], [0, 2])
    True
    """
    return _core.kmeans_plus_plus(X, k, weights=weights, seed=seed)
