"""TinyDancerRouter: learning, propensities, budgets, guard, circuits, new models, state, hostile bytes, threads."""

from __future__ import annotations

import math
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError, ShapeError
from sona.routing import BudgetPacer, HistoryModel, KnnRouter, TinyDancerRouter

PREDICTORS = ["hybrid", "linear", "knn", "logistic", "linucb", "thompson", "fastgrnn"]
PRICES = {"cheap": 1.0, "strong": 10.0}
D = 8


def requests(n, seed=0):
    """Two regions; the cheap model is good in the first only."""
    rng = np.random.default_rng(seed)
    region = rng.integers(0, 2, n)
    return (np.eye(D)[region] + 0.1 * rng.normal(size=(n, D))).astype(np.float32), region


def outcome(region, model):
    return float(model == "strong" or region == 0)


def serve(router, n, seed=0):
    out = []
    for x, region in zip(*requests(n, seed), strict=True):
        d = router.route(x, now=0.0)
        assert router.feedback(d.decision_id, outcome(region, d.model), now=0.0)
        out.append((d, region))
    return out


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_learns_from_its_own_choices(predictor):
    router = TinyDancerRouter(PRICES, dim=D, k=10, cost_weight=0.02, alpha=1.0, exploration=0.1, predictor=predictor)
    served = serve(router, 900)
    right = np.mean([d.model == ("cheap", "strong")[region] for d, region in served[600:]])
    assert right > 0.85


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_propensities_are_those_of_the_choices(predictor):
    router = TinyDancerRouter({"a": 1.0, "b": 2.0, "c": 3.0}, dim=D, alpha=1.0, exploration=0.3, predictor=predictor, seed=4)
    for m, q in (("a", 0.9), ("b", 0.8), ("c", 0.2)):
        for x in np.eye(D)[:4]:
            router.learn(x, m, q)
    n = 4000
    decisions = [router.route(np.eye(D)[0]) for _ in range(n)]
    for m in ("a", "b", "c"):
        expected = sum(d.propensities[m] for d in decisions)
        spread = math.sqrt(sum(d.propensities[m] * (1 - d.propensities[m]) for d in decisions))
        assert abs(sum(d.model == m for d in decisions) - expected) < 5 * spread
    for d in decisions:
        assert d.propensity == d.propensities[d.model] > 0.0999
        assert sum(d.propensities.values()) == pytest.approx(1.0)
        assert d.explored == (d.reason == "explored")


def test_nothing_known_is_the_dearest_and_zero_exploration_is_certain():
    router = TinyDancerRouter(PRICES, dim=D, exploration=0.0)
    d = router.route(np.ones(D))
    assert (d.model, d.reason, d.propensity, d.explored) == ("strong", "nothing known", 1.0, False)
    assert d.lower_bound == {"cheap": -math.inf, "strong": -math.inf}
    assert router.route(np.ones(D), candidates=["cheap"]).model == "cheap"


def test_free_models_are_compared_by_quality_alone():
    router = TinyDancerRouter({"a": 0.0, "b": 0.0}, dim=D, cost_weight=5.0, exploration=0.0, alpha=1.0)
    for x in requests(40)[0]:
        router.learn(x, "a", 0.2)
        router.learn(x, "b", 0.9)
    assert router.route(np.eye(D)[0]).model == "b"


def test_feedback_is_idempotent_and_late_outcomes_count():
    router = TinyDancerRouter(PRICES, dim=D)
    ids = [router.route(x).decision_id for x in requests(20)[0]]
    assert all(router.feedback(i, 1.0) for i in reversed(ids))
    before = router.to_bytes()
    assert router.metrics()["outcomes"] == 20
    assert not any(router.feedback(i, 0.0) for i in ids)
    assert router.metrics() | {"duplicates": 0} == TinyDancerRouter.from_bytes(before).metrics()


@pytest.mark.parametrize("bad", ["r-99", "x", "r-", "r--1", "r-1e3", "r-99999999999999999999999"])
def test_unknown_decisions_are_key_errors(bad):
    with pytest.raises(KeyError):
        TinyDancerRouter(PRICES, dim=D).feedback(bad, 0.5)


