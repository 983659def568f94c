"""What the graph functions share: checked edges and weights."""

from __future__ import annotations

import operator
from typing import Any

from sona import _core
from sona.attention._arrays import Array, floats, integers, quote
from sona.attention._errors import GraphError, ParameterError
from sona.exceptions import ShapeError

__all__ = ["count", "edges", "fit", "inputs", "key", "sorted_edges", "wide"]


def edges(edge_index: Any) -> Array:
    """Sources and targets, int64 (2, E)."""
    try:
        a = integers("edge_index", edge_index)
    except ShapeError as error:
        raise GraphError(str(error)) from error
    if a.ndim == 1 and a.size == 0:
        a = a.reshape(2, 0)
    if a.ndim != 2 or a.shape[0] != 2:
        raise GraphError(f"edge_index: expected shape (2, E), got {a.shape}")
    return a


def sorted_edges(edge_index: Any, n: int, *, loops: bool) -> _core.GraphEdges:
    """Edges sorted by target; with `loops`, own self loops are dropped and each node gets one."""
    return _core.GraphEdges(n, edges(edge_index), loops)


def inputs(**arrays: Any) -> dict[str, Array]:
    """Arrays of one precision by name; those that are None are left out."""
    given = floats(list(arrays), list(arrays.values()))
    return {name: a for name, a in zip(arrays, given, strict=True) if a is not None}


def fit(a: dict[str, Array], **shapes: tuple[int, ...]) -> None:
    """ShapeError unless every array that is given has its shape."""
    for name, shape in shapes.items():
        if name in a and a[name].shape != shape:
            raise ShapeError(f"{name}: expected shape {shape}, got {quote(list(a), list(a.values()))}")


def wide(a: dict[str, Array], weight: str) -> tuple[int, int, int]:
    """n, features and outputs, from x and a weight (outputs, features)."""
    x, w = a["x"], a[weight]
    if x.ndim != 2 or w.ndim != 2 or w.shape[1] != x.shape[1]:
        raise ShapeError(f"expected x (n, F) and {weight} (out, F), got {quote(list(a), list(a.values()))}")
    return x.shape[0], x.shape[1], w.shape[0]


def count(name: str, value: Any, least: int) -> int:
    """An int of at least `least`, else ParameterError."""
    i = operator.index(value)
    if i < least:
        raise ParameterError(f"{name}: expected at least {least}, got {i}")
    return i


def key(seed: int) -> int:
    """Any int as 64 bits."""
    return operator.index(seed) & 0xFFFF_FFFF_FFFF_FFFF
