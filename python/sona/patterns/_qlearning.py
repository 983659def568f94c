"""Q-learning over named states and actions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any, Self

from sona import _core

__all__ = ["QLearningPatterns"]


class _Load:
    """Read the pairs of an ``intelligence.json``, also of the older form with one action per state.

    On the class it returns a new table with default parameters; on a table it replaces the pairs, keeps the parameters
    and returns the table. Nothing changes if the file is refused: ``CorruptStateError`` for what is not such a file,
    ``StoreError`` if it cannot be read.
    """

    def __get__(
        self, table: QLearningPatterns | None, owner: type[QLearningPatterns]
    ) -> Callable[[str | os.PathLike[str]], QLearningPatterns]:
        def load(path: str | os.PathLike[str]) -> QLearningPatterns:
            into = owner() if table is None else table
            into._table.read(path)
            return into

        load.__doc__ = self.__doc__
        return load


class QLearningPatterns:
    """Learn which tool or agent comes next in a named state.

    Parameters
    ----------
    gamma
        Discount of the future, in ``[0, 1)``.
    alpha_power
        The n-th update of a pair has rate ``n ** -alpha_power``; in ``(0, 1]``. Above 1/2 the values converge to the
        optimal ones if every pair keeps being tried.

    Raises
    ------
    ConfigError
        If a parameter is out of range.

    Notes
    -----
    An update costs O(actions of the next state + log pairs). Safe to share between threads.

    References
    ----------
    Watkins & Dayan 1992, Q-learning; Even-Dar & Mansour 2003, Learning rates for Q-learning.

    Examples
    --------
    >>> q = QLearningPatterns()
    >>> q.update("edit", "run tests", 1.0)
    1.0
    >>> q.update("start", "edit", 0.0, "edit")
    0.9
    >>> q.best_action("edit"), q.best_action("unknown")
    ('run tests', None)
    """

    def __init__(self, *, gamma: float = 0.9, alpha_power: float = 0.7) -> None:
        self._table = _core.QTable(gamma=gamma, alpha_power=alpha_power)

    @property
    def gamma(self) -> float:
        """Discount of the future."""
        return self._table.gamma

    @property
    def alpha_power(self) -> float:
        """Exponent of the learning rate."""
        return self._table.alpha_power

    def update(
        self,
        state: str,
        action: str,
        reward: float,
        next_state: str | None = None,
        *,
        now: float | None = None,
    ) -> float:
        """Learn from one transition: n += 1; Q += n**-p (r + gamma max Q(next_state, .) - Q).

        Parameters
        ----------
        state, action
            Names, at most 4,096 bytes of UTF-8.
        reward
            What came of it.
        next_state
            Where it led; the future of an unknown state, or of ``None``, is 0.
        now
            Seconds, kept with the pair; the current time by default.

        Returns
        -------
        float
            The new value of the pair.

        Raises
        ------
        NotFiniteError
            If ``reward`` or ``now`` is NaN or infinite.
        ValueError
            If a name is too long.
        """
        return self._table.update(state, action, reward, next_state, time.time() if now is None else now)

    def q_value(self, state: str, action: str) -> float:
        """Return the value of a pair; 0 for an unknown one."""
        return self._table.q_value(state, action)

    def count(self, state: str, action: str) -> int:
        """Return how often a pair was updated."""
        return self._table.count(state, action)

    def best_action(self, state: str, actions: Iterable[str] | None = None) -> str | None:
        """Return the action of highest value.

        Parameters
        ----------
        state
            Where to act.
        actions
            Candidates; those known in ``state`` by default.

        Returns
        -------
        str or None
            Ties go to the higher upper confidence bound, that is, to the less tried action, then to the first name.
            ``None`` without candidates.
        """
        return self._table.best_action(state, None if actions is None else list(actions))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``intelligence.json`` at ``path``, whole or not at all.

        Raises
        ------
        StoreError
            If the file cannot be written.

        Notes
        -----
        A file of ``{"patterns": {"state|action": {"action", "q_value", "count", "last_update"}}, "memories": [],
        "trajectories": []}``. A bar in a state is written as ``%7C``, and the entry then names the state.
        """
        self._table.save(path)

    load = _Load()

    def metrics(self) -> dict[str, int | float]:
        """Return the numbers of states, pairs and updates."""
        return self._table.metrics()

    def to_bytes(self) -> bytes:
        """Return the whole state, versioned and with a checksum."""
        return self._table.to_bytes()

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote.

        Raises
        ------
        CorruptStateError
            If the bytes are anything else.
        """
        table = _core.QTable.from_bytes(b)
        self = cls(gamma=table.gamma, alpha_power=table.alpha_power)
        self._table = table
        return self

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"QLearningPatterns(gamma={self.gamma}, alpha_power={self.alpha_power}, pairs={len(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))
