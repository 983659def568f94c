"""Learned patterns and memory items: what a bank returns."""

from __future__ import annotations

import dataclasses
import enum
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sona import _core
from sona.exceptions import ConfigError, NotFiniteError, ShapeError

__all__ = ["ActionOutcome", "LearnedPattern", "MemoryItem", "PatternConfig", "PatternMatch", "Verdict"]


class Verdict(enum.Enum):
    """How a request, or a group of similar ones, turned out."""

    SUCCESS = "success"
    FAILURE = "failure"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True, kw_only=True)
class PatternConfig:
    """Configuration of a :class:`ReasoningBank`.

    Parameters
    ----------
    k_clusters
        Clusters per scope at most, at least 1. A scope of n cases gets at most ``n / min_cluster_size``.
    embedding_dim
        Length of every embedding, at least 1.
    max_iterations
        Iterations of the clustering at most, at least 1.
    convergence_threshold
        The clustering stops when no unit centroid moved farther than this, at least 0.
    min_cluster_size
        Smaller clusters are no patterns, and fewer cases are not clustered; at least 1.
    quality_threshold
        Patterns of lower mean quality are not found as what worked (they are still recalled as what to avoid);
        in ``[0, 1]``.
    merge_similarity
        Patterns more similar than this cosine are one for :meth:`ReasoningBank.merge_similar`; in ``[-1, 1]``.
    max_trajectories
        Cases kept over all scopes, at least 1.
    seed
        Seed of the clustering.

    Raises
    ------
    ConfigError
        If a field is out of range.

    Examples
    --------
    >>> PatternConfig(k_clusters=8, embedding_dim=64).min_cluster_size
    5
    """

    k_clusters: int = 50
    embedding_dim: int = 256
    max_iterations: int = 100
    convergence_threshold: float = 0.001
    min_cluster_size: int = 5
    quality_threshold: float = 0.0
    merge_similarity: float = 0.95
    max_trajectories: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        _core.PatternBank(**dataclasses.asdict(self))


@dataclass(frozen=True)
class ActionOutcome:
    """How one action did within a pattern."""

    action: str
    count: int
    mean_quality: float


