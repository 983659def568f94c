"""Retrieval, routing and agents that learn from outcomes: in-process, in microseconds, on the CPU.

The engine and its settings are here; the rooms of the library (``sona.attention``, ``sona.lora``, ``sona.patterns``,
``sona.trajectory``, …) load when they are first used.

>>> import sona
>>> sona.MicroLoRA(8).rank
2
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sona._core import __version__
from sona.config import SonaConfig
from sona.engine import Decision, SonaEngine
from sona.exceptions import (
    CapacityError,
    ConfigError,
    CorruptStateError,
    CryptoError,
    DimensionMismatch,
    EconomyError,
    GovernanceError,
    LearningError,
    NotFiniteError,
    ScopeError,
    ShapeError,
    SonaError,
    StoreError,
)

if TYPE_CHECKING:
    from sona.continual import EwcConfig, EwcPlusPlus
    from sona.dag import DagEngine, OperatorType, QueryDag
    from sona.dreams import DreamEngine, MemoryConsolidator, PhiEvaluator
    from sona.loops import BackgroundLoop, DeepLoop, InstantLoop, LoopCoordinator
    from sona.lora import AdapterPool, BaseLoRA, MicroLoRA
    from sona.patterns import CaseMemory, ItemGate, LearnedPattern, ReasoningBank, VectorIndex, kmeans
    from sona.plasticity import BTSPLayer, BTSPMemory, EpropLayer
    from sona.routing import FastGRNN, TinyDancerRouter
    from sona.trajectory import (
        LearningSignal,
        QueryTrajectory,
        RewardBaseline,
        SignalMetadata,
        TrajectoryBuffer,
        TrajectoryBuilder,
        TrajectoryStep,
    )

__all__ = [
    "AdapterPool",
    "BTSPLayer",
    "BTSPMemory",
    "BackgroundLoop",
    "BaseLoRA",
    "CapacityError",
    "CaseMemory",
    "ConfigError",
    "CorruptStateError",
    "CryptoError",
    "DagEngine",
    "Decision",
    "DeepLoop",
    "DimensionMismatch",
    "DreamEngine",
    "EconomyError",
    "EpropLayer",
    "EwcConfig",
    "EwcPlusPlus",
    "FastGRNN",
    "GovernanceError",
    "InstantLoop",
    "ItemGate",
    "LearnedPattern",
    "LearningError",
    "LearningSignal",
    "LoopCoordinator",
    "MemoryConsolidator",
    "MicroLoRA",
    "NotFiniteError",
    "OperatorType",
    "PhiEvaluator",
    "QueryDag",
    "QueryTrajectory",
    "ReasoningBank",
    "RewardBaseline",
    "ScopeError",
    "ShapeError",
    "SignalMetadata",
    "SonaConfig",
    "SonaEngine",
    "SonaError",
    "StoreError",
    "TinyDancerRouter",
    "TrajectoryBuffer",
    "TrajectoryBuilder",
    "TrajectoryStep",
    "VectorIndex",
    "__version__",
    "kmeans",
]

# Where the names live that are loaded on first use, so that importing the package stays cheap.
_ROOMS = {
    "attention": (),
    "continual": ("EwcConfig", "EwcPlusPlus"),
    "dag": ("DagEngine", "OperatorType", "QueryDag"),
    "dreams": ("DreamEngine", "MemoryConsolidator", "PhiEvaluator"),
    "loops": ("BackgroundLoop", "DeepLoop", "InstantLoop", "LoopCoordinator"),
    "lora": ("AdapterPool", "BaseLoRA", "MicroLoRA"),
    "patterns": ("CaseMemory", "ItemGate", "LearnedPattern", "ReasoningBank", "VectorIndex", "kmeans"),
    "routing": ("FastGRNN", "TinyDancerRouter"),
    "plasticity": ("BTSPLayer", "BTSPMemory", "EpropLayer"),
    "store": (),
    "trajectory": (
        "LearningSignal",
        "QueryTrajectory",
        "RewardBaseline",
        "SignalMetadata",
        "TrajectoryBuffer",
        "TrajectoryBuilder",
        "TrajectoryStep",
    ),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"sona.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"sona.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'sona' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_ROOMS, *_HOME})
