"""Retrieval, routing and agents that learn from outcomes: in-process, in microseconds, on the CPU."""

from __future__ import annotations

from sona._core import __version__
from sona.config import SonaConfig
from sona.engine import Decision, SonaEngine
from sona.exceptions import (
    CapacityError,
    ConfigError,
    CorruptStateError,
    DimensionMismatch,
    LearningError,
    NotFiniteError,
    ScopeError,
    ShapeError,
    SonaError,
    StoreError,
)

__all__ = [
    "CapacityError",
    "ConfigError",
    "CorruptStateError",
    "Decision",
    "DimensionMismatch",
    "LearningError",
    "NotFiniteError",
    "ScopeError",
    "ShapeError",
    "SonaConfig",
    "SonaEngine",
    "SonaError",
    "StoreError",
    "__version__",
]