def test_bad_inputs_change_nothing():
    router = TinyDancerRouter(PRICES, dim=D, seed=3)
    serve(router, 30)
    pending = router.route(np.ones(D), now=0.0).decision_id
    before = router.to_bytes()
    x = np.ones(D)
    for error, call in [
        (NotFiniteError, lambda: router.route(np.full(D, np.nan))),
        (NotFiniteError, lambda: router.route(np.full(D, np.inf))),
        (DimensionMismatch, lambda: router.route(np.ones(D + 1))),
        (ShapeError, lambda: router.route(np.ones((1, D)))),
        (ShapeError, lambda: router.route(1.0)),
        (ValueError, lambda: router.route(x, candidates=[])),
        (KeyError, lambda: router.route(x, candidates=["cheap", "unknown"])),
        (NotFiniteError, lambda: router.route(x, cost_weight=math.nan)),
        (KeyError, lambda: router.learn(x, "unknown", 0.5)),
        (ValueError, lambda: router.learn(x, "cheap", 1.5)),
        (NotFiniteError, lambda: router.learn(x, "cheap", math.nan)),
        (NotFiniteError, lambda: router.learn(np.full(D, np.nan), "cheap", 0.5)),
        (ValueError, lambda: router.learn(x, "cheap", 0.5, cost=-1.0)),
        (ValueError, lambda: router.feedback(pending, -0.1)),
        (NotFiniteError, lambda: router.feedback(pending, math.inf)),
        (NotFiniteError, lambda: router.feedback(pending, 0.5, cost=math.nan)),
        (ValueError, lambda: router.feedback(pending, 0.5, latency_ms=-1.0)),
        (ConfigError, lambda: router.add_model("cheap", 1.0)),
        (ConfigError, lambda: router.add_model("new", -1.0)),
        (ValueError, lambda: router.fit(np.ones((20, D)), np.full((20, 2), 2.0))),
        (DimensionMismatch, lambda: router.fit(np.ones((20, D)), np.ones((19, 2)))),
    ]:
        with pytest.raises(error):
            call()
        assert router.to_bytes() == before


@pytest.mark.parametrize(
    "options",
    [
        {"dim": 0},
        {"k": 0},
        {"cost_weight": -1.0},
        {"cost_weight": math.nan},
        {"alpha": 0.0},
        {"alpha": 1.5},
        {"epsilon": -0.1},
        {"exploration": 1.0},
        {"predictor": "oracle"},
        {"floor": "unknown"},
        {"fallback": "unknown"},
        {"abstain_below": 2.0},
        {"breaker": (0, 1.0)},
        {"half_life": 0.0},
        {"judge_error": 0.5},
        {"capacity": 0},
        {"budget": 0.0},
    ],
)
def test_settings_out_of_range(options):
    with pytest.raises(ConfigError):
        TinyDancerRouter(PRICES, **{"dim": D, **options})


@pytest.mark.parametrize("models", [{}, {"a": -1.0}])
def test_models_out_of_range(models):
    with pytest.raises(ConfigError):
        TinyDancerRouter(models, dim=D)


def test_prices_must_be_finite():
    with pytest.raises(NotFiniteError):
        TinyDancerRouter({"a": math.nan}, dim=D)


@pytest.mark.parametrize("predictor", PREDICTORS)
def test_going_on_from_bytes_is_going_on(predictor):
    a = TinyDancerRouter(PRICES, dim=D, cost_weight=0.02, predictor=predictor, budget=1e6, capacity=60, seed=9)
    serve(a, 100)
    b = TinyDancerRouter.from_bytes(a.to_bytes())
    c = pickle.loads(pickle.dumps(a))  # noqa: S301
    served = [[(d.model, d.propensity, d.quality) for d, _ in serve(r, 100, seed=1)] for r in (a, b, c)]
    assert served[0] == served[1] == served[2]
    assert a.to_bytes() == b.to_bytes() == c.to_bytes()
    assert repr(a) == repr(b)


