"""Winners, workspace, oscillators, predictive coding, delayed blame, the selector."""

from __future__ import annotations

import heapq

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import sona.attention as at

few_values = hnp.arrays(
    np.float64, st.tuples(st.integers(0, 3), st.integers(1, 9)), elements=st.sampled_from([-1.0, -0.0, 0.0, 0.5, 2.0])
)


@given(few_values, st.integers(0, 9))
@settings(max_examples=80, deadline=None)
def test_winners_break_ties_by_position(x, k):
    k = min(k, x.shape[1])
    index = at.k_winners(x, k)
    assert index.dtype == np.int64
    np.testing.assert_array_equal(index, np.argsort(-(x + 0.0), axis=-1, kind="stable")[:, :k])
    mask = at.k_winners(x, k, output="mask")
    np.testing.assert_array_equal(mask.sum(axis=-1), k)
    np.testing.assert_array_equal(at.k_winners(x, k, output="values"), np.where(mask, x, 0))
    e = np.where(mask, np.exp(x), 0)
    want = e / np.maximum(e.sum(-1, keepdims=True), 1e-300)
    np.testing.assert_allclose(at.k_winners(x, k, output="normalized"), want, rtol=1e-12)
    below = at.k_winners(x, k, threshold=0.25)
    np.testing.assert_array_equal(below, np.where(np.take_along_axis(x, index, -1) < 0.25, -1, index))


def test_infinite_winners():
    x = np.array([np.inf, 1.0, np.inf, -np.inf])
    np.testing.assert_array_equal(at.k_winners(x, 4), [0, 2, 1, 3])
    np.testing.assert_array_equal(at.k_winners(x, 3, output="normalized"), [0.5, 0, 0.5, 0])
    np.testing.assert_array_equal(at.sparsemax(x), [0.5, 0, 0.5, 0])
    assert np.isnan(at.sparsemax([[np.nan, 1.0], [0.0, 1.0]])).tolist() == [[True, True], [False, False]]


@given(hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(-50, 50)))
@settings(max_examples=80, deadline=None)
def test_sparsemax_is_the_projection_onto_the_simplex(x):
    p = at.sparsemax(x)
    assert (p >= 0).all()
    assert abs(p.sum() - 1) < 1e-9
    # Optimality: x − p is the same on the support, and no larger off it.
    gap = x - p
    assert np.ptp(gap[p > 0]) < 1e-9
    assert (gap[p == 0] <= gap[p > 0].min() + 1e-9).all()


@given(hnp.arrays(np.float64, st.integers(0, 20), elements=st.sampled_from([0.0, 0.1, 0.5, 0.9])), st.integers(0, 8))
def test_selection_is_that_of_a_heap(salience, capacity):
    want = heapq.nsmallest(capacity, [(-s, i) for i, s in enumerate(salience) if s >= 0.1])
    np.testing.assert_array_equal(at.workspace_select(salience, capacity, threshold=0.1), [i for _, i in want])


@given(st.integers(0, 2**32 - 1), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_a_workspace_never_holds_more_than_its_capacity(seed, capacity):
    rng = np.random.default_rng(seed)
    space = at.GlobalWorkspace(capacity, threshold=0.05, decay=0.9, lifetime=30.0)
    t = 0.0
    for _ in range(100):
        t += rng.exponential()
        before = dict(zip(*space.items(t=t), strict=True))
        key, salience = int(rng.integers(12)), float(rng.random())
        stored = space.submit(key, salience, t=t)
        keys, held = space.items(t=t)
        assert len(space) == len(keys) <= capacity
        assert (held >= 0.05).all()
        assert (np.diff(held) <= 0).all()
        if stored:
            assert held[keys.tolist().index(key)] == salience
        elif salience >= 0.05:
            assert salience <= min(before.values())
            assert len(before) == capacity


def test_neural_workspace_writes_and_broadcasts():
    rng = np.random.default_rng(0)
    slots, x = rng.normal(size=(2, 4)), rng.normal(size=(6, 4))
    got = at.global_workspace(slots, x, topk=2)
    logits = slots @ x.T / 2
    keep = np.argsort(-logits, axis=-1)[:, :2]
    w = np.zeros_like(logits)
    np.put_along_axis(w, keep, np.exp(np.take_along_axis(logits, keep, -1)), -1)
    after = w / w.sum(-1, keepdims=True) @ x
    np.testing.assert_allclose(got.slots, after, rtol=1e-12)
    np.testing.assert_allclose(got.out, x + at.scaled_dot_product_attention(x, after, after), rtol=1e-12)
    alone = at.global_workspace(slots, x, topk=2, residual=False).out
    np.testing.assert_allclose(got.out - x, alone, atol=1e-12)
    kept = at.global_workspace(slots, x, gate=0.0 * slots).slots
    np.testing.assert_array_equal(kept, slots)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9, 0.99, 1.02, 1.2, 3.0])
