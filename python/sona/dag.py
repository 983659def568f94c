"""Query plans: which setting, and which attention, made plans like this one faster.

A plan is a :class:`QueryDag` of operators. :class:`DagEngine` looks at it before the query runs, hears what it took, and
learns: :meth:`~DagEngine.choose` picks among the settings that the caller offers without losing more than a stated budget
against the default, :meth:`~DagEngine.predict_operators` says how long each operator will take.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sona import _core
from sona._plan import OperatorType, QueryDag
from sona.patterns import LearnedPattern, PatternMatch

__all__ = ["Choice", "DagEngine", "EnhancedEmbedding", "LearningResult", "OperatorType", "Prediction", "QueryDag"]


@dataclass(frozen=True)
class EnhancedEmbedding:
    """A plan as the engine sees it before it runs."""

    vector: npt.NDArray[np.float32]
    """``(dim,)``, unit length."""
    patterns: list[PatternMatch]
    """The most similar patterns of runs, with what was done and how it went."""
    mechanism: str
    """The attention that weighed the operators, a name in ``sona.attention``'s registry."""
    confidence: float
    """Share of the uncertainty about this plan that the evidence has removed, in [0, 1]."""


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of one run: the median, and the ends of the 95 % interval."""

    median_ms: float
    lower_ms: float
    upper_ms: float


@dataclass(frozen=True)
class Choice:
    """A setting for one run of a plan."""

    setting: str
    """What to run with."""
    propensity: float
    """Probability with which it was chosen; log it for off-policy evaluation."""
    predicted_ms: float
    """Median of the time under it."""
    default_ms: float
    """Median of the time under the default."""
    interval_ms: tuple[float, float]
    """Where the time lies with 95 %."""
    timeout_ms: float | None
    """When to stop the run and run the default instead: at twice the default's time; None for the
    default."""
    admitted: tuple[str, ...]
    """The settings that the budget allowed and that were worth a try."""


@dataclass(frozen=True)
class LearningResult:
    """What a background cycle did."""

    trajectories: int
    """Runs since the last cycle."""
    patterns: int
    """Patterns held."""
    updated: bool
    """Something changed that decisions read."""
    elapsed_s: float
    """Seconds."""
    status: str
    """``"learned"``, or ``"waiting"``: fewer than eight new runs, which are kept."""


class DagEngine:
    """Learn which plan setting, and which attention over the plan, was faster for plans like this one.

    Parameters
    ----------
    dim
        Length of the vectors, 1 to 65,536.
    rank
        Rank of the adapters, one per kind of operator: 1 or 2.
    capacity
        Runs kept for patterns.
    ewc_lambda
        Strength with which the adapters hold on to what they learned in earlier cycles; 0 switches it off.
    regret_budget
        A setting other than the default is tried only while what it may lose fits into this share of the time that the
        default would have taken so far: all of ``Choice.timeout_ms`` where the plan never ran with it, else its known
        loss, counted two standard deviations cautiously. With ``timeout_ms`` respected the total loss stays below
        that share, as far as the default's times are known and settings go on as they went.
    seed
        Seed of every random choice: same calls, same bits.

    Raises
    ------
    ConfigError
        A parameter is out of range.

    Notes
    -----
    The time of a plan under a setting is believed by a Gaussian process over ln(milliseconds): the plan's level and the
    setting's effect, each shared by similar plans and with a part of its own. Settings are drawn from that belief
    (Thompson sampling) if the budget admits them and what a run is expected to lose is below what it is expected to win,
    now and in as many more runs as the plan has had; where the default's time is not known to a factor of about 1.5, the
    default runs. Of the pairs (plan, setting) that were ever run the 1,024 most recently
    used are kept; a choice costs O(settings · pairs²), a background cycle O(160³) for each of about 200 trials. Safe to
    share between threads.

    References
    ----------
    Thompson 1933; Krause & Ong 2011, "Contextual Gaussian process bandit optimization"; Wu et al. 2016, "Conservative
    bandits"; Marcus et al. 2021, "Bao: making learned query optimization practical".

    Examples
    --------
    >>> from sona.dag import DagEngine, OperatorType, QueryDag
    >>> plan = QueryDag()
    >>> scan = plan.add_node(OperatorType.SCAN, rows=1e6)
    >>> engine = DagEngine(64, regret_budget=0.2)
    >>> cost = {"default": 10.0, "no_index": 7.0}
    >>> for _ in range(60):
    ...     choice = engine.choose(plan, list(cost))
    ...     engine.post_query(plan, cost[choice.setting], setting=choice.setting)
    >>> engine.choose(plan, list(cost)).setting
    'no_index'
    """

    def __init__(
        self,
        dim: int = 256,
        *,
        rank: int = 2,
        capacity: int = 10_000,
        ewc_lambda: float = 5000.0,
        regret_budget: float = 0.05,
        seed: int = 0,
    ) -> None:
        self._engine = _core.PlanLearner(
            dim=dim, rank=rank, capacity=capacity, ewc_lambda=ewc_lambda, regret_budget=regret_budget, seed=seed
        )

    def pre_query(self, dag: QueryDag) -> EnhancedEmbedding:
        """Look at a plan before it runs.

        Parameters
        ----------
        dag
            The plan.

        Returns
        -------
        EnhancedEmbedding
            Its vector: every operator through the adapter of its kind, weighed by the mechanism that made plans like it
            faster (use that mechanism's scores as priorities, and ``post_query`` teaches which one works).
        """
        vector, patterns, mechanism, confidence = self._engine.pre_query(dag._plan, int(time.time()))
        matches = [PatternMatch(LearnedPattern._of(p), s) for p, s in patterns]
        return EnhancedEmbedding(vector, matches, mechanism, confidence)

    def choose(self, dag: QueryDag, settings: Sequence[str], *, default: str | None = None) -> Choice:
        """Choose the setting that the plan runs with.

        Parameters
        ----------
        dag
            The plan as the planner makes it by default.
        settings
            Names, 1 to 64, all different.
        default
            What would run without the engine; the first setting if not given.

        Returns
        -------
        Choice

        Raises
        ------
        ValueError
            No settings, a name twice, or a default that is not among them.
        """
        names = list(settings)
        if default is not None and default not in names:
            raise ValueError(f"default: expected one of {names}, got {default!r}")
        usual = 0 if default is None else names.index(default)
        index, propensity, predicted, reference, interval, timeout, admitted = self._engine.choose(dag._plan, names, usual)
        allowed = tuple(names[i] for i in admitted)
        return Choice(names[index], propensity, predicted, reference, interval, timeout, allowed)

    def post_query(
        self,
        dag: QueryDag,
        latency_ms: float,
        baseline_ms: float | None = None,
        *,
        setting: str | None = None,
        operator_ms: Sequence[float] | npt.NDArray[np.floating[Any]] | None = None,
        stopped: bool = False,
    ) -> None:
        """Learn how a query went.

        Parameters
        ----------
        dag
            The plan that was given to :meth:`pre_query` or :meth:`choose`.
        latency_ms
            What it took, at least 0.
        baseline_ms
            What the default takes; believed if not given, which needs ``setting``. Where the default was never run on
            this plan it counts as a run of it.
        setting
            What it ran with.
        operator_ms
            What each operator took, shape ``(len(dag),)``.
        stopped
            It was stopped at ``latency_ms``, and the default ran instead.

        Raises
        ------
        NotFiniteError, DimensionMismatch, ValueError
            Nothing was learned then.

        Notes
        -----
        The reward is (baseline − latency)/max(baseline, latency), in (−1, 1].
        """
        times = None if operator_ms is None else [float(t) for t in operator_ms]
        baseline = None if baseline_ms is None else float(baseline_ms)
        self._engine.post_query(dag._plan, float(latency_ms), baseline, setting, times, bool(stopped))

    def background_learn(self) -> LearningResult:
        """Extract patterns, fit the belief's variances, and train the predictor of operators.

        Returns
        -------
        LearningResult
            Status ``"waiting"`` below eight new runs; they are kept.
        """
        start = time.perf_counter()
        trajectories, patterns, updated, status = self._engine.background_learn(int(time.time()))
        return LearningResult(trajectories, patterns, updated, time.perf_counter() - start, status)

    def predict(self, dag: QueryDag, settings: Sequence[str]) -> list[Prediction]:
        """Predict the time of a plan under each setting.

        Parameters
        ----------
        dag
            The plan.
        settings
            Names; what was never run is predicted from the other settings and plans.

        Returns
        -------
        list of Prediction
        """
        rows = self._engine.predict(dag._plan, list(settings))
        return [Prediction(float(m), float(lo), float(hi)) for m, lo, hi in rows]

    def predict_operators(self, dag: QueryDag) -> npt.NDArray[np.float64]:
        """Predict how long each operator takes.

        Parameters
        ----------
        dag
            The plan.

        Returns
        -------
        (len(dag),) float64
            Milliseconds; zeros while no operator was ever timed.
        """
        return self._engine.predict_operators(dag._plan)

    def metrics(self) -> dict[str, int | float]:
        """Return counters and gauges, among them what leaving the default has lost so far (``lost_share``)."""
        return self._engine.metrics()

    def to_bytes(self) -> bytes:
        """Return the whole state, versioned and with a checksum."""
        return self._engine.to_bytes()

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; anything else raises ``CorruptStateError``."""
        self = cls.__new__(cls)
        self._engine = _core.PlanLearner.from_bytes(b)
        return self

    def __repr__(self) -> str:
        c, m = self._engine.config(), self.metrics()
        return (
            f"DagEngine({c['dim']}, rank={c['rank']}, regret_budget={c['regret_budget']}, runs={m['post_queries']}, "
            f"settings={m['settings']}, patterns={m['patterns']})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))