def test_same_seed_same_bits():
    runs = []
    for _ in range(2):
        router = TinyDancerRouter(PRICES, dim=D, seed=5)
        serve(router, 80)
        runs.append(router.to_bytes())
    assert runs[0] == runs[1]


def test_hostile_bytes():
    router = TinyDancerRouter(PRICES, dim=D, capacity=50)
    serve(router, 40)
    data = router.to_bytes()
    rng = np.random.default_rng(0)
    for cut in range(0, len(data), 97):
        with pytest.raises(CorruptStateError):
            TinyDancerRouter.from_bytes(data[:cut])
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] ^= 1 << rng.integers(8)
        with pytest.raises(CorruptStateError):
            TinyDancerRouter.from_bytes(bytes(damaged))


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_order(data):
    for cls in (TinyDancerRouter, KnnRouter, BudgetPacer):
        with pytest.raises(CorruptStateError):
            cls.from_bytes(data)


def test_threads_lose_nothing():
    router = TinyDancerRouter(PRICES, dim=D)

    def work(seed):
        serve(router, 50, seed)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    m = router.metrics()
    assert (m["decisions"], m["outcomes"], m["pending"], m["cases"]) == (300, 300, 0, 300)


def test_budget_is_shared_kept_and_corrected():
    budget = BudgetPacer(100.0, horizon=1000.0)
    router = TinyDancerRouter(PRICES, dim=D, budget=budget, exploration=0.0)
    d = router.route(np.ones(D), now=0.0)
    assert budget.remaining == router.budget.remaining == 90.0
    router.feedback(d.decision_id, 1.0, cost=4.0, now=1.0)
    assert budget.remaining == pytest.approx(96.0)
    while budget.remaining >= 10.0:
        router.route(np.ones(D), candidates=["strong"], now=2.0)
    over = router.route(np.ones(D), now=3.0)
    assert (over.model, over.reason) != ("strong", "best")
    spent = [router.route(np.ones(D), now=3.0).cost for _ in range(20)]
    assert budget.remaining > -max(spent) - 20 * 1.0
    assert router.metrics()["over_budget"] > 0


def test_tenants_pay_for_themselves():
    router = TinyDancerRouter(PRICES, dim=D, exploration=0.0, tenant_budget=BudgetPacer.per_day(25.0))
    first = [router.route(np.ones(D), tenant="a", now=float(i)) for i in range(5)]
    assert first[0].model == "strong"
    assert first[-1].model == "cheap"
    assert router.route(np.ones(D), tenant="b", now=5.0).model == "strong"
    assert router.route(np.ones(D), tenant="a", now=86500.0).reason != "budget"


@settings(deadline=None, max_examples=40)
@given(st.lists(st.floats(0, 20), min_size=1, max_size=60), st.floats(0.5, 50))
def test_pacer_counts_every_cost(costs, limit):
    pacer = BudgetPacer(limit, horizon=1e9)
    prices = [pacer.multiplier]
    for i, c in enumerate(costs):
        pacer.spend(c, now=float(i))
        prices.append(pacer.multiplier)
    assert pacer.remaining == pytest.approx(limit - sum(costs), abs=1e-9 * (1 + sum(costs)))
    ratio = np.array(prices[1:]) / np.array(prices[:-1])
    assert (ratio <= math.exp(0.05) + 1e-12).all()
    assert (ratio >= math.exp(-0.15) - 1e-12).all()
    back = BudgetPacer.from_bytes(pacer.to_bytes())
    assert back.metrics() == pacer.metrics()


