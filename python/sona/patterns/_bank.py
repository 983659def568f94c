"""Reasoning bank: many outcomes in, few reusable patterns out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, Self

import numpy.typing as npt

from sona import _core
from sona.patterns._learned import LearnedPattern, MemoryItem, PatternConfig, PatternMatch, Verdict

__all__ = ["ReasoningBank"]

Distiller = Callable[[LearnedPattern], MemoryItem | tuple[str, str, str]]


class _Trajectory(Protocol):
    @property
    def query_embedding(self) -> Any: ...
    @property
    def final_quality(self) -> float: ...


def _second(now: float | None) -> int:
    return int(time.time() if now is None else now)


class ReasoningBank:
    """Compress many outcomes into few patterns that answer "what worked for requests like this".

    Cases go into a ring of bounded size: in a full bank the oldest case of the scope with most cases gives way.
    :meth:`extract_patterns` clusters each scope by direction, weighted by quality, and matches the clusters with the
    patterns of before, so ids and access counts survive and nothing is counted twice. Failures are kept: they tell
    what to avoid. Scopes never mix. Safe to share between threads: an extraction holds the bank only while it copies
    the cases and while it publishes the patterns.

    Parameters
    ----------
    config
        Sizes and thresholds.
    distiller
        Turns a pattern into words for :meth:`recall`: ``distiller(pattern)`` returns a :class:`MemoryItem` or
        ``(title, description, content)``, for instance from a language model. It is called once per pattern, until
        the pattern's statistics change. By default a template states counts, qualities and actions. Neither a
        distiller nor a judge is part of the saved state; the words are.

    References
    ----------
    Ouyang et al. 2025, ReasoningBank (arXiv 2509.25140): title, description and content, failures included;
    Arthur & Vassilvitskii 2007; Kuhn 1955 (the matching of old and new clusters).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.patterns import PatternConfig, ReasoningBank
    >>> bank = ReasoningBank(PatternConfig(k_clusters=2, embedding_dim=4))
    >>> for i in range(20):
    ...     _ = bank.add(np.eye(4)[i % 2], [0.9, 0.1][i % 2], action=["search", "guess"][i % 2])
    >>> len(bank.extract_patterns())
    2
    >>> [match] = bank.find_patterns([1.0, 0.1, 0.0, 0.0], k=1)
    >>> match.pattern.verdict.name, round(match.pattern.avg_quality, 2)
    ('SUCCESS', 0.9)
    >>> bank.recall([0.0, 1.0, 0.0, 0.0])[0].title
    'Avoid: guess'
    """

    def __init__(self, config: PatternConfig | None = None, *, distiller: Distiller | None = None) -> None:
        self._config = PatternConfig() if config is None else config
        self._distiller = distiller
        self._judge: Callable[[Any], Verdict] | None = None
        self._bank = _core.PatternBank(
            k_clusters=self._config.k_clusters,
            embedding_dim=self._config.embedding_dim,
            max_iterations=self._config.max_iterations,
            convergence_threshold=self._config.convergence_threshold,
            min_cluster_size=self._config.min_cluster_size,
            quality_threshold=self._config.quality_threshold,
            merge_similarity=self._config.merge_similarity,
            max_trajectories=self._config.max_trajectories,
            seed=self._config.seed,
        )

    @property
    def config(self) -> PatternConfig:
        """Sizes and thresholds."""
        return self._config

    def add_trajectory(self, trajectory: _Trajectory, *, action: str | None = None) -> None:
        """Remember a finished request.

        Parameters
        ----------
        trajectory
            Anything with ``query_embedding``, ``final_quality`` and, optionally, ``scope``, such as a
            :class:`sona.trajectory.QueryTrajectory`.
        action
            What was done, if it has a name.

        Raises
        ------
        DimensionMismatch
            If the embedding has another length.
        NotFiniteError
            If it holds NaN or infinity.
        ValueError
            If it is zero, or the quality is outside ``[0, 1]``.
        """
        judge = self._judge
        self._bank.add(
            trajectory.query_embedding,
            float(trajectory.final_quality),
            action,
            getattr(trajectory, "scope", "default"),
            None if judge is None else Verdict(judge(trajectory)).value,
        )

    def add(self, embedding: npt.ArrayLike, quality: float, *, action: str | None = None, scope: str = "default") -> int:
        """Remember how a request turned out.

        Parameters
        ----------
        embedding
            The request, shape ``(embedding_dim,)``, float32, not all zero.
        quality
            How it went, in ``[0, 1]``.
        action
            What was done, if it has a name.
        scope
            Whose it is.

        Returns
        -------
        int
            Id of the case, for :meth:`remove`.

        Raises
        ------
        DimensionMismatch
            If the embedding has another length.
        NotFiniteError
            If it holds NaN or infinity.
        ValueError
            If it is zero, or the quality is outside ``[0, 1]``.
        """
        return self._bank.add(embedding, float(quality), action, scope, None)

    def remove(self, case_ids: Iterable[int]) -> int:
        """Forget cases and take what they contributed out of their patterns.

        Parameters
        ----------
        case_ids
            What :meth:`add` returned.

        Returns
        -------
        int
            How many were still there. What a pattern learned from cases that had left the ring stays in it.
        """
        return self._bank.remove([int(i) for i in case_ids])

    def extract_patterns(self, *, now: float | None = None) -> list[LearnedPattern]:
        """Cluster the cases of every scope that changed and update its patterns.

        A cluster that matches a pattern of before (one to one, largest total similarity, cosine above 0.9) keeps its
        id, accesses and birth. A pattern without a match goes, because its cases are counted by others now, unless
        they all left the ring; of those, the ``k_clusters`` used last stay.

        Parameters
        ----------
        now
            Seconds; the current time by default.

        Returns
        -------
        list of LearnedPattern
            The patterns of every scope with at least ``min_cluster_size`` cases, by id. Scopes with fewer are
            counted in ``metrics()["skipped_too_few_cases"]``.

        Notes
        -----
        O(n k d) per iteration; mini-batches above 50,000 cases in a scope.
        """
        return [LearnedPattern._of(p) for p in self._bank.extract(_second(now))]

    def find_patterns(
        self, query: npt.ArrayLike, k: int = 5, *, scope: str | None = None, now: float | None = None
    ) -> list[PatternMatch]:
        """Find what worked for requests like ``query``; each pattern returned counts an access.

        Parameters
        ----------
        query
            Shape ``(embedding_dim,)``, float32. A zero query is similar to nothing.
        k
            Patterns at most, at least 0.
        scope
            Whose patterns; ``None`` is the scope ``"default"``, never all of them.
        now
            Seconds; the current time by default.

        Returns
        -------
        list of PatternMatch
            Patterns of mean quality ``quality_threshold`` or more, by cosine, best first, ties by id.

        Raises
        ------
        DimensionMismatch
            If the query has another length.
        NotFiniteError
            If it holds NaN or infinity.
        ValueError
            If ``k`` is negative.

        Notes
        -----
        O(patterns · d).
        """
        found = self._bank.find(query, k, "default" if scope is None else scope, _second(now))
        return [PatternMatch(LearnedPattern._of(p), s) for p, s in found]

    def judge(self, trajectory: Any) -> Verdict:
        """Tell how a trajectory turned out: success from quality 0.7 on, failure up to 0.3.

        Parameters
        ----------
        trajectory
            Anything with ``final_quality``.

        Returns
        -------
        Verdict
            What the function given to :meth:`judge_with` says, if there is one.
        """
        if self._judge is not None:
            return Verdict(self._judge(trajectory))
        return Verdict(_core.judge_quality(float(trajectory.final_quality)))

    def judge_with(self, fn: Callable[[Any], Verdict] | None) -> None:
        """Let ``fn(trajectory)`` judge trajectories; ``None`` brings the thresholds back.

        The verdict of a pattern is what more than half of its judged members say; where no judge spoke, its mean
        quality decides by the thresholds.
        """
        self._judge = fn

    def recall(
        self,
        query: npt.ArrayLike,
        k: int = 1,
        *,
        include_failures: bool = True,
        scope: str | None = None,
        now: float | None = None,
    ) -> list[MemoryItem]:
        """Return advice for ``query`` in words; each pattern used counts an access.

        Parameters
        ----------
        query
            Shape ``(embedding_dim,)``, float32. A zero query is similar to nothing.
        k
            Items at most, at least 0.
        include_failures
            Also return what to avoid.
        scope
            Whose patterns; ``None`` is the scope ``"default"``.
        now
            Seconds; the current time by default.

        Returns
        -------
        list of MemoryItem
            By cosine, best first.

        Raises
        ------
        DimensionMismatch
            If the query has another length.
        NotFiniteError
            If it holds NaN or infinity.
        ValueError
            If ``k`` is negative.
        """
        name = "default" if scope is None else scope
        items = []
        for id, *words, verdict, embedding, similarity in self._bank.recall(query, k, name, include_failures, _second(now)):
            title, description, content = self._distil(id) or words
            items.append(
                MemoryItem(title, description, content, Verdict(verdict), embedding, similarity),
            )
        return items

    def _distil(self, id: int) -> tuple[str, str, str] | None:
        if self._distiller is None or (fields := self._bank.undistilled(id)) is None:
            return None
        made = self._distiller(LearnedPattern._of(fields))
        words = (made.title, made.description, made.content) if isinstance(made, MemoryItem) else made
        title, description, content = map(str, words)
        self._bank.set_memo(id, title, description, content)
        return title, description, content

    def get_pattern(self, id: int) -> LearnedPattern | None:
        """Return the pattern with this id, if there is one."""
        fields = self._bank.get(id) if id >= 0 else None
        return None if fields is None else LearnedPattern._of(fields)

    @property
    def patterns(self) -> list[LearnedPattern]:
        """All patterns of all scopes, by id."""
        return [LearnedPattern._of(p) for p in self._bank.patterns()]

    @property
    def trajectory_count(self) -> int:
        """Cases held, over all scopes."""
        return self._bank.case_count()

    def clear(self) -> None:
        """Forget all cases and patterns."""
        self._bank.clear()

    def decay(self, factor: float, *, days: float = 1.0) -> None:
        """Multiply the weight of all evidence, patterns and cases, by ``factor ** days``.

        Raises
        ------
        ValueError
            If ``factor`` is outside ``[0, 1]`` or ``days`` is negative.
        """
        self._bank.decay(factor, days)

    def merge_similar(self, threshold: float | None = None) -> int:
        """Merge patterns of one scope whose cosine exceeds ``threshold``, the most similar first.

        Success and failure stay apart. What was merged stays one in the next extraction.

        Parameters
        ----------
        threshold
            In ``[-1, 1]``; ``merge_similarity`` of the configuration by default.

        Returns
        -------
        int
            Number of merges.

        Raises
        ------
        ValueError
            If ``threshold`` is out of range.
        """
        return self._bank.merge_similar(threshold)

    def prune(self, min_quality: float, min_accesses: int) -> int:
        """Drop patterns of mean quality below ``min_quality`` with fewer than ``min_accesses`` accesses.

        The worst go first, but never the only pattern of a region: one stays if no other pattern of its scope lies
        within cosine 0.7.

        Returns
        -------
        int
            How many went.
        """
        return self._bank.prune(min_quality, min_accesses)

    def metrics(self) -> dict[str, int | float]:
        """Return counts and sizes, also of what was evicted, skipped or dropped."""
        return self._bank.metrics()

    def to_bytes(self) -> bytes:
        """Return the whole state, versioned and with a checksum."""
        return self._bank.to_bytes()

    @classmethod
    def from_bytes(cls, b: bytes, *, distiller: Distiller | None = None) -> Self:
        """Restore what :meth:`to_bytes` wrote.

        Raises
        ------
        CorruptStateError
            If the bytes are anything else.
        """
        bank = _core.PatternBank.from_bytes(b)
        self = cls(PatternConfig(**bank.config()), distiller=distiller)
        self._bank = bank
        return self

    def __len__(self) -> int:
        return len(self._bank.patterns())

    def __repr__(self) -> str:
        m = self._bank.metrics()
        c = self._config
        return (
            f"ReasoningBank(k_clusters={c.k_clusters}, embedding_dim={c.embedding_dim}, "
            f"cases={m['cases']}, patterns={m['patterns']}, scopes={m['scopes']})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))