@dataclass(frozen=True, eq=False)
class LearnedPattern:
    """What a group of similar requests amounted to, as exact statistics of its members.

    Parameters
    ----------
    id
        Number that survives re-extraction.
    centroid
        Mean of the members' embeddings, shape ``(d,)``, float32. Copied, read-only.
    cluster_size
        Number of members.
    total_weight
        Sum of the members' weights (quality + 0.05, times what decay left of it).
    avg_quality
        Mean quality of the members, in ``[0, 1]``.
    quality_var
        Population variance of the quality.
    created_at
        Second of the extraction that found it first.
    last_accessed
        Second of the last search that returned it.
    access_count
        Searches that returned it.
    verdict
        How its members turned out.
    scope
        Whose it is.
    actions
        What was done and how it went, most frequent first, 16 at most.

    Raises
    ------
    ShapeError
        If ``centroid`` is not one vector.
    NotFiniteError
        If ``centroid`` or a statistic holds NaN or infinity.
    ConfigError
        If a statistic is out of its range.

    Examples
    --------
    >>> a = LearnedPattern(0, [1.0, 0.0], 10, 9.5, 0.9)
    >>> b = LearnedPattern(1, [0.0, 1.0], 30, 18.0, 0.5)
    >>> a.merge(b).centroid.tolist(), a.merge(b).avg_quality
    ([0.25, 0.75], 0.6)
    >>> round(a.merge(b).quality_var, 4)
    0.03
    """

    id: int
    centroid: npt.NDArray[np.float32]
    cluster_size: int
    total_weight: float
    avg_quality: float
    quality_var: float = 0.0
    created_at: int = 0
    last_accessed: int = 0
    access_count: int = 0
    verdict: Verdict = Verdict.UNCERTAIN
    scope: str = "default"
    actions: tuple[ActionOutcome, ...] = ()

    def __post_init__(self) -> None:
        centroid = np.array(self.centroid, dtype=np.float32)
        if centroid.ndim != 1:
            raise ShapeError(f"centroid: expected shape (d,), got {centroid.shape}")
        finite = np.isfinite(centroid)
        if not finite.all():
            raise NotFiniteError(f"centroid: not finite at index {int(np.argmin(finite))}")
        # Means and variances may leave their range by a rounding.
        ranges = (
            ("avg_quality", -1e-6, 1.0 + 1e-6),
            ("quality_var", -1e-6, math.inf),
            ("total_weight", 0.0, math.inf),
            ("cluster_size", 0, math.inf),
            ("access_count", 0, math.inf),
        )
        for name, least, most in ranges:
            value = getattr(self, name)
            if not math.isfinite(value):
                raise NotFiniteError(f"{name}: expected a finite number, got {value}")
            if not least <= value <= most:
                raise ConfigError(f"{name}: expected {least:g} to {most:g}, got {value}")
        centroid.setflags(write=False)
        object.__setattr__(self, "centroid", centroid)
        object.__setattr__(self, "actions", tuple(self.actions))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LearnedPattern):
            return NotImplemented
        return all(
            np.array_equal(getattr(self, f.name), getattr(other, f.name))
            if f.name == "centroid"
            else getattr(self, f.name) == getattr(other, f.name)
            for f in dataclasses.fields(self)
        )

    def __hash__(self) -> int:
        return hash((self.scope, self.id, self.cluster_size))

    def _fields(self) -> _core._PatternFields:
        return (
            self.id,
            self.scope,
            self.centroid,
            self.cluster_size,
            self.total_weight,
            self.avg_quality,
            self.quality_var,
            self.created_at,
            self.last_accessed,
            self.access_count,
            self.verdict.value,
            [(a.action, a.count, a.mean_quality) for a in self.actions],
        )

    @classmethod
    def _of(cls, fields: _core._PatternFields) -> LearnedPattern:
        id, scope, centroid, size, weight, avg, var, created, accessed, count, verdict, actions = fields
        return cls(
            id=id,
            centroid=centroid,
            cluster_size=size,
            total_weight=weight,
            avg_quality=avg,
            quality_var=var,
            created_at=created,
            last_accessed=accessed,
            access_count=count,
            verdict=Verdict(verdict),
            scope=scope,
            actions=tuple(ActionOutcome(*a) for a in actions),
        )

    def merge(self, other: LearnedPattern) -> LearnedPattern:
        """Return the pattern of both groups of members together, under this one's id.

        Centroid and mean quality are weighted by the number of members, the variance is pooled exactly; sizes,
        weights and accesses add, the older birth and the later access stay, verdicts that differ become
        ``UNCERTAIN``. The order of merges does not matter, up to rounding.

        Parameters
        ----------
        other
            A pattern of the same scope and dimension.

        Returns
        -------
        LearnedPattern
            The union.

        Raises
        ------
        DimensionMismatch
            If the centroids differ in length.
        ScopeError
            If the scopes differ.
        """
        return LearnedPattern._of(_core.merge_patterns(self._fields(), other._fields()))

    def decay(self, factor: float, *, days: float = 1.0) -> LearnedPattern:
        """Return the pattern ``days`` later: its weight times ``factor ** days``.

        Parameters
        ----------
        factor
            What is left of the weight after a day, in ``[0, 1]``.
        days
            Days, at least 0.

        Returns
        -------
        LearnedPattern
            The same pattern with less weight.

        Raises
        ------
        ValueError
            If ``factor`` or ``days`` is out of range.
        """
        left = _core.decay_factor(factor, days)
        return dataclasses.replace(self, total_weight=self.total_weight * left)

    def should_prune(self, min_quality: float, min_accesses: int) -> bool:
        """Tell whether the pattern is bad and unused: below ``min_quality`` and fewer than ``min_accesses``."""
        if math.isnan(min_quality) or math.isnan(min_accesses):
            raise NotFiniteError("min_quality, min_accesses: expected numbers, got nan")
        return self.avg_quality < min_quality and self.access_count < min_accesses

    def quality_lower_bound(self, z: float = 1.959964) -> float:
        """Return the lower end of the Wilson score interval of the quality.

        Parameters
        ----------
        z
            Width in standard normal deviations; the default gives 95 %.

        Returns
        -------
        float
            In ``[0, 1]``; 0 without members.

        References
        ----------
        Wilson 1927, Probable inference, the law of succession, and statistical inference.

        Examples
        --------
        >>> round(LearnedPattern(0, [1.0], 10, 8.5, 0.8).quality_lower_bound(), 4)
        0.4902
        """
        if not math.isfinite(z):
            raise NotFiniteError(f"z: expected a finite number, got {z}")
        return _core.wilson_lower_bound(self.avg_quality, float(self.cluster_size), z)


@dataclass(frozen=True)
class PatternMatch:
    """A pattern and its cosine with the query."""

    pattern: LearnedPattern
    similarity: float


@dataclass(frozen=True, eq=False)
class MemoryItem:
    """A pattern in words: follow it, or avoid it.

    Parameters
    ----------
    title
        A few words.
    description
        One sentence.
    content
        What to do or to avoid.
    verdict
        ``FAILURE`` means avoid.
    embedding
        Centroid of the pattern, shape ``(d,)``, float32; ``None`` from a distiller that leaves it out.
    similarity
        Cosine with the query.
    """

    title: str
    description: str
    content: str
    verdict: Verdict = Verdict.UNCERTAIN
    embedding: Any = None
    similarity: float = 0.0