def test_two_oscillators_lock_iff_their_frequencies_are_close_enough(ratio):
    coupling, links = 2.0, np.ones((2, 2)) - np.eye(2)
    omega = np.array([0.0, ratio * coupling]) + 2 * np.pi * 40
    early = at.kuramoto_integrate(np.zeros(2), omega, links, coupling=coupling, t=30.0, dt=5e-3)
    late = at.kuramoto_integrate(early, omega, links, coupling=coupling, t=30.0, dt=5e-3)
    gap, drift = early[1] - early[0], (late[1] - late[0]) - (early[1] - early[0])
    if ratio < 1:
        assert abs(drift) < 1e-2
        np.testing.assert_allclose(np.sin(gap), ratio, atol=5e-3)
    else:
        # The beat has the period 2π/√(Δω² − K²).
        beats = 30.0 * coupling * (ratio**2 - 1) ** 0.5 / (2 * np.pi)
        assert abs(drift / (2 * np.pi) - beats) < 1


def test_strong_coupling_synchronises_and_identical_oscillators_lose_energy():
    rng = np.random.default_rng(0)
    n, theta, links = 30, rng.uniform(0, 2 * np.pi, 30), np.ones((30, 30)) - np.eye(30)
    omega = rng.normal(size=n)
    weak = at.kuramoto_integrate(theta, omega, links, coupling=0.2, t=20.0, dt=1e-2)
    strong = at.kuramoto_integrate(theta, omega, links, coupling=20.0, t=20.0, dt=1e-3)
    assert at.order_parameter(strong).r > 0.99 > 0.6 > at.order_parameter(weak).r
    energy = []
    for _ in range(20):
        theta = at.kuramoto_integrate(theta, np.ones(n), links, coupling=1.0, t=0.2, dt=1e-2)
        energy.append(-np.cos(theta[:, None] - theta).sum())
    assert (np.diff(energy) <= 1e-9).all()


def test_routing_hears_those_in_step():
    links = np.array([[0, 1.0, 0], [1, 0, 0], [1, 1, 0]])
    router = at.OscillatoryRouter(3, adjacency=links, phase=[0.0, 0.3, np.pi], kappa=2.0)
    gains = ((1 + np.cos(router.theta[None] - router.theta[:, None])) / 2) ** 2
    np.testing.assert_allclose(router.gains(), gains, rtol=1e-12)
    messages = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan]])
    heard = router.route(messages)
    np.testing.assert_allclose(heard[0], [3, 4])
    np.testing.assert_allclose(heard[2], (gains[2, :2] @ messages[:2]) / gains[2, :2].sum())
    lonely = at.OscillatoryRouter(2, adjacency=np.zeros((2, 2)))
    np.testing.assert_array_equal(lonely.route(np.ones((2, 1))), 0)
    a, b = at.OscillatoryRouter(5, seed=1), at.OscillatoryRouter(5, seed=1)
    a.advance(0.1)
    b.advance(0.05)
    b.advance(0.05)
    np.testing.assert_allclose(a.theta, b.theta, rtol=1e-9)


