"""What one request did and how it turned out: records, the bounded buffer, learning signals.

A :class:`TrajectoryBuilder` collects the steps of a request and builds a :class:`QueryTrajectory`; a
:class:`TrajectoryBuffer` keeps trajectories between the threads that serve and the loop that learns; a
:class:`LearningSignal` turns an outcome into a direction for an adapter's output.
"""

from __future__ import annotations

from sona._core import RewardBaseline as RewardBaseline
from sona._core import TrajectoryBuffer as TrajectoryBuffer
from sona.trajectory._records import QueryTrajectory as QueryTrajectory
from sona.trajectory._records import TrajectoryBuilder as TrajectoryBuilder
from sona.trajectory._records import TrajectoryStep as TrajectoryStep
from sona.trajectory._signals import LearningSignal as LearningSignal
from sona.trajectory._signals import SignalMetadata as SignalMetadata

__all__ = [
    "LearningSignal",
    "QueryTrajectory",
    "RewardBaseline",
    "SignalMetadata",
    "TrajectoryBuffer",
    "TrajectoryBuilder",
    "TrajectoryStep",
]
