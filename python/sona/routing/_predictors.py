"""kNN and linear bandits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sona import _core
from sona.exceptions import ConfigError
from sona.routing._names import join, split

__all__ = ["KnnRouter", "LinUCB"]


class KnnRouter:
    """Expected quality of each model: its mean over the k nearest remembered requests (cosine).

    Parameters
    ----------
    models : iterable of str
        Names (the keys of a dict of prices will do).
    dim : int
        Length of an embedding.
    k : int, default 40
        Neighbours.
    capacity : int, default 20,000
        Most remembered requests; the oldest gives way.

    Raises
    ------
    ConfigError
        If there is no model, a name comes twice, or a number is out of range.

    Notes
    -----
    ``predict`` is exact, O(cases · (dim + models)). Outcomes of different models on equal embeddings share a place. Safe to
    share between threads.

    References
    ----------
    Li 2025, Rethinking predictive modeling for LLM routing.

    Examples
    --------
    >>> knn = KnnRouter(["small", "big"], dim=2, k=2)
    >>> for x, q in [([1, 0], 1.0), ([0.9, 0.1], 0.5), ([0, 1], 0.0)]:
    ...     knn.learn(x, "small", q)
    >>> knn.predict([1, 0])
    {'small': 0.75, 'big': nan}
    """

    def __init__(self, models: Iterable[str], *, dim: int, k: int = 40, capacity: int = 20_000) -> None:
        names = list(models)
        if len(set(names)) != len(names):
            raise ConfigError(f"models: expected each name once, got {names}")
        self._names, self._place = names, {n: i for i, n in enumerate(names)}
        self._table = _core.KnnTable(len(names), dim, k, capacity)

    @property
    def models(self) -> list[str]:
        """Names."""
        return list(self._names)

    def learn(self, embedding: Any, model: str, quality: float) -> None:
        """Remember how a model did on a request.

        Raises
        ------
        KeyError
            If the model is unknown.
        NotFiniteError, DimensionMismatch
            If an input is not finite, or the embedding has another length.
        """
        self._table.learn(embedding, self._place[model], quality)

    def predict(self, embedding: Any) -> dict[str, float]:
        """Return the mean quality of each model's k nearest cases; NaN for a model without any."""
        return dict(zip(self._names, self._table.predict(embedding), strict=True))

    def metrics(self) -> dict[str, int | float]:
        """Return the numbers of cases, outcomes and evictions."""
        return self._table.metrics()

    def to_bytes(self) -> bytes:
        """Return the whole state, versioned and with a checksum."""
        return join(b"KNN1", {"models": self._names}, self._table.to_bytes())

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; ``CorruptStateError`` for anything else."""
        head, body = split(b"KNN1", b, "KnnRouter")
        table = _core.KnnTable.from_bytes(body)
        self = cls.__new__(cls)
        self._names = head.names("models", table.shape[0])
        self._place = {n: i for i, n in enumerate(self._names)}
        self._table = table
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        _, dim, k, capacity = self._table.shape
        return f"KnnRouter({self._names}, dim={dim}, k={k}, capacity={capacity}, cases={self.metrics()['cases']})"


class LinUCB:
    """One ridge regression per arm, chosen by its upper confidence bound; Thompson sampling on the same posterior.

    Parameters
    ----------
    n_arms, dim : int
        Arms, and length of a context.
    alpha : float, default 0.5
        Width of the bound, and of the posterior that Thompson sampling draws from, in standard deviations.
    l2 : float, default 1.0
        Ridge penalty.
    seed : int, default 0
        Of the draws.

    Raises
    ------
    ConfigError
        If a number is out of range.

    Notes
    -----
    θ·x + alpha·√(xᵀA⁻¹x). An update costs O(dim²), scores O(arms · dim²). Safe to share between threads.

    References
    ----------
    Li, Chu, Langford & Schapire 2010, algorithm 1; Russo et al. 2018.

    Examples
    --------
    >>> bandit = LinUCB(2, 2)
    >>> for _ in range(20):
    ...     bandit.update(0, [1, 0], 1.0)
    ...     bandit.update(1, [1, 0], 0.0)
    >>> bandit.select([1, 0])
    0
    >>> arm, p = bandit.thompson([1, 0])
    >>> arm, float(p[arm]) > 0.9
    (0, True)
    """

    def __init__(self, n_arms: int, dim: int, *, alpha: float = 0.5, l2: float = 1.0, seed: int = 0) -> None:
        self._bandit = _core.LinearBandit(n_arms, dim, alpha, l2, seed)

    def update(self, arm: int, x: Any, reward: float) -> None:
        """Learn from one outcome: ``reward`` of ``arm`` at the context ``x`` (dim,).

        Raises
        ------
        NotFiniteError, DimensionMismatch, ValueError
            If an input is not finite, has another length, or the arm is unknown.
        """
        self._bandit.update(arm, x, reward)

    def scores(self, x: Any) -> npt.NDArray[np.float64]:
        """Return the upper confidence bound of each arm: (n_arms,) for a vector, (n, n_arms) for rows."""
        return self._bandit.scores(x)

    def select(self, x: Any) -> int:
        """Return the arm with the greatest bound; the first of equals."""
        return int(np.argmax(self._bandit.scores(np.ravel(np.asarray(x, dtype=np.float32)))))

    def thompson(self, x: Any) -> tuple[int, npt.NDArray[np.float64]]:
        """Return an arm drawn by Thompson sampling, and the probability of each arm.

        The probability of an arm is that its posterior draw is the largest, integrated numerically, and the arm is drawn with
        exactly these: log ``p[arm]`` as its propensity.
        """
        return self._bandit.thompson(x)

    def metrics(self) -> dict[str, int | float]:
        """Return the numbers of arms, updates and untried arms."""
        return self._bandit.metrics()

    def to_bytes(self) -> bytes:
        """Return the whole state, versioned and with a checksum."""
        return self._bandit.to_bytes()

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; ``CorruptStateError`` for anything else."""
        self = cls.__new__(cls)
        self._bandit = _core.LinearBandit.from_bytes(b)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        n, dim, alpha, l2 = self._bandit.shape
        return f"LinUCB({n}, {dim}, alpha={alpha}, l2={l2}, updates={self.metrics()['updates']})"