@pytest.mark.parametrize("by_region", [False, True])
def test_spending_meets_the_budget(by_region):
    n = 2000
    x, region = requests(n)
    order = np.argsort(region, kind="stable") if by_region else np.arange(n)
    budget = BudgetPacer(4.0 * n, horizon=n + 1.0, per="requests")
    router = TinyDancerRouter(PRICES, dim=D, budget=budget, alpha=1.0, predictor="linear")
    noise = np.random.default_rng(0).random(n)
    for i in order:
        d = router.route(x[i], now=0.0)
        good = 0.9 if d.model == "strong" else 0.3 + 0.5 * (region[i] == 0)
        router.feedback(d.decision_id, float(noise[i] < good), now=0.0)
    spent = 4.0 * n - budget.remaining
    assert 0.8 < spent / (4.0 * n) < 1.05


def test_a_failing_model_is_left_out_for_a_while():
    router = TinyDancerRouter(PRICES, dim=D, exploration=0.0, breaker=(2, 60.0))
    for now in (0.0, 1.0):
        d = router.route(np.ones(D), now=now)
        assert d.model == "strong"
        assert not router.feedback(d.decision_id, 0.0, error=True, now=now)
    assert router.route(np.ones(D), now=2.0).model == "cheap"
    assert router.summary(now=2.0)["strong"]["circuit_open"]
    assert router.route(np.ones(D), candidates=["strong"], now=2.0).reason == "unavailable"
    assert router.route(np.ones(D), now=62.0).model == "strong"
    assert router.metrics()["outcomes"] == 0


def test_low_confidence_goes_to_the_fallback():
    router = TinyDancerRouter(
        {"a": 1.0, "b": 2.0}, dim=D, fallback="b", abstain_below=0.5, exploration=0.0, cost_weight=0.4, alpha=1.0
    )
    for x in requests(60)[0]:
        router.learn(x, "a", 0.3)
        router.learn(x, "b", 0.2)
    d = router.route(np.eye(D)[0])
    assert (d.model, d.reason, d.propensity) == ("b", "abstained", 1.0)


def test_guard_keeps_the_joint_risk():
    """On average over streams, at most alpha of the requests are routed away and lost."""
    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        router = TinyDancerRouter({"cheap": 0.1, "strong": 1.5}, dim=D, cost_weight=1.0, alpha=0.1, seed=seed)
        lost = []
        for i, (x, region) in enumerate(zip(*requests(900, seed), strict=True)):
            d = router.route(x, now=0.0)
            good = 1.0 if d.model == "strong" else float(rng.random() < (0.95 if region == 0 else 0.4))
            router.feedback(d.decision_id, good, now=0.0)
            if i >= 400:
                lost.append(d.model == "cheap" and not d.explored and good == 0.0)
        shares.append(np.mean(lost))
    assert np.mean(shares) <= 0.1
    unguarded = TinyDancerRouter({"cheap": 0.1, "strong": 1.5}, dim=D, cost_weight=1.0, alpha=1.0)
    assert np.mean([d.model == "cheap" for d, _ in serve(unguarded, 400)[200:]]) > 0.9


def test_a_good_newcomer_is_in_use_within_fifty_requests():
    used = []
    for seed in range(8):
        router = TinyDancerRouter(PRICES, dim=D, cost_weight=0.02, seed=seed)
        serve(router, 300, seed)
        router.add_model("new", 2.0)
        x, _ = requests(100, seed + 100)
        models = []
        for row in x:
            d = router.route(row, now=0.0)
            models.append(d.model)
            router.feedback(d.decision_id, 1.0 if d.model != "cheap" else 0.5, now=0.0)
        used.append(np.mean([m == "new" for m in models[50:]]))
    assert np.mean(used) > 0.5


def test_a_changed_model_is_forgotten():
    router = TinyDancerRouter(PRICES, dim=D, cost_weight=0.02, exploration=0.0, alpha=1.0)
    x, _ = requests(100)
    for row in x:
        router.learn(row, "cheap", 0.0)
        router.learn(row, "strong", 1.0)
    assert router.route(x[0]).model == "strong"
    router.reset_model("strong")
    assert router.summary()["strong"]["outcomes"] == 0
    for row in x[:50]:
        router.learn(row, "strong", 0.0)
        router.learn(row, "cheap", 1.0)
    assert router.route(x[0]).model == "cheap"


