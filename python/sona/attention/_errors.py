"""Errors of `sona.attention`."""

from __future__ import annotations

from sona.exceptions import ConfigError, SonaError

__all__ = ["CycleError", "DTypeError", "GateSkipped", "GraphError", "ParameterError"]


class ParameterError(ConfigError):
    """A parameter is out of its range, a name or option is unknown, or NaN stands where it has no order."""


class DTypeError(SonaError, TypeError):
    """An array is neither float32 nor float64 where floats are expected, or has another wrong type."""


class GraphError(SonaError, ValueError):
    """A node number is out of range, or a list of edges is malformed."""


class CycleError(GraphError):
    """A graph that must be acyclic has a cycle; ``cycle`` lists its nodes in order."""

    def __init__(self, message: str, cycle: list[int] | None = None) -> None:
        super().__init__(message)
        self.cycle: list[int] = list(cycle or [])


class GateSkipped(SonaError, ValueError):  # noqa: N818 - the public name is part of the design
    """The gate packet says that this attention must not run."""