@given(
    hnp.arrays(np.float64, st.tuples(st.integers(0, 20), st.just(3)), elements=st.floats(-5, 5)),
    st.floats(0, 2),
    st.sampled_from(["last", "ewma"]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_prediction_errors_stay_within_the_threshold(x, threshold, predictor, per_element):
    coder = at.PredictiveCoder(3, threshold=threshold, predictor=predictor, per_element=per_element)
    stream = coder.encode_stream(x)
    error = stream.reconstruction - x
    size = np.abs(error).max(axis=-1, initial=0) if per_element else np.sqrt((error**2).mean(axis=-1))
    assert (size <= threshold + 1e-12).all()
    assert stream.sent.shape == (x.shape if per_element else x.shape[:1])
    received = stream._replace(prediction=None)
    mask = stream.sent if per_element else stream.sent[:, None]
    hidden = np.where(np.broadcast_to(mask, x.shape), stream.reconstruction, 1e9)
    np.testing.assert_array_equal(coder.decode_stream(received._replace(reconstruction=hidden)), stream.reconstruction)


def test_step_by_step_both_ends_agree():
    rng = np.random.default_rng(0)
    sender = at.PredictiveCoder(4, threshold=0.5, predictor="ewma")
    receiver = at.PredictiveCoder(4, threshold=0.5, predictor="ewma")
    sent = 0
    for x in np.cumsum(0.2 * rng.normal(size=(200, 4)), axis=0):
        message = sender.encode(x)
        sent += message is not None
        error = receiver.decode(message) - x
        assert np.sqrt((error**2).mean()) <= 0.5 + 1e-12
    assert 0 < sent < 200


def test_savings_depend_on_the_signal():
    rng = np.random.default_rng(0)
    slow, noise = np.sin(np.arange(1000) / 200)[:, None], rng.normal(size=(1000, 1))
    share = [at.PredictiveCoder(1, threshold=0.05).encode_stream(x).sent.mean() for x in (slow, noise)]
    assert share[0] < 0.1
    assert share[1] > 0.9
    lossless = at.PredictiveCoder(1, threshold=0.0).encode_stream(noise)
    np.testing.assert_array_equal(lossless.reconstruction, noise)


def test_equilibrium_is_the_minimum():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=6), rng.normal(size=(6, 3))
    r = at.predictive_equilibrium(x, w, sigma2=0.5, prior_var=2.0)
    np.testing.assert_allclose(w.T @ (x - w @ r) / 0.5 - r / 2.0, 0, atol=1e-12)


def test_blame_reaches_back_seconds_and_spares_the_innocent():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(40):
        delay, guilty = rng.uniform(0.1, 0.8), int(rng.integers(10))
        others = [i for i in range(10) if i != guilty]
        blame = at.TemporalBTSP(10)
        for t, node in sorted((float(rng.uniform(0, 5)), i) for i in others):
            blame.observe(node, t)
        blame.observe(guilty, 10 - delay)
        blame.plateau(10.0)
        for t, node in sorted((float(rng.uniform(12, 15)), i) for i in others):
            blame.observe(node, t)
        blame.end_episode(20.0)
        hits += int(blame.scores().argmax()) == guilty
    assert hits >= 38
    quiet = at.TemporalBTSP(3)
    before = quiet.weights
    quiet.observe(0, 1.0)
    np.testing.assert_array_equal(quiet.end_episode(5.0), before)
    with pytest.raises(at.GraphError):
        quiet.observe(3, 0.0)
    quiet.observe(0, 1.0)
    with pytest.raises(at.ParameterError):
        quiet.observe(1, 0.5)


@pytest.mark.parametrize("policy", ["ucb1", "thompson"])
@pytest.mark.parametrize("means", [(0.9, 0.6), (0.5, 0.4, 0.1), (0.2, 0.5, 0.55, 0.8)])
def test_regret_is_logarithmic(policy, means):
    horizon, names = 4000, [f"arm{i}" for i in range(len(means))]
    gaps = max(means) - np.array(means)
    bound = 10 * np.log(horizon) * (1 / gaps[gaps > 0]).sum()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        bandit = at.AttentionSelector(names, policy=policy, seed=seed)
        regret = 0.0
        for _ in range(horizon):
            name = bandit.select()
            arm = names.index(name)
            regret += gaps[arm]
            bandit.update(name, float(rng.random() < means[arm]))
        assert regret <= bound
        assert regret < 0.2 * horizon * gaps.max()


@pytest.mark.parametrize("policy", ["rules", "ucb1", "thompson"])
def test_a_selector_continues_from_its_state(policy):
    rng = np.random.default_rng(0)
    one = at.AttentionSelector(["flash", "linear", "mamba"], policy=policy, gamma=0.99, seed=4)
    for _ in range(50):
        one.update(one.select(), float(rng.random()))
    two = at.AttentionSelector(["flash", "linear", "mamba"], policy=policy, gamma=0.99)
    two.load_state_dict(one.state_dict())
    for _ in range(50):
        name = two.select()
        assert one.select() == name
        reward = float(rng.random())
        one.update(name, reward)
        two.update(name, reward)
    for bad in ({}, {**one.state_dict(), "candidates": ["flash"]}, {**one.state_dict(), "counts": [1.0, -1.0, 0.0]}):
        with pytest.raises(at.ParameterError):
            two.load_state_dict(bad)


def test_registry_knows_26_mechanisms():
    assert len(at.names()) == len(set(at.names())) == 26
    assert [len(at.names(kind)) for kind in ("sequence", "dag", "graph", "nervous")] == [12, 7, 3, 4]
    x = np.eye(3)
    np.testing.assert_array_equal(at.attention("scaled_dot_product", x, x, x), at.scaled_dot_product_attention(x, x, x))
    assert isinstance(at.attention("multi_head", 4, 2), at.MultiHeadAttention)