def test_old_outcomes_fade():
    kept, faded = (TinyDancerRouter(PRICES, dim=D, half_life=h, alpha=1.0, predictor="linear") for h in (1e9, 50.0))
    x, _ = requests(400)
    for router in (kept, faded):
        for i, row in enumerate(x):
            router.learn(row, "cheap", float(i < 250))
    old, new = (r.estimate(x[:1])[0][0, 0] for r in (kept, faded))
    assert new < 0.2 < old


def test_a_judge_of_known_error_is_corrected():
    rng = np.random.default_rng(0)
    router = TinyDancerRouter(PRICES, dim=D, judge_error=0.2, predictor="linear")
    x, _ = requests(3000)
    for row in x:
        router.learn(row, "strong", float(rng.random() < 0.2 + 0.6 * 0.9))
    assert router.estimate(x[:50])[0][:, 1].mean() == pytest.approx(0.9, abs=0.05)


def test_history_in_the_core_is_the_reference():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, D)).astype(np.float32)
    y = np.clip(0.5 + 0.3 * x[:, :2] + 0.1 * rng.normal(size=(400, 2)), 0, 1)
    cost = rng.uniform(0.5, 2.0, size=(400, 2))
    router = TinyDancerRouter(PRICES, dim=D).fit(x, y, cost)
    want, paid = HistoryModel.fit(x, y, cost).predict(x[:40])
    got, expected_cost = router.estimate(x[:40])
    np.testing.assert_allclose(got, want, atol=2e-4)
    np.testing.assert_allclose(expected_cost, paid, atol=2e-4)
    assert router.metrics()["models_within_risk"] >= 1
    assert TinyDancerRouter.from_bytes(router.to_bytes()).estimate(x[:5])[0].tolist() == router.estimate(x[:5])[0].tolist()


