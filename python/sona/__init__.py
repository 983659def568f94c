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
    from sona.continual import BoundaryDetector, EwcConfig, EwcPlusPlus, PriorityReplayBuffer
    from sona.control import (
        AdaptiveArchitecture,
        AnomalyDetector,
        AutoQuantizer,
        CircadianController,
        CoherenceMonitor,
        ComputeGraph,
        EventBus,
        HealingOrchestrator,
        MinCut,
        ResourceAllocator,
    )
    from sona.dag import DagEngine, OperatorType, QueryDag
    from sona.dreams import DreamConfig, DreamEngine, EdgeWeights, MemoryConsolidator, MemoryNode, PhiEvaluator
    from sona.loops import (
        BackgroundLoop,
        BackgroundLoopConfig,
        DeepLoop,
        DeepLoopConfig,
        InstantLoop,
        InstantLoopConfig,
        LoopCoordinator,
    )
    from sona.lora import AdapterPool, BaseLoRA, MicroLoRA, QAMicroLoRA, QuantizedMicroLoRA
    from sona.patterns import (
        CaseMemory,
        ItemGate,
        LearnedPattern,
        PatternConfig,
        QLearningPatterns,
        ReasoningBank,
        VectorIndex,
        kmeans,
    )
    from sona.plasticity import BTSPLayer, BTSPMemory, EpropLayer
    from sona.process import Context, Response
    from sona.routing import FastGRNN, KnnRouter, TinyDancerRouter
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
    "AdaptiveArchitecture",
    "AnomalyDetector",
    "AutoQuantizer",
    "BTSPLayer",
    "BTSPMemory",
    "BackgroundLoop",
    "BackgroundLoopConfig",
    "BaseLoRA",
    "BoundaryDetector",
    "CapacityError",
    "CaseMemory",
    "CircadianController",
    "CoherenceMonitor",
    "ComputeGraph",
    "ConfigError",
    "Context",
    "CorruptStateError",
    "CryptoError",
    "DagEngine",
    "Decision",
    "DeepLoop",
    "DeepLoopConfig",
    "DimensionMismatch",
    "DreamConfig",
    "DreamEngine",
    "EconomyError",
    "EdgeWeights",
    "EpropLayer",
    "EventBus",
    "EwcConfig",
    "EwcPlusPlus",
    "FastGRNN",
    "GovernanceError",
    "HealingOrchestrator",
    "InstantLoop",
    "InstantLoopConfig",
    "ItemGate",
    "KnnRouter",
    "LearnedPattern",
    "LearningError",
    "LearningSignal",
    "LoopCoordinator",
    "MemoryConsolidator",
    "MemoryNode",
    "MicroLoRA",
    "MinCut",
    "NotFiniteError",
    "OperatorType",
    "PatternConfig",
    "PhiEvaluator",
    "PriorityReplayBuffer",
    "QAMicroLoRA",
    "QLearningPatterns",
    "QuantizedMicroLoRA",
    "QueryDag",
    "QueryTrajectory",
    "ReasoningBank",
    "ResourceAllocator",
    "Response",
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
    "continual": ("BoundaryDetector", "EwcConfig", "EwcPlusPlus", "PriorityReplayBuffer"),
    "control": (
        "AdaptiveArchitecture",
        "AnomalyDetector",
        "AutoQuantizer",
        "CircadianController",
        "CoherenceMonitor",
        "ComputeGraph",
        "EventBus",
        "HealingOrchestrator",
        "MinCut",
        "ResourceAllocator",
    ),
    "dag": ("DagEngine", "OperatorType", "QueryDag"),
    "dreams": ("DreamConfig", "DreamEngine", "EdgeWeights", "MemoryConsolidator", "MemoryNode", "PhiEvaluator"),
    "loops": (
        "BackgroundLoop",
        "BackgroundLoopConfig",
        "DeepLoop",
        "DeepLoopConfig",
        "InstantLoop",
        "InstantLoopConfig",
        "LoopCoordinator",
    ),
    "lora": ("AdapterPool", "BaseLoRA", "MicroLoRA", "QAMicroLoRA", "QuantizedMicroLoRA"),
    "patterns": (
        "CaseMemory",
        "ItemGate",
        "LearnedPattern",
        "PatternConfig",
        "QLearningPatterns",
        "ReasoningBank",
        "VectorIndex",
        "kmeans",
    ),
    "plasticity": ("BTSPLayer", "BTSPMemory", "EpropLayer"),
    "process": ("Context", "Response"),
    "routing": ("FastGRNN", "KnnRouter", "TinyDancerRouter"),
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
