"""Learning signals: outcomes as directions for an adapter's output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy.typing as npt

from sona import _core
from sona.exceptions import DimensionMismatch
from sona.trajectory._records import QueryTrajectory, Record, Vector, finite


@dataclass(frozen=True, slots=True)
class SignalMetadata:
    """Where a signal came from.

    Parameters
    ----------
    kind : str
        "trajectory", "gradient", "ranking", "relevance", "choice" or the caller's own.
    loss : float, optional
        Loss at the output, where there is one.
    reason : str, default ""
        Why the signal carries no direction; empty if it carries one.
    steps : int, default 0
        Steps of the trajectory.
    """

    kind: str
    loss: float | None = None
    reason: str = ""
    steps: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class LearningSignal(Record):
    """A direction for an adapter's output: the one currency of learning.

    Parameters
    ----------
    query_embedding : (d,) float32
        x, the adapter's input. Copied, read-only.
    gradient_estimate : (d,) float32
        ASCENT direction on the adapter's output y: adding it makes the outcome better. Copied, read-only.
    quality_score : float
        How good the outcome was; clipped into [0, 1].
    weight : float, default 1.0
        Multiplies ``gradient_estimate`` in every update.
    timestamp : float, default 0.0
        Seconds.
    metadata : SignalMetadata

    Raises
    ------
    NotFiniteError, ShapeError
    DimensionMismatch
        The two vectors differ in length.

    Examples
    --------
    >>> signal = LearningSignal.from_ranking([1.0, 0.0], positives=[0.0, 1.0], negatives=[[1.0, 0.0]])
    >>> bool(signal.gradient_estimate[1] > 0)
    True
    """

    query_embedding: Vector
    gradient_estimate: Vector
    quality_score: float
    weight: float = 1.0
    timestamp: float = 0.0
    metadata: SignalMetadata = SignalMetadata("custom")

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "query_embedding", _core.frozen_vector("query_embedding", self.query_embedding))
        put(self, "gradient_estimate", _core.frozen_vector("gradient_estimate", self.gradient_estimate))
        if len(self.gradient_estimate) != len(self.query_embedding):
            raise DimensionMismatch(
                f"gradient_estimate: expected dimension {len(self.query_embedding)}, got {len(self.gradient_estimate)}"
            )
        put(self, "quality_score", min(1.0, max(0.0, finite("quality_score", self.quality_score))))
        put(self, "weight", finite("weight", self.weight))
        put(self, "timestamp", finite("timestamp", self.timestamp))

    @classmethod
    def _of(cls, parts: _core._SignalParts, timestamp: float = 0.0) -> LearningSignal:
        query, gradient, quality, weight, kind, loss, reason, steps = parts
        return cls(query, gradient, quality, weight, timestamp, SignalMetadata(kind, loss, reason, steps))

    @classmethod
    def from_trajectory(cls, trajectory: QueryTrajectory, *, baseline: float = 0.5) -> LearningSignal:
        """REINFORCE over the steps: Σ A_t (a_t - q); O(steps · d).

        The advantage A_t = Σ_{s>=t} (r_s - baseline) + (final_quality - baseline) is the reward still to come; nothing
        is normalised. Without steps the gradient is zero (``metadata.reason`` says so), and the quality still counts.

        Parameters
        ----------
        trajectory : QueryTrajectory
            The finished request.
        baseline : float, default 0.5
            What each reward is judged against; see :class:`RewardBaseline`.

        Returns
        -------
        LearningSignal
            Of weight 1.

        Examples
        --------
        >>> from sona.trajectory import TrajectoryStep
        >>> step = TrajectoryStep([1.0, 0.0], [], 0.5)
        >>> t = QueryTrajectory(0, [0.0, 0.0], (step,), 0.9)
        >>> LearningSignal.from_trajectory(t).gradient_estimate.round(3).tolist()
        [0.4000000059604645, 0.0]

        References
        ----------
        Williams 1992, "Simple statistical gradient-following algorithms for connectionist reinforcement learning".
        """
        last = trajectory.steps[-1].timestamp if trajectory.steps else 0.0
        return cls._of(_core.signal_from_trajectory(trajectory, baseline), last)

    @classmethod
    def with_gradient(
        cls, embedding: npt.ArrayLike, gradient: npt.ArrayLike, quality: float, *, baseline: float = 0.5
    ) -> LearningSignal:
        """Take the caller's own ascent direction, weighted by quality - baseline.

        Parameters
        ----------
        embedding : (d,) float32
            The adapter's input.
        gradient : (d,) float32
            Ascent direction on the adapter's output.
        quality : float
            Clipped into [0, 1]; below ``baseline`` the update turns around.
        baseline : float, default 0.5
            What the quality is judged against.

        Returns
        -------
        LearningSignal

        Examples
        --------
        >>> LearningSignal.with_gradient([1.0, 0.0], [0.0, 1.0], 0.25).weight
        -0.25
        """
        return cls._of(_core.signal_with_gradient(embedding, gradient, quality, baseline))

    @classmethod
    def from_ranking(
        cls,
        query: npt.ArrayLike,
        positives: npt.ArrayLike,
        negatives: npt.ArrayLike,
        *,
        loss: Literal["infonce", "triplet", "ranknet"] = "infonce",
        temperature: float = 0.05,
        margin: float = 0.2,
        sigma: float = 1.0,
        output: npt.ArrayLike | None = None,
    ) -> LearningSignal:
        """Direction that ranks positives above negatives, by cosine; O((p + n) · d).

        Parameters
        ----------
        query : (d,) float32
            The adapter's input.
        positives : (d,) or (p, d) float32
            What should rank high.
        negatives : (n, d) float32
            What should rank below; at least one.
        loss : {"infonce", "triplet", "ranknet"}, default "infonce"
            Mean over positives of the cross-entropy of [positive; all negatives] at ``temperature``; mean over pairs of
            max(0, ``margin`` - s₊ + s₋); sum over pairs of log(1 + exp(-``sigma`` (s₊ - s₋))).
        temperature : float, default 0.05
            Softmax temperature of "infonce".
        margin : float, default 0.2
            Required distance of "triplet".
        sigma : float, default 1.0
            Slope of "ranknet".
        output : (d,) float32, optional
            The adapter's output for ``query``, where the loss is taken; default: the query itself.

        Returns
        -------
        LearningSignal
            ``gradient_estimate`` is -∂L/∂y, ``metadata.loss`` is L. A zero output gives a zero gradient.

        Raises
        ------
        ValueError
            No positives, no negatives, or a parameter out of range.
        NotFiniteError, DimensionMismatch, ShapeError

        Examples
        --------
        >>> s = LearningSignal.from_ranking([1.0, 0.0], [0.0, 1.0], [[1.0, 0.0]], loss="triplet")
        >>> round(s.metadata.loss, 3)
        1.2

        References
        ----------
        van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", eq. 4; Schroff et al.
        2015, "FaceNet", eq. 2; Burges et al. 2005, "Learning to Rank using Gradient Descent".
        """
        return cls._of(_core.signal_from_ranking(query, positives, negatives, loss, temperature, margin, sigma, output))

    @classmethod
    def from_relevance(
        cls,
        query: npt.ArrayLike,
        candidates: npt.ArrayLike,
        relevance: npt.ArrayLike,
        *,
        loss: Literal["ranknet", "lambdarank"] = "ranknet",
        sigma: float = 1.0,
        output: npt.ArrayLike | None = None,
    ) -> LearningSignal:
        """Direction that orders candidates by graded relevance, by cosine; O(n · d + n²).

        Parameters
        ----------
        query : (d,) float32
            The adapter's input.
        candidates : (n, d) float32
            What was ranked.
        relevance : (n,) float64
            Grades; every pair with unequal grades counts.
        loss : {"ranknet", "lambdarank"}, default "ranknet"
            "lambdarank" multiplies each pair's gradient by |ΔNDCG| of the current ranking.
        sigma : float, default 1.0
            Slope of the pairwise loss.
        output : (d,) float32, optional
            The adapter's output for ``query``; default: the query itself.

        Returns
        -------
        LearningSignal

        Raises
        ------
        ValueError, NotFiniteError, DimensionMismatch, ShapeError

        Examples
        --------
        >>> s = LearningSignal.from_relevance([1.0, 0.0], [[1.0, 0.0], [0.0, 1.0]], [0, 2])
        >>> bool(s.gradient_estimate[1] > 0)
        True

        References
        ----------
        Burges 2010, "From RankNet to LambdaRank to LambdaMART".
        """
        return cls._of(_core.signal_from_relevance(query, candidates, relevance, loss, sigma, output))

    @classmethod
    def from_choice(
        cls,
        query: npt.ArrayLike,
        candidates: npt.ArrayLike,
        chosen: int,
        reward: float,
        *,
        propensity: float | None = None,
        baseline: float = 0.5,
        temperature: float = 0.05,
        ips_clip: tuple[float, float] = (0.1, 10.0),
        output: npt.ArrayLike | None = None,
    ) -> LearningSignal:
        """Direction from bandit feedback: L = -w (reward - baseline) log π(chosen); O(n · d).

        Parameters
        ----------
        query : (d,) float32
            The adapter's input.
        candidates : (n, d) float32
            What was shown; π is the softmax of their cosines over ``temperature``.
        chosen : int
            Position of the chosen one.
        reward : float
            Below ``baseline`` the choice becomes less likely.
        propensity : float, optional
            Probability with which the logging policy chose it; the weight w = clip(π(chosen)/propensity, *ips_clip) is
            held fixed. Without it w = 1.
        baseline : float, default 0.5
            What the reward is judged against; see :class:`RewardBaseline`.
        temperature : float, default 0.05
            Of the softmax.
        ips_clip : (float, float), default (0.1, 10.0)
            Bounds of the importance weight.
        output : (d,) float32, optional
            The adapter's output for ``query``; default: the query itself.

        Returns
        -------
        LearningSignal

        Raises
        ------
        ValueError
            ``chosen`` or ``propensity`` out of range.
        NotFiniteError, DimensionMismatch, ShapeError

        Examples
        --------
        >>> shown = [[1.0, 0.0], [0.0, 1.0]]
        >>> liked = LearningSignal.from_choice([1.0, 0.5], shown, chosen=1, reward=1.0)
        >>> disliked = LearningSignal.from_choice([1.0, 0.5], shown, chosen=1, reward=0.0)
        >>> bool(liked.gradient_estimate[1] > 0 > disliked.gradient_estimate[1])
        True
        """
        return cls._of(
            _core.signal_from_choice(query, candidates, chosen, reward, propensity, baseline, temperature, ips_clip, output)
        )
