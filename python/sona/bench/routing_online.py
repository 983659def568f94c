"""Routing as it happens: outcomes of the chosen model only, noisy or late, budgets, and off-policy estimates from the logs."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sona.bench.routing_curves import Floats, Rows, curve
from sona.bench.routing_data import RoutingSet
from sona.routing import BudgetPacer, OffPolicyEvaluator, RewardModel, TinyDancerRouter

__all__ = ["OnlineRun", "joint_risk", "new_model", "off_policy", "online", "spend_error"]

#: Utility per cost in the streams: the dearest model's mean cost is worth this much quality.
DEAR = 0.1


@dataclass(frozen=True)
class OnlineRun:
    """What a stream of outcomes led to."""

    rounds: int
    aiq: float
    regret: float
    regret_uniform: float
    calls: NDArray[np.int64]


def _weight(data: RoutingSet) -> float:
    return DEAR / float(data.cost[data.train].mean(axis=0).max())


def _router(data: RoutingSet, seed: int, **options: object) -> TinyDancerRouter:
    prices = dict(zip(data.models, map(float, data.cost[data.train].mean(axis=0)), strict=True))
    return TinyDancerRouter(
        prices,
        dim=data.x.shape[1],
        cost_weight=_weight(data),
        alpha=1.0,
        seed=seed,
        **options,  # type: ignore[arg-type]
    )


def online(
    data: RoutingSet,
    seed: int,
    *,
    rounds: int = 2000,
    predictor: str = "hybrid",
    flip: float = 0.0,
    delay: int = 0,
) -> OnlineRun:
    """Stream the training requests once in random order, learn from the chosen model's outcome, judge on the test requests."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(data.train)[:rounds]
    router = _router(data, seed, predictor=predictor, judge_error=flip)
    waiting: deque[tuple[str, float, float]] = deque()
    calls = []
    for row in order:
        d = router.route(data.x[row], now=0.0)
        model = data.models.index(d.model)
        calls.append(model)
        true = float(data.quality[row, model])
        seen = 1.0 - true if flip and rng.random() < flip else true
        waiting.append((d.decision_id, seen, float(data.cost[row, model])))
        if len(waiting) > delay:
            number, value, paid = waiting.popleft()
            router.feedback(number, value, cost=paid, now=0.0)
    quality, cost = router.estimate(data.x[data.test])
    utility = data.quality[order] - _weight(data) * data.cost[order]
    mine = utility[np.arange(len(order)), calls].sum()
    best = utility.sum(axis=0).max()
    return OnlineRun(
        rounds=len(order),
        aiq=curve(data, data.test, quality, cost).aiq,
        regret=float(best - mine),
        regret_uniform=float(best - utility.mean(axis=1).sum()),
        calls=np.bincount(calls, minlength=len(data.models)),
    )


def spend_error(data: RoutingSet, seed: int, *, requests: int = 2000, by_task: bool = False) -> list[float]:
    """Spent over the limit, minus 1, for three limits between the cheapest and the best model; fed by its own outcomes."""
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(data.x), size=requests, replace=len(data.x) < requests)
    if by_task:
        rows = rows[np.argsort(data.task[rows], kind="stable")]
    means = data.cost[data.train].mean(axis=0)
    low, high = float(means.min()), float(means[data.best])
    out = []
    for share in (0.15, 0.3, 0.6):
        limit = requests * (low + share * (high - low))
        budget = BudgetPacer(limit, horizon=requests + 1, per="requests")
        router = _router(data, seed, budget=budget)
        for row in rows:
            d = router.route(data.x[row], cost_weight=0.0, now=0.0)
            model = data.models.index(d.model)
            router.feedback(d.decision_id, float(data.quality[row, model]), cost=float(data.cost[row, model]), now=0.0)
        out.append(1.0 - budget.remaining / limit - 1.0)
    return out


@dataclass(frozen=True)
class OffPolicy:
    """Errors of the doubly robust estimate over repetitions."""

    repetitions: int
    bias: float
    rmse: float
    coverage: float
    ess: float


