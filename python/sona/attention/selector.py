"""Choice among mechanisms: by rules about the input, or learned from rewards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sona.attention._errors import ParameterError

__all__ = ["AttentionSelector"]

_Context = Mapping[str, Any]

# What each mechanism is for, strongest claim first. Context keys are listed in the class.
_RULES: tuple[tuple[str, Callable[[_Context], bool]], ...] = (
    ("dag_topological", lambda c: c.get("gate_drop", 0.0) > c.get("gate_threshold", 0.5)),
    ("dag_causal_cone", lambda c: c.get("symptom") is not None),
    ("dag_critical_path", lambda c: c.get("goal") == "makespan"),
    ("dag_mincut_gated", lambda c: c.get("sites", 1) == 2),
    ("temporal_btsp", lambda c: bool(c.get("recent_events"))),
    ("dag_parallel_branch", lambda c: c.get("parallelism", 0.0) > 4.0),
    ("dag_topological", lambda c: 0.0 < c.get("parallelism", 0.0) <= 1.5),
    ("mamba", lambda c: bool(c.get("streaming"))),
    ("linear", lambda c: bool(c.get("streaming"))),
    ("local_global", lambda c: not c.get("exact", True) and c.get("n", 0) >= 4096 and bool(c.get("window"))),
    ("linear", lambda c: not c.get("exact", True) and c.get("n", 0) >= 2 * c.get("features", 256)),
    ("flash", lambda c: True),
)


class AttentionSelector:
    """Which mechanism to use for a request.

    Parameters
    ----------
    candidates : sequence of str
        Names to choose from, at least one, no duplicates.
    policy : {"rules", "ucb1", "thompson"}, default "rules"
        ``rules``: from the context alone. ``ucb1``: every arm once in order, then the largest mean + sqrt(2·ln t / n).
        ``thompson``: Beta posteriors.
    gamma : float, default 1.0
        Above 0 and at most 1: below 1 older rewards count less.
    seed : int, default 0
        Seed of Thompson sampling.

    Notes
    -----
    Context keys that the rules read: ``n`` (tokens), ``exact``, ``window`` (a window is acceptable), ``streaming``,
    ``features``; for DAGs ``parallelism`` (work over span), ``symptom`` (a node), ``goal="makespan"``, ``sites``,
    ``recent_events``, ``gate_drop`` and ``gate_threshold``. Without a rule that names a candidate: the first candidate.

    References
    ----------
    Auer, Cesa-Bianchi & Fischer 2002 (UCB1); Thompson 1933; Garivier & Moulines 2011 (discounting).

    Examples
    --------
    >>> from sona.attention import AttentionSelector
    >>> AttentionSelector(["flash", "local_global"]).select({"n": 10_000, "exact": False, "window": True})
    'local_global'
    >>> bandit = AttentionSelector(["flash", "linear"], policy="ucb1")
    >>> for _ in range(100):
    ...     name = bandit.select()
    ...     bandit.update(name, 1.0 if name == "linear" else 0.0)
    >>> bandit.select()
    'linear'
    """

    def __init__(self, candidates: Sequence[str], *, policy: str = "rules", gamma: float = 1.0, seed: int = 0) -> None:
        names = list(candidates)
        if not names or len(set(names)) != len(names):
            raise ParameterError(f"candidates: expected at least one name and no duplicates, got {names}")
        if policy not in ("rules", "ucb1", "thompson"):
            raise ParameterError(f"policy: expected 'rules', 'ucb1' or 'thompson', got {policy!r}")
        if not 0 < gamma <= 1:
            raise ParameterError(f"gamma: expected above 0 and at most 1, got {gamma}")
        self.candidates, self.policy, self.gamma = tuple(names), policy, float(gamma)
        self._counts = np.zeros(len(names))
        self._sums = np.zeros(len(names))
        self._rng = np.random.default_rng(seed)

    def select(self, context: _Context | None = None) -> str:
        """Name of the mechanism to use."""
        if self.policy == "rules":
            known = context or {}
            for name, applies in _RULES:
                if name in self.candidates and applies(known):
                    return name
            return self.candidates[0]
        if self.policy == "thompson":
            draws = self._rng.beta(1.0 + self._sums, 1.0 + np.maximum(self._counts - self._sums, 0.0))
            return self.candidates[int(np.argmax(draws))]
        fresh = np.flatnonzero(self._counts == 0)
        if fresh.size:
            return self.candidates[int(fresh[0])]
        bonus = np.sqrt(2.0 * math.log(max(self._counts.sum(), 1.0)) / self._counts)
        return self.candidates[int(np.argmax(self._sums / self._counts + bonus))]

    def update(self, name: str, reward: float) -> None:
        """The mechanism `name` was used and earned `reward`, 0 to 1."""
        if name not in self.candidates:
            raise ParameterError(f"name: {name!r} is not among the candidates {list(self.candidates)}")
        if not 0 <= reward <= 1:
            raise ParameterError(f"reward: expected 0 to 1, got {reward}")
        self._counts *= self.gamma
        self._sums *= self.gamma
        i = self.candidates.index(name)
        self._counts[i] += 1.0
        self._sums[i] += reward

    def state_dict(self) -> dict[str, Any]:
        """Everything learned, as plain values."""
        return {
            "candidates": list(self.candidates),
            "counts": self._counts.tolist(),
            "sums": self._sums.tolist(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Continue from a state of a selector with the same candidates."""
        missing = {"candidates", "counts", "sums", "rng"} - set(d)
        if missing:
            raise ParameterError(f"state dict: missing {sorted(missing)}")
        if list(d["candidates"]) != list(self.candidates):
            raise ParameterError(f"state dict: it is for {list(d['candidates'])}, not {list(self.candidates)}")
        counts, sums = np.array(d["counts"], dtype=np.float64), np.array(d["sums"], dtype=np.float64)
        fits = counts.shape == sums.shape == self._counts.shape
        if not fits or not bool(np.all((counts >= 0) & (sums >= 0) & (sums <= counts + 1e-9) & np.isfinite(counts))):
            raise ParameterError("state dict: counts and sums do not fit")
        rng = np.random.default_rng()
        try:
            rng.bit_generator.state = d["rng"]
        except (TypeError, ValueError, KeyError) as error:
            raise ParameterError(f"state dict: rng is not a generator's state ({error})") from error
        self._counts, self._sums, self._rng = counts, sums, rng

    def __repr__(self) -> str:
        """Policy and pulls so far."""
        pulls = dict(zip(self.candidates, self._counts.round(1).tolist(), strict=True))
        return f"AttentionSelector(policy='{self.policy}', pulls={pulls})"
