"""Cost and quality: the hull of what routers reach, and the area under it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from sona.exceptions import NotFiniteError
from sona.routing._arrays import matrix

__all__ = ["aiq", "pareto_hull"]


def pareto_hull(points: Any) -> npt.NDArray[np.float64]:
    """Return the non-decreasing upper convex hull of (cost, quality) points.

    Parameters
    ----------
    points : (n, 2) array
        Cost and quality of each operating point.

    Returns
    -------
    (m, 2) float64
        Corners, cost ascending: what a random mix of the points can reach at each cost. Empty for no points.

    Raises
    ------
    NotFiniteError, ShapeError, DimensionMismatch
        If ``points`` is not such an array.

    Notes
    -----
    O(n log n). A hull drawn on the points that it is judged on flatters every method.

    References
    ----------
    Hu et al. 2024, RouterBench, section 3.

    Examples
    --------
    >>> pareto_hull([[1.0, 0.5], [2.0, 0.4], [3.0, 0.7], [2.0, 0.65]]).tolist()
    [[1.0, 0.5], [2.0, 0.65], [3.0, 0.7]]
    """
    p = np.asarray(points, dtype=np.float64)
    if p.size == 0:
        return np.zeros((0, 2))
    p = matrix("points", p, 2)
    # The best at each cost, cheapest first; then corners that fall below a chord go.
    hull: list[tuple[float, float]] = []
    for i in np.lexsort((-p[:, 1], p[:, 0])):
        cost, quality = float(p[i, 0]), float(p[i, 1])
        if hull and quality <= hull[-1][1]:
            continue
        while len(hull) >= 2:
            (c0, q0), (c1, q1) = hull[-2:]
            if (q1 - q0) * (cost - c0) > (quality - q0) * (c1 - c0):
                break
            hull.pop()
        hull.append((cost, quality))
    return np.array(hull)


def aiq(points: Any, cost_min: float, cost_max: float) -> float:
    """Return the average quality of the hull between two costs (AIQ).

    Parameters
    ----------
    points : (n, 2) array
        Cost and quality of each operating point.
    cost_min, cost_max : float
        Range of costs, the same for every router that is compared.

    Returns
    -------
    float
        The exact area under the hull over the range, divided by its width. The hull is flat beyond its ends.

    Raises
    ------
    ValueError
        If there is no point, or ``cost_max`` is not above ``cost_min``.

    References
    ----------
    Hu et al. 2024, RouterBench.

    Examples
    --------
    >>> round(aiq([[0.0, 0.0], [1.0, 1.0]], 0.0, 2.0), 6)
    0.75
    """
    for name, v in (("cost_min", cost_min), ("cost_max", cost_max)):
        if not math.isfinite(v):
            raise NotFiniteError(f"{name}: not finite ({v})")
    if not cost_max > cost_min:
        raise ValueError(f"cost_max: expected a number above {cost_min}, got {cost_max}")
    hull = pareto_hull(points)
    if len(hull) == 0:
        raise ValueError("points: expected at least one, got none")
    inside = hull[(hull[:, 0] > cost_min) & (hull[:, 0] < cost_max), 0]
    at = np.concatenate([[cost_min], inside, [cost_max]])
    quality = np.interp(at, hull[:, 0], hull[:, 1])
    area = float((np.diff(at) * (quality[1:] + quality[:-1])).sum()) / 2.0
    return area / (cost_max - cost_min)
