"""Keep the system healthy: coherence of graphs, detectors, self-healing, daily rhythm, and shares of what is scarce.

>>> from sona.control import MinCut
>>> graph = MinCut(2)
>>> graph.set_edge(0, 1, 1.5)
1.5
"""

from sona._core import (
    Adwin,
    AnomalyDetector,
    Cusum,
    Ewma,
    MinCut,
    PageHinkley,
    RobustZ,
    mad,
    tension,
    theil_sen,
)
from sona.control.circadian import CircadianController, CircadianPhase
from sona.control.coherence import CoherenceMonitor, GatePacket
from sona.control.events import Event, EventBus, EventKind
from sona.control.evolution import (
    AdaptiveArchitecture,
    ParetoFront,
    crowding_distance,
    hypervolume,
    non_dominated_sort,
)
from sona.control.graph import ComputeGraph
from sona.control.healing import ActionReport, Anomaly, HealingOrchestrator, PredictiveConfig
from sona.control.quantizer import AutoQuantizer, BitAllocation
from sona.control.resources import ResourceAllocator

__all__ = [
    "ActionReport",
    "AdaptiveArchitecture",
    "Adwin",
    "Anomaly",
    "AnomalyDetector",
    "AutoQuantizer",
    "BitAllocation",
    "CircadianController",
    "CircadianPhase",
    "CoherenceMonitor",
    "ComputeGraph",
    "Cusum",
    "Event",
    "EventBus",
    "EventKind",
    "Ewma",
    "GatePacket",
    "HealingOrchestrator",
    "MinCut",
    "PageHinkley",
    "ParetoFront",
    "PredictiveConfig",
    "ResourceAllocator",
    "RobustZ",
    "crowding_distance",
    "hypervolume",
    "mad",
    "non_dominated_sort",
    "tension",
    "theil_sen",
]
