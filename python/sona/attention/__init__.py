"""Attention mechanisms on numpy arrays, in float32 and float64."""

from __future__ import annotations

from sona import _core
from sona.attention._errors import CycleError, DTypeError, GateSkipped, GraphError, ParameterError
from sona.attention._results import AttentionOutput
from sona.attention._vjp import vjp
from sona.attention.dot_product import flash_attention, scaled_dot_product_attention
from sona.exceptions import ShapeError

__all__ = [
    "AttentionOutput",
    "CycleError",
    "DTypeError",
    "GateSkipped",
    "GraphError",
    "ParameterError",
    "ShapeError",
    "flash_attention",
    "get_num_threads",
    "scaled_dot_product_attention",
    "set_num_threads",
    "vjp",
]


def set_num_threads(n: int) -> None:
    """Set how many threads one call may use; results do not depend on it.

    >>> set_num_threads(1); get_num_threads()
    1
    """
    if n < 1:
        raise ParameterError(f"n: expected at least 1, got {n}")
    _core.set_attention_threads(n)


def get_num_threads() -> int:
    """How many threads one call may use: what was set, else the processors available."""
    return _core.attention_threads()
