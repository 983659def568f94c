"""How a ranking is judged: hit@k, reciprocal rank, nDCG, simulated clicks, and paired bootstrap intervals.

Everything that prints a figure (``sona demo``, ``sona bench retrieval``) computes it here, so that two
tables never mean different things by the same word. Two choices are on the hard side on purpose: a tie
counts against the right answer, and so does a NaN, so that neither a constant score nor a diverged run can
look good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "bootstrap",
    "hit_at",
    "measure",
    "ndcg_at",
    "paired_bootstrap",
    "reciprocal_rank",
    "relevant_ranks",
    "simulate_click",
]

#: Resamples drawn at a time: bounds the memory of a bootstrap to this many rows of indices.
_CHUNK = 128


def relevant_ranks(scores: ArrayLike, relevant: Sequence[int] | NDArray[np.integer]) -> NDArray[np.int64]:
    """Rank of each relevant item, 1 being best.

    The rank is one plus the number of other items that do not score strictly lower, so ties count against
    the item. A NaN never scores lower and is never beaten: an item whose score is NaN ranks last.

    Parameters
    ----------
    scores
        Scores of all items, shape ``(n,)``; higher is better.
    relevant
        Positions of the relevant items in ``scores``, each in ``[0, n)``.

    Returns
    -------
    numpy.ndarray
        Ranks in the order of ``relevant``, shape ``(len(relevant),)``, int64.

    Raises
    ------
    ValueError
        If ``scores`` is not one-dimensional.
    IndexError
        If a position lies outside ``scores``.

    Notes
    -----
    Costs O(n) per relevant item.

    Examples
    --------
    >>> relevant_ranks([0.1, 0.9, 0.5], [1, 0]).tolist()
    [1, 3]
    >>> relevant_ranks([0.5, 0.5, float("nan")], [0, 2]).tolist()
    [3, 3]
    """
    s = np.asarray(scores, dtype=np.float64)
    if s.ndim != 1:
        raise ValueError(f"scores: expected one dimension, got shape {s.shape}")
    positions = np.asarray(relevant, dtype=np.int64).reshape(-1)
    if positions.size and not 0 <= positions.min() <= positions.max() < s.size:
        raise IndexError(f"relevant: expected positions in [0, {s.size}), got {positions.tolist()}")
    # The item does not beat itself, so the count starts at 1 without adding it.
    return np.array([np.count_nonzero(~(s < s[j])) for j in positions], dtype=np.int64)


def hit_at(ranks: ArrayLike, k: int) -> float:
    """1.0 if any relevant item is among the first ``k``, else 0.0.

    Parameters
    ----------
    ranks
        Ranks of the relevant items, shape ``(r,)``; infinity or NaN stands for "not in the list".
    k
        Length of the list that is looked at, at least 1.

    Returns
    -------
    float
        0.0 or 1.0; 0.0 when there is no relevant item.

    Examples
    --------
    >>> hit_at([4, 12], 5), hit_at([4, 12], 3)
    (1.0, 0.0)
    """
    return float(np.any(np.asarray(ranks, dtype=np.float64) <= k))


def reciprocal_rank(ranks: ArrayLike) -> float:
    """1 / rank of the best relevant item; its mean over questions is MRR.

    Parameters
    ----------
    ranks
        Ranks of the relevant items, shape ``(r,)``; infinity or NaN stands for "not in the list".

    Returns
    -------
    float
        In ``[0, 1]``; 0.0 when no relevant item is in the list.

    Examples
    --------
    >>> reciprocal_rank([4, 2]), reciprocal_rank([float("inf")])
    (0.5, 0.0)
    """
    r = np.asarray(ranks, dtype=np.float64)
    r = r[~np.isnan(r)]
    return float(1.0 / r.min()) if r.size else 0.0


def ndcg_at(ranks: ArrayLike, k: int = 10) -> float:
    """Normalised discounted cumulative gain of the first ``k`` places, with binary relevance.

    Parameters
    ----------
    ranks
        Ranks of all relevant items, shape ``(r,)``; infinity or NaN stands for "not in the list".
    k
        Length of the list that is looked at, at least 1.

    Returns
    -------
    float
        In ``[0, 1]``; 1.0 when the first ``min(k, r)`` places are all relevant, 0.0 when there is no
        relevant item.

    References
    ----------
    Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 20 (2002), with
    gain 1 and discount ``log2(1 + rank)``.

    Examples
    --------
    >>> ndcg_at([1, 2]), round(ndcg_at([2]), 4), ndcg_at([11], k=10)
    (1.0, 0.6309, 0.0)
    """
    r = np.asarray(ranks, dtype=np.float64)
    if r.size == 0:
        return 0.0
    ideal = 1.0 / np.log2(2.0 + np.arange(min(k, r.size)))
    return float(np.sum(1.0 / np.log2(1.0 + r[r <= k])) / ideal.sum())


def measure(scores: ArrayLike, relevant: Sequence[int] | NDArray[np.integer], k: int = 10) -> dict[str, float]:
    """All figures of one question.

    Parameters
    ----------
    scores
        Scores of all items, shape ``(n,)``; higher is better.
    relevant
        Positions of the relevant items.
    k
        Length of the list for hit@k and nDCG@k.

    Returns
    -------
    dict
        ``"hit@1"``, ``f"hit@{k}"``, ``"mrr"`` and ``f"ndcg@{k}"``, each in ``[0, 1]``.

    Examples
    --------
    >>> measure([0.1, 0.9, 0.5], [2])["mrr"]
    0.5
    """
    ranks = relevant_ranks(scores, relevant)
    return {
        "hit@1": hit_at(ranks, 1),
        f"hit@{k}": hit_at(ranks, k),
        "mrr": reciprocal_rank(ranks),
        f"ndcg@{k}": ndcg_at(ranks, k),
    }


def simulate_click(shown: Sequence[int], relevant: frozenset[int], rng: np.random.Generator, noise: float = 0.0) -> list[int]:
    """Positions that a user clicks: every shown item that helps, or, as noise, one shown item at random.

    Parameters
    ----------
    shown
        Positions of the items on the screen.
    relevant
        Positions of the items that help.
    rng
        Source of the coin and of the random click. It is drawn from the same number of times whatever is
        shown, so that runs with different rankings meet the same coins.
    noise
        Probability that the event is one click on a uniformly random shown item, in ``[0, 1]``.

    Returns
    -------
    list of int
        Clicked positions in the order shown; empty when nothing helps, and then there is nothing to learn
        from.

    Examples
    --------
    >>> simulate_click([7, 3, 9], frozenset({9, 7, 1}), np.random.default_rng(0))
    [7, 9]
    """
    coin, place = rng.random(2)
    if coin < noise and len(shown):
        return [shown[min(int(place * len(shown)), len(shown) - 1)]]
    return [j for j in shown if j in relevant]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its bootstrap interval.

    Attributes
    ----------
    mean, low, high
        The mean and the ends of the percentile interval around it.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(values: ArrayLike, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean of ``values`` over questions with its percentile bootstrap interval.

    Parameters
    ----------
    values
        One figure per question, shape ``(n,)``, or per run and question, shape ``(runs, n)``; runs are
        averaged first, so the interval speaks about other questions, not about other runs.
    draws
        Number of resamples of the questions.
    seed
        Seed of the resampling; same seed and ``n``, same resamples.
    level
        Coverage, in ``(0, 1)``.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If there is no question, a value is not finite, or ``level`` or ``draws`` is out of range.

    Notes
    -----
    Costs O(draws · n) time and O(n) memory per draw, 128 draws at a time.

    References
    ----------
    Efron and Tibshirani, *An Introduction to the Bootstrap* (1993), chapter 13 (percentile interval).

    Examples
    --------
    >>> bootstrap([1.0, 1.0, 1.0])
    Interval(mean=1.0, low=1.0, high=1.0)
    """
    v = np.asarray(values, dtype=np.float64)
    v = v.mean(axis=0) if v.ndim == 2 else v
    if v.ndim != 1 or v.size == 0:
        raise ValueError(f"values: expected shape (n,) or (runs, n) with n > 0, got {np.shape(values)}")
    if not np.isfinite(v).all():
        raise ValueError(f"values: not finite at question {int(np.flatnonzero(~np.isfinite(v))[0])}")
    if draws < 1 or not 0.0 < level < 1.0:
        raise ValueError(f"draws and level: expected draws >= 1 and 0 < level < 1, got {draws} and {level}")
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for start in range(0, draws, _CHUNK):
        stop = min(start + _CHUNK, draws)
        means[start:stop] = v[rng.integers(0, v.size, (stop - start, v.size))].mean(axis=1)
    low, high = np.quantile(means, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Interval(float(v.mean()), float(low), float(high))


def paired_bootstrap(after: ArrayLike, before: ArrayLike, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Mean difference ``after - before`` on the same questions, with its bootstrap interval.

    Parameters
    ----------
    after, before
        One figure per question, shape ``(n,)``, or per run and question, shape ``(runs, n)``; runs are
        averaged first.
    draws, seed, level
        As in `bootstrap`.

    Returns
    -------
    Interval

    Raises
    ------
    ValueError
        If the two do not cover the same number of questions, or as in `bootstrap`.

    Examples
    --------
    >>> paired_bootstrap([1.0, 1.0, 0.0], [0.0, 1.0, 0.0], draws=500).mean
    0.3333333333333333
    """
    a, b = (np.atleast_2d(np.asarray(x, dtype=np.float64)).mean(axis=0) for x in (after, before))
    if a.shape != b.shape:
        raise ValueError(f"after and before: expected the same questions, got {a.size} and {b.size}")
    return bootstrap(a - b, draws=draws, seed=seed, level=level)