def test_outcomes_correct_a_history():
    x, region = requests(300)
    y = np.stack([np.ones(300), np.ones(300)], axis=1)
    router = TinyDancerRouter(PRICES, dim=D, cost_weight=0.02, exploration=0.0, alpha=1.0).fit(x, y)
    assert router.route(np.eye(D)[1]).model == "cheap"
    for row, r in zip(x, region, strict=True):
        router.learn(row, "cheap", float(r == 0))
        router.learn(row, "strong", 1.0)
    assert router.route(np.eye(D)[1]).model == "strong"
    assert router.route(np.eye(D)[0]).model == "cheap"


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 1000))
def test_knn_is_the_mean_of_the_nearest(k, n, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    q = rng.random(n)
    model = rng.integers(0, 2, n)
    knn = KnnRouter(["a", "b", "c"], dim=5, k=k)
    for row, m, value in zip(x, model, q, strict=True):
        knn.learn(row, "ab"[m], float(value))
    at = rng.normal(size=5)
    s = (x @ at) / np.linalg.norm(x, axis=1)
    got = knn.predict(at)
    for m, name in enumerate("ab"):
        mine = np.flatnonzero(model == m)
        if len(mine) == 0:
            assert math.isnan(got[name])
        else:
            near = mine[np.argsort(-s[mine], kind="stable")[:k]]
            assert got[name] == pytest.approx(q[near].mean(), abs=1e-6)
    assert math.isnan(got["c"])
    back = KnnRouter.from_bytes(knn.to_bytes())
    np.testing.assert_equal(back.predict(at), got)


def test_knn_forgets_the_oldest():
    knn = KnnRouter(["a"], dim=2, k=1, capacity=3)
    for i in range(5):
        knn.learn([1.0, 0.1 * i], "a", i / 10)
    assert knn.metrics() == {"cases": 3, "outcomes": 3, "evicted": 2}
    assert knn.predict([1.0, 0.0]) == {"a": pytest.approx(0.2)}
    with pytest.raises(KeyError):
        knn.learn([1.0, 0.0], "b", 0.5)
    with pytest.raises(NotFiniteError):
        knn.learn([np.nan, 0.0], "a", 0.5)
    assert knn.metrics()["evicted"] == 2


def conversations(n, seed, turns=4):
    """The first turn decides which model is good, and the last one says nothing."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 2, n)
    x = rng.normal(size=(n, turns, 6))
    x[:, 0] = 4 * np.eye(6)[kind] + 0.3 * rng.normal(size=(n, 6))
    return list(x), np.stack([kind == 0, kind == 1], axis=1).astype(float)


def test_fastgrnn_reads_what_the_last_turn_does_not_say():
    x, quality = conversations(1100, 0)
    names = ["a", "b"]
    right = {}
    for predictor in ("fastgrnn", "hybrid"):
        router = TinyDancerRouter({"a": 1.0, "b": 1.0}, dim=6, predictor=predictor, alpha=1.0, exploration=0.05)
        taken = []
        for turns, y in zip(x, quality, strict=True):
            d = router.route(turns if predictor == "fastgrnn" else turns[-1])
            taken.append(y[names.index(d.model)])
            assert router.feedback(d.decision_id, taken[-1])
        right[predictor] = np.mean(taken[600:])
    assert right["fastgrnn"] > 0.85 > 0.65 > right["hybrid"]
    again = TinyDancerRouter.from_bytes(router.to_bytes())
    assert again.to_bytes() == router.to_bytes()


def test_fastgrnn_from_a_history_of_conversations():
    x, quality = conversations(400, 1)
    router = TinyDancerRouter({"a": 1.0, "b": 2.0}, dim=6, predictor="fastgrnn", exploration=0.0, cost_weight=0.01)
    assert router.fit(x, quality, costs=np.full((400, 2), [0.5, 2.5])) is router
    held, truth = conversations(200, 2)
    expected, cost = router.estimate(held)
    assert expected.shape == (200, 2)
    assert np.mean(expected.argmax(axis=1) == truth.argmax(axis=1)) > 0.9
    assert cost[0].tolist() == [0.5, 2.5]
    decisions = [router.route(turns) for turns in held]
    assert np.mean([d.quality[d.model] > 0.5 for d in decisions]) > 0.9
    assert np.mean([(d.model == "b") == bool(t[1]) for d, t in zip(decisions, truth, strict=True)]) > 0.85
    other = TinyDancerRouter.from_bytes(router.to_bytes())
    for r in (router, other):
        r.feedback(decisions[0].decision_id, 1.0, now=1.0)
        r.add_model("c", 3.0)
        r.reset_model("a")
    later = [[r.route(turns, now=2.0).model for turns in held[:50]] for r in (router, other)]
    assert later[0] == later[1]
    assert router.to_bytes() == other.to_bytes()


def test_fastgrnn_refuses_what_is_no_conversation():
    router = TinyDancerRouter({"a": 1.0, "b": 2.0}, dim=3, predictor="fastgrnn")
    before = router.to_bytes()
    for error, call in [
        (DimensionMismatch, lambda: router.route(np.ones((2, 4)))),
        (DimensionMismatch, lambda: router.route(np.ones(4))),
        (DimensionMismatch, lambda: router.route(np.ones((0, 3)))),
        (ShapeError, lambda: router.route(np.ones((1, 2, 3)))),
        (NotFiniteError, lambda: router.route([[1.0, 2.0, np.nan]])),
        (NotFiniteError, lambda: router.learn([[np.inf, 2.0, 1.0]], "a", 1.0)),
        (ValueError, lambda: router.fit([np.ones((2, 3))], [[0.5, 1.5]], calibrate=False)),
        (DimensionMismatch, lambda: router.fit([np.ones((2, 3))], np.ones((2, 2)), calibrate=False)),
        (ShapeError, lambda: TinyDancerRouter({"a": 1.0}, dim=3).route(np.ones((2, 3)))),
    ]:
        with pytest.raises(error):
            call()
    assert router.to_bytes() == before
    # The last 64 turns count.
    long = np.random.default_rng(0).normal(size=(200, 3))
    assert router.estimate([long])[0].tolist() == router.estimate([long[-64:]])[0].tolist()