def off_policy(data: RoutingSet, *, logs: int = 2000, repetitions: int = 100, seed: int = 0) -> OffPolicy:
    """Value of the greedy policy of a trained router from logs of an exploring one, against the truth on all requests."""
    router = _router(data, seed)
    rng = np.random.default_rng(seed)
    for row in rng.permutation(data.train)[: len(data.train) // 4]:
        d = router.route(data.x[row], now=0.0)
        m = data.models.index(d.model)
        router.feedback(d.decision_id, float(data.quality[row, m]), cost=float(data.cost[row, m]), now=0.0)
    # The policies are frozen: propensities of the logging one come from its decisions, the target is another's choice.
    shares = np.array([list(router.route(x, now=0.0).propensities.values()) for x in data.x])
    quality, cost = router.estimate(data.x)
    target = (quality - 0.25 * _weight(data) * cost).argmax(axis=1)
    truth = float(data.quality[np.arange(len(target)), target].mean())
    ope = OffPolicyEvaluator()
    errors, covered, sizes = [], [], []
    for _ in range(repetitions):
        rows = rng.integers(len(data.x), size=logs)
        p = shares[rows]
        action = (p.cumsum(axis=1) > rng.random(logs)[:, None] * p.sum(axis=1, keepdims=True)).argmax(axis=1)
        reward = data.quality[rows, action]
        model = RewardModel().cross_fit(data.x[rows], action, reward, n_actions=len(data.models))
        at = np.arange(logs)
        estimate = ope.doubly_robust(
            reward, (target[rows] == action).astype(float), p[at, action], model[at, action], model[at, target[rows]]
        )
        interval = estimate.interval()
        errors.append(estimate.value - truth)
        sizes.append(estimate.ess)
        if interval is not None:
            covered.append(interval[0] <= truth <= interval[1])
    e = np.array(errors)
    return OffPolicy(
        repetitions,
        float(e.mean()),
        float(np.sqrt((e**2).mean())),
        float(np.mean(covered)) if covered else float("nan"),
        float(np.mean(sizes)),
    )


@dataclass(frozen=True)
class JointRisk:
    """Risk and saving of the guarded rule on requests that it was not calibrated on."""

    alpha: float
    risk: float
    loss_if_away: float
    away: float
    saving: float


def joint_risk(data: RoutingSet, rows: Rows, quality: Floats, cost: Floats, *, alpha: float, splits: int = 20) -> JointRisk:
    """The cheapest model whose predicted gap to the best one is at most t; t from half of ``rows``, judged on the other."""
    ref = data.best
    gap = quality[:, [ref]] - quality
    y, paid = data.quality[rows], data.cost[rows]
    at = np.arange(len(rows))
    grid = np.unique(np.quantile(gap, np.linspace(0, 1, 200)))
    # Nested by t: with each larger t a request moves to a cheaper model or stays.
    choices = np.stack([np.where(gap <= t, cost, np.inf).argmin(axis=1) for t in grid])
    none = ~np.stack([(gap <= t).any(axis=1) for t in grid])
    choices[none] = ref
    lost = (y[at, ref] - y[at, choices] > 0.1) & (choices != ref)
    out = []
    for s in range(splits):
        half = np.random.default_rng(s).permutation(len(rows))
        fit, test = half[: len(half) // 2], half[len(half) // 2 :]
        bound = (lost[:, fit].sum(axis=1) + 1.0) / (len(fit) + 1.0)
        # The loss is not monotone in t exactly; the first t that breaks the bound ends the search.
        bad = np.flatnonzero(bound > alpha)
        k = (int(bad[0]) if len(bad) else len(grid)) - 1
        c = choices[k][test] if k >= 0 else np.full(len(test), ref)
        gone = c != ref
        missed = (y[test, ref] - y[test, c] > 0.1) & gone
        saving = 1.0 - paid[test, c].sum() / paid[test, ref].sum()
        out.append((missed.mean(), missed.sum() / max(gone.sum(), 1), gone.mean(), saving))
    risk, conditional, away, saving = (float(v) for v in np.mean(out, axis=0))
    return JointRisk(alpha, risk, conditional, away, saving)


def new_model(data: RoutingSet, seed: int, *, good: bool, before: int = 800, after: int = 300) -> tuple[int, float, int]:
    """(calls until a good model answers most of ten requests in a row, utility lost to it, its calls) after it joins.

    The newcomer copies the best model's outcomes at a third of its price, or the worst's at the best's price.
    """
    rng = np.random.default_rng(seed)
    order = rng.choice(data.train, size=min(before + after, len(data.train)), replace=False)
    first = order[: len(order) - after]
    router = _router(data, seed)
    weight = _weight(data)
    utility = data.quality - weight * data.cost
    source = data.best if good else int(data.quality[data.train].mean(axis=0).argmin())
    price = data.cost[data.train].mean(axis=0)[data.best] / (3.0 if good else 1.0)
    names = [*data.models, "newcomer"]

    def step(row: int) -> tuple[int, float]:
        d = router.route(data.x[row], now=0.0)
        m = names.index(d.model)
        fresh = m == len(data.models)
        cost = float(price if fresh else data.cost[row, m])
        quality = float(data.quality[row, source if fresh else m])
        router.feedback(d.decision_id, quality, cost=cost, now=0.0)
        return m, quality - weight * cost

    for row in first:
        step(int(row))
    router.add_model("newcomer", float(price))
    used, lost = [], 0.0
    best = int(utility[data.train].mean(axis=0).argmax())
    for row in order[len(first) :]:
        m, got = step(int(row))
        used.append(m == len(data.models))
        if used[-1]:
            lost += float(utility[row, best]) - got
    run = np.convolve(used, np.ones(10), mode="valid")
    often = np.flatnonzero(run >= 5)
    return (int(often[0]) + 10 if len(often) else -1), lost, int(np.sum(used))
