"""The router: which model answers, learned from how its answers turned out."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from sona import _core
from sona.exceptions import ConfigError, DimensionMismatch
from sona.routing._arrays import Floats, matrix
from sona.routing._budget import BudgetPacer
from sona.routing._history import HistoryModel
from sona.routing._names import join, split

__all__ = ["RoutingDecision", "TinyDancerRouter"]


@dataclass(frozen=True, slots=True)
class RoutingDecision:
    """Which model answers a request, and why.

    Attributes
    ----------
    decision_id : str
        For ``feedback``.
    model : str
        The chosen model.
    quality, lower_bound : dict
        Expected quality of each candidate, and what its quality falls below with probability at most ``alpha`` (-inf while
        too few outcomes are known).
    propensity : float
        Probability with which ``model`` was chosen. Log it: off-policy evaluation rests on it.
    cost : float
        Expected cost of this call.
    explored : bool
        Whether another than the best was drawn.
    reason : str
        "best", "nothing known", "explored", "budget", "risk", "abstained" or "unavailable".
    confidence : float
        Calibrated expected quality of the chosen model, in [0, 1].
    propensities : dict
        Probability of each candidate.
    """

    decision_id: str
    model: str
    quality: dict[str, float]
    lower_bound: dict[str, float]
    propensity: float
    cost: float
    explored: bool
    reason: str
    confidence: float
    propensities: dict[str, float]


class TinyDancerRouter:
    """Send each request to the cheapest model that is good enough, and learn from the outcomes which one that is.

    The model with the greatest q̂ − (cost_weight + shadow price)·cost is chosen among those that the budget affords and the
    guard permits. Which rule gives q̂ is ``predictor``; after :meth:`fit` it corrects what the history says.

    Parameters
    ----------
    models : dict of str to float
        Name to price per call, 0 or above, in any unit.
    dim : int
        Length of an embedding. Only its direction counts.
    k : int, default 40
        Neighbours of ``predictor="knn"``.
    cost_weight : float, default 0.0
        Quality that one unit of cost must bring. 0: quality alone, ties to the cheaper.
    alpha : float, default 0.1
        Level of the guard: away from the reference (the model that is best on the whole) goes only what keeps, per model,
        P(gap ≤ its threshold and loss > epsilon) ≤ alpha by conformal risk control. 1 switches it off. With outcomes of
        single models the reference's quality is its estimate, and the guard errs on the side of the reference.
    epsilon : float, default 0.1
        Loss of quality that is put up with.
    exploration : float, default 0.02
        Share of requests that goes to a random candidate. Above 0, less sure choices are also explored by inverse-gap
        weighting; 0 never explores.
    budget : BudgetPacer or float, optional
        A limit that is paced; a number is a limit per 24 hours. A router never starts a call that it expects to overspend
        while a cheaper one fits.
    seed : int, default 0
        Of the exploration.
    predictor : {"hybrid", "linear", "knn", "logistic", "linucb", "thompson", "fastgrnn"}
        "hybrid": Bayesian linear model with a part that all models share, plus a kernel residual over remembered requests.
        "fastgrnn": a recurrent cell that reads conversations; wherever others take a (dim,) embedding it also takes (T, dim)
        turns, of which the last 64 count.
    tenant_budget : BudgetPacer, optional
        Each tenant named in ``route`` gets a budget like this one.
    floor : str, optional
        Models cheaper than this one are not used.
    fallback : str, optional
        Used while nothing is known, when abstaining, and when no circuit is closed; the dearest by default.
    abstain_below : float, default 0.0
        Use the fallback when the calibrated confidence is lower.
    breaker : (int, float), default (5, 30.0)
        So many failed calls in a row take a model out for so many seconds.
    half_life : float, default 10,000
        Outcomes after which an old one counts half.
    judge_error : float, default 0.0
        Known share of outcomes that the judge flips, below 0.5; outcomes are corrected for it.
    capacity : int, default 20,000
        Most remembered requests.

    Raises
    ------
    ConfigError
        If a value is out of range.

    Notes
    -----
    Safe to share between threads. With 2,000 remembered requests of dimension 384 a decision takes about 0.1 ms, an outcome
    the same; every fourfold of remembered requests up to 16,384 an outcome also finds new components (up to 0.5 s).

    References
    ----------
    Hu et al. 2024 (RouterBench); Li et al. 2010; Foster & Rakhlin 2020 (inverse-gap weighting); Angelopoulos et al. 2024
    (conformal risk control).

    Examples
    --------
    >>> router = TinyDancerRouter({"small": 1.0, "big": 10.0}, dim=2, cost_weight=0.02)
    >>> for _ in range(30):
    ...     for x, small in (([1, 0], 1.0), ([0, 1], 0.0)):
    ...         router.learn(x, "small", small)
    ...         router.learn(x, "big", 1.0)
    >>> router.route([1, 0]).model, router.route([0, 1]).model
    ('small', 'big')
    >>> d = router.route([1, 0.1])
    >>> router.feedback(d.decision_id, quality=1.0, cost=0.9)
    True
    """

    def __init__(
        self,
        models: Mapping[str, float],
        *,
        dim: int,
        k: int = 40,
        cost_weight: float = 0.0,
        alpha: float = 0.1,
        epsilon: float = 0.1,
        exploration: float = 0.02,
        budget: BudgetPacer | float | None = None,
        seed: int = 0,
        predictor: str = "hybrid",
        tenant_budget: BudgetPacer | None = None,
        floor: str | None = None,
        fallback: str | None = None,
        abstain_below: float = 0.0,
        breaker: tuple[int, float] = (5, 30.0),
        half_life: float = 10_000.0,
        judge_error: float = 0.0,
        capacity: int = 20_000,
    ) -> None:
        self._names = [str(m) for m in models]
        self._place = {m: i for i, m in enumerate(self._names)}
        for name, model in (("floor", floor), ("fallback", fallback)):
            if model is not None and model not in self._place:
                raise ConfigError(f"{name}: expected one of {self._names}, got {model!r}")
        if budget is not None and not isinstance(budget, BudgetPacer):
            budget = BudgetPacer.per_day(float(budget))
        self._core = _core.RouterCore(
            [float(p) for p in models.values()],
            dim=dim,
            k=k,
            cost_weight=cost_weight,
            alpha=alpha,
            epsilon=epsilon,
            exploration=exploration,
            predictor=predictor,
            floor=None if floor is None else self._place[floor],
            fallback=None if fallback is None else self._place[fallback],
            abstain_below=abstain_below,
            breaker=breaker,
            half_life=half_life,
            judge_error=judge_error,
            capacity=capacity,
            seed=seed,
            budget=None if budget is None else budget._pacer,
            tenant_budget=None if tenant_budget is None else tenant_budget._pacer,
        )

    @property
    def models(self) -> dict[str, float]:
        """Name to price per call."""
        return {m: self._core.price(i) for i, m in enumerate(self._names)}

    @property
    def budget(self) -> BudgetPacer | None:
        """The budget, shared with the router."""
        pacer = self._core.budget
        return None if pacer is None else BudgetPacer._of(pacer)

    def _model(self, name: str) -> int:
        if name not in self._place:
            raise KeyError(f"model {name!r}: expected one of {self._names}")
        return self._place[name]

    def route(
        self,
        embedding: Any,
        *,
        candidates: Iterable[str] | None = None,
        cost_weight: float | None = None,
        tenant: str | None = None,
        now: float | None = None,
    ) -> RoutingDecision:
        """Choose a model.

        Parameters
        ----------
        embedding : (dim,) array
            The request; (T, dim) turns with ``predictor="fastgrnn"``.
        candidates : iterable of str, optional
            Models that may answer; all by default.
        cost_weight : float, optional
            Instead of the router's.
        tenant : str, optional
            Whose budget pays.
        now : float, optional
            Seconds, for budgets and circuits; the clock if omitted.

        Raises
        ------
        ValueError
            If there is no candidate.
        KeyError
            If a candidate is unknown.
        NotFiniteError, ShapeError, DimensionMismatch
            If the embedding is not such an array.
        """
        places = None if candidates is None else list(dict.fromkeys(self._model(m) for m in candidates))
        c = self._core.route(embedding, places, cost_weight, tenant, time.time() if now is None else now)
        names = self._names if places is None else [self._names[i] for i in places]
        return RoutingDecision(
            decision_id=f"r-{c['id']}",
            model=self._names[c["model"]],
            quality=dict(zip(names, c["quality"], strict=True)),
            lower_bound=dict(zip(names, c["lower"], strict=True)),
            propensity=c["propensity"],
            cost=c["cost"],
            explored=c["explored"],
            reason=c["reason"],
            confidence=c["confidence"],
            propensities=dict(zip(names, c["propensities"], strict=True)),
        )

    def feedback(
        self,
        decision_id: str,
        quality: float,
        *,
        cost: float | None = None,
        latency_ms: float | None = None,
        error: bool = False,
        now: float | None = None,
    ) -> bool:
        """Tell how a decision turned out, at any later time; True if it was learned.

        Parameters
        ----------
        decision_id : str
            Of the decision. A second outcome of the same decision changes nothing.
        quality : float
            In [0, 1].
        cost, latency_ms : float, optional
            What the call really took; the budget is corrected by the difference to the expected cost.
        error : bool, default False
            The call failed: counts against the model's circuit, and is not learned as quality.
        now : float, optional
            Seconds; the clock if omitted.

        Raises
        ------
        KeyError
            If no such decision was made.
        NotFiniteError, ValueError
            If a number is not finite or out of range.
        """
        number = decision_id[2:] if decision_id.startswith("r-") else ""
        if not (number.isascii() and number.isdigit() and len(number) < 20):
            raise KeyError(f"decision {decision_id!r}: no such decision")
        seconds = time.time() if now is None else now
        return self._core.feedback(int(number), quality, cost, latency_ms, error, seconds)

    def learn(self, embedding: Any, model: str, quality: float, *, cost: float | None = None) -> None:
        """Learn an outcome that no decision stands behind: a log, a test set, another system.

        Parameters
        ----------
        embedding : (dim,) array
        model : str
        quality : float
            In [0, 1].
        cost : float, optional

        Raises
        ------
        KeyError
            If the model is unknown.
        NotFiniteError, ShapeError, DimensionMismatch, ValueError
            If an input does not fit. Nothing is learned.
        """
        self._core.learn(embedding, self._model(model), quality, cost)

    def estimate(self, embeddings: Any) -> tuple[Floats, Floats]:
        """Return expected quality and cost, each (n, models) float64, for (n, dim) embeddings; decides nothing.

        With ``predictor="fastgrnn"`` also for a list of (T, dim) conversations.
        """
        if self._reads_turns and isinstance(embeddings, (list, tuple)):
            return self._core.estimate_turns(list(embeddings))
        return self._core.estimate(embeddings)

    @property
    def _reads_turns(self) -> bool:
        return bool(self._core.settings()["predictor"] == "fastgrnn")

    def fit(self, embeddings: Any, quality: Any, costs: Any = None, *, calibrate: bool = True, seed: int = 0) -> Self:
        """Learn from a history in which every model answered every request; outcomes that come later correct it.

        Parameters
        ----------
        embeddings : (n, dim) array
            With ``predictor="fastgrnn"`` a list of n conversations, each (T, dim): they train the cell, and ``costs`` count
            by their mean only.
        quality : (n, models) array
            In [0, 1], columns in the order of ``models``.
        costs : (n, models) array, optional
            With them, costs are expected per request (mean of the nearest), not per model.
        calibrate : bool, default True
            Calibrate the guard on predictions for 5 held-out parts; takes five more fits.
        seed : int, default 0
            Of landmarks and parts.

        Raises
        ------
        NotFiniteError, ShapeError, DimensionMismatch, ValueError
            If an input does not fit. Nothing changes.

        Notes
        -----
        About 1 s per fit for 5,000 requests of dimension 384. See :class:`HistoryModel`.
        """
        if self._reads_turns:
            return self._fit_turns(list(embeddings), quality, costs, calibrate, seed)
        x = matrix("embeddings", embeddings, int(self._core.settings()["dim"]))
        y = matrix("quality", quality, len(self._names))
        if len(y) != len(x):
            raise DimensionMismatch(f"quality: expected dimension {len(x)}, got {len(y)}")
        if ((y < 0) | (y > 1)).any():
            raise ValueError("quality: expected numbers in [0, 1]")
        c = None if costs is None else matrix("costs", costs, len(self._names))
        model = HistoryModel.fit(x, y, c, seed=seed)
        held_out = _out_of_fold(x, y, seed) if calibrate else None
        price = np.full(len(self._names), math.nan) if c is None else c.mean(axis=0)
        means = [(float(q), float(p), float(len(x))) for q, p in zip(y.mean(axis=0), price, strict=True)]
        self._core.set_history(model.parts, model.cost_neighbours, means)
        if held_out is not None:
            self._calibrate(held_out, y)
        return self

    def _fit_turns(self, conversations: list[Any], quality: Any, costs: Any, calibrate: bool, seed: int) -> Self:
        y = matrix("quality", quality, len(self._names))
        c = None if costs is None else matrix("costs", costs, len(self._names))
        price = np.full(len(self._names), math.nan) if c is None else c.mean(axis=0)
        means = list(zip(map(float, y.mean(axis=0)), map(float, price), strict=True))
        held_out = None
        if calibrate:
            held_out = np.empty_like(y)
            fold = np.random.default_rng(seed).permutation(len(y)) % 5
            for f in range(5):
                part = TinyDancerRouter(self.models, dim=int(self._core.settings()["dim"]), predictor="fastgrnn")
                rest = [conversations[i] for i in np.flatnonzero(fold != f)]
                part.fit(rest, y[fold != f], calibrate=False)
                held_out[fold == f] = part.estimate([conversations[i] for i in np.flatnonzero(fold == f)])[0]
        self._core.fit_turns(conversations, y, means)
        if held_out is not None:
            self._calibrate(held_out, y)
        return self

    def _calibrate(self, predicted: Floats, y: Floats) -> None:
        prices = np.array([self._core.price(i) for i in range(len(self._names))])
        # Best on the whole, ties to the dearer: the reference of the guard.
        ref = int(np.lexsort((prices, y.mean(axis=0)))[-1])
        epsilon = float(self._core.settings()["epsilon"])
        for m in range(len(self._names)):
            gap = predicted[:, ref] - predicted[:, m]
            loss = (y[:, ref] - y[:, m] > epsilon) & (m != ref)
            rows = zip(gap, loss.astype(float), predicted[:, m] - y[:, m], strict=True)
            self._core.calibrate(m, [(float(a), float(b), float(r)) for a, b, r in rows])

    def fit_features(self, embeddings: Any) -> Self:
        """Find the components of requests from (n, dim) embeddings without outcomes, once for all."""
        self._core.fit_features(embeddings)
        return self

    def add_model(self, name: str, price: float) -> None:
        """Bring in a model while the router runs. It starts beside the best, and is tried 40 times without the guard.

        Raises
        ------
        ConfigError
            If the name is known, or the price is not a number of 0 or above.
        """
        if name in self._place:
            raise ConfigError(f"name: expected a new one, got {name!r}")
        self._core.add_model(price)
        self._place[name] = len(self._names)
        self._names.append(name)

    def reset_model(self, name: str) -> None:
        """Forget all outcomes of a model, for instance because its provider changed it; it is tried anew."""
        self._core.reset_model(self._model(name))

    def _follow(
        self, number: int, x: Any, candidates: list[str], model: str, propensity: float, tenant: str, now: float
    ) -> None:
        """Take note of a decision of a log, as if it had been made now."""
        places = [self._model(m) for m in candidates]
        self._core.follow(number, x, places, self._model(model), propensity, tenant, now)

    def _take(self, other: TinyDancerRouter) -> None:
        """Become what ``other`` is."""
        self._names, self._place, self._core = other._names, other._place, other._core

    def summary(self, *, now: float | None = None) -> dict[str, dict[str, float | int | bool]]:
        """Return per model: price, mean cost, mean quality, outcomes, mean latency in ms (NaN if unknown), open circuit."""
        keys = ("price", "mean_cost", "mean_quality", "outcomes", "mean_latency_ms", "circuit_open")
        rows = self._core.summary(time.time() if now is None else now)
        return {m: dict(zip(keys, row, strict=True)) for m, row in zip(self._names, rows, strict=True)}

    def metrics(self) -> dict[str, int | float]:
        """Return counts: decisions, outcomes, exploration, what was held back and why, what was dropped."""
        return self._core.metrics()

    def to_bytes(self) -> bytes:
        """Return the whole state, versioned and with a checksum; going on from it equals never having stopped."""
        return join(b"ROU1", {"models": self._names}, self._core.to_bytes())

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; ``CorruptStateError`` for anything else. The budget is then its own."""
        head, body = split(b"ROU1", b, "TinyDancerRouter")
        core = _core.RouterCore.from_bytes(body)
        self = cls.__new__(cls)
        self._names = head.names("models", int(core.metrics()["models"]))
        self._place = {m: i for i, m in enumerate(self._names)}
        self._core = core
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        s, m = self._core.settings(), self.metrics()
        return (
            f"TinyDancerRouter({self.models}, dim={s['dim']}, cost_weight={s['cost_weight']}, alpha={s['alpha']}, "
            f"predictor={s['predictor']!r}, cases={m['cases']}, decisions={m['decisions']})"
        )


def _out_of_fold(x: Floats, y: Floats, seed: int, folds: int = 5) -> Floats:
    """Predictions for each fold by the others."""
    fold = np.random.default_rng(seed).permutation(len(x)) % folds
    out = np.empty_like(y)
    for f in range(folds):
        out[fold == f] = HistoryModel.fit(x[fold != f], y[fold != f], seed=seed).predict(x[fold == f])[0]
    return out
