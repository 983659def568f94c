"""Continual learning: yesterday's users stay served while the adapter learns today's.

:class:`EwcPlusPlus` holds parameters where earlier tasks need them, :class:`BoundaryDetector` tells when the task changed, and
:class:`PriorityReplayBuffer` keeps examples to train on again. Replay is the strong baseline: see
``docs/explanation/forgetting.md`` for what each of them is worth.
"""

from __future__ import annotations

from dataclasses import dataclass

from sona._core import (
    BoundaryDetector,
    EwcPlusPlus,
    PriorityReplayBuffer,
    ReplayBatch,
    check_ewc_config,
    estimate_fisher,
)

__all__ = [
    "BoundaryDetector",
    "EwcConfig",
    "EwcPlusPlus",
    "PriorityReplayBuffer",
    "ReplayBatch",
    "estimate_fisher",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class EwcConfig:
    """Settings of :class:`EwcPlusPlus`.

    Parameters
    ----------
    param_count : int
        Length of every vector; for one layer of a ``BaseLoRA`` 2 · rank · hidden_dim.
    max_tasks : int, default 10
        Tasks that are held apart; beyond, the two oldest merge.
    initial_lambda : float, default 1000.0
        Strength of the pull to begin with, taken as it is; the range below applies to changes.
    fisher_ema_decay : float, default 0.999
        Share of the running Fisher information that one sample leaves, in [0, 1).
    boundary_threshold : float, default 2.0
        Threshold of ``detect_task_boundary``.
    min_lambda, max_lambda : float, default 100.0 and 10_000.0
        Range of λ when it is set or adjusted.
    normalize_fisher : bool, default True
        Scale each task's Fisher information to mean 1, so that λ means the same for every model.

    Raises
    ------
    ConfigError
        A setting is out of range.

    Examples
    --------
    >>> EwcConfig(param_count=4096).initial_lambda
    1000.0
    """

    param_count: int
    max_tasks: int = 10
    initial_lambda: float = 1000.0
    fisher_ema_decay: float = 0.999
    boundary_threshold: float = 2.0
    min_lambda: float = 100.0
    max_lambda: float = 10_000.0
    normalize_fisher: bool = True

    def __post_init__(self) -> None:
        check_ewc_config(self)
