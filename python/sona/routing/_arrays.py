"""Checks of float64 inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sona.exceptions import DimensionMismatch, NotFiniteError, ShapeError

Floats = npt.NDArray[np.float64]


def vector(name: str, x: Any, length: int | None = None) -> Floats:
    """(n,) float64, finite."""
    out = np.asarray(x, dtype=np.float64)
    if out.ndim != 1:
        raise ShapeError(f"{name}: expected shape (n,), got {out.shape}")
    if length is not None and len(out) != length:
        raise DimensionMismatch(f"{name}: expected dimension {length}, got {len(out)}")
    return finite(name, out)


def matrix(name: str, x: Any, columns: int | None = None) -> Floats:
    """(n, d) float64, finite."""
    out = np.asarray(x, dtype=np.float64)
    if out.ndim != 2:
        raise ShapeError(f"{name}: expected shape (n, {columns or 'd'}), got {out.shape}")
    if columns is not None and out.shape[1] != columns:
        raise DimensionMismatch(f"{name}: expected dimension {columns}, got {out.shape[1]}")
    return finite(name, out)


def finite(name: str, x: Floats) -> Floats:
    """The array itself, if every value is finite."""
    bad = ~np.isfinite(x)
    if bad.any():
        where = int(np.flatnonzero(bad)[0])
        raise NotFiniteError(f"{name}: not finite at index {where} ({x.flat[where]})")
    return x
