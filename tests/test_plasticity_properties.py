"""One-shot learning and e-prop: properties, an autograd-free gradient oracle, bad input, state."""

from __future__ import annotations

import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError, ShapeError
from sona.plasticity import BTSPLayer, BTSPMemory, EpropLayer, btsp_weight_change

finite = st.floats(-10, 10, width=32)


@settings(deadline=None)
@given(x=arrays(np.float32, 6, elements=finite), target=arrays(np.float32, 3, elements=finite))
def test_an_association_is_exact_and_smallest(x, target):
    layer = BTSPLayer(6, 3)
    layer.one_shot_associate(np.ones(6), [1.0, -1.0, 2.0])
    before = layer.weights.astype(np.float64)
    if np.sum(np.float64(x) ** 2) < 1e-3:
        return
    layer.one_shot_associate(x, target)
    np.testing.assert_allclose(layer.forward(x), target, rtol=1e-4, atol=1e-4)
    change = layer.weights - before
    oracle = np.outer(target - before @ x, np.linalg.pinv(np.float64(x)[:, None]))
    np.testing.assert_allclose(change, oracle, rtol=1e-3, atol=1e-4)


def test_orthogonal_patterns_keep_their_outputs_and_nothing_is_clamped():
    layer = BTSPLayer(3, 2)
    layer.one_shot_associate([2.0, 0, 0], [5.0, -7.0])
    layer.one_shot_associate([0, 3.0, 0], 1.0)
    assert layer.forward([2.0, 0, 0]).tolist() == [5.0, -7.0]
    assert layer.forward([0, 3.0, 0]).tolist() == [1.0, 1.0]


def test_beyond_the_window_nothing_is_learned():
    layer = BTSPLayer(2, window_ms=100.0)
    layer.one_shot_associate([1.0, 0.0], 3.0, lag_ms=-101.0)
    assert layer.forward([1.0, 0.0]) == 0.0
    assert layer.metrics()["outside_window"] == 1
    layer.one_shot_associate([1.0, 0.0], 3.0, lag_ms=100.0)
    assert layer.forward([1.0, 0.0]) == 3.0


@settings(deadline=None, max_examples=30)
@given(w=st.floats(0, 3), lag=st.floats(-5000, 6000))
def test_a_plateau_keeps_weights_in_range(w, lag):
    assert -1e-12 <= w + btsp_weight_change(w, lag) <= 3.0 + 1e-12


def test_sign_of_a_plateau_depends_on_weight_and_time():
    assert btsp_weight_change(0.2, 0.0) > 0.1
    assert btsp_weight_change(2.8, -1500.0) < 0
    assert abs(btsp_weight_change(1.0, 4990.0)) < 0.02
    weak, strong = btsp_weight_change(0.1, -1500.0), btsp_weight_change(2.9, -1500.0)
    assert weak > strong


@pytest.mark.parametrize(
    "kwargs",
    [{"tau_et_ms": 0.0}, {"tau_is_ms": -1.0}, {"w_max": 0.5}, {"k_plus": -1.0}, {"b_plus": 0.0}],
)
def test_bad_constants_of_a_plateau(kwargs):
    with pytest.raises(ValueError):
        btsp_weight_change(1.0, 0.0, **kwargs)
    for w0 in (-0.1, 3.1, float("nan")):
        with pytest.raises(ValueError):
            btsp_weight_change(w0, 0.0)


@pytest.mark.parametrize("seed", range(5))
def test_sixty_items_at_sixty_percent_masking(seed):
    rng = np.random.default_rng(seed)
    memory = BTSPMemory(500, 2000, seed=seed)
    patterns = rng.random((60, 500)) < 0.1
    assert [memory.store(p) for p in patterns] == list(range(60))
    cues = patterns & (rng.random(patterns.shape) < 0.4)
    assert [memory.match(c) for c in cues] == list(range(60))
    # What a masked cue recalls is nearer to what its pattern recalls than to what any other does.
    full = np.array([memory.recall(p) for p in patterns])
    got = np.array([memory.recall(c) for c in cues])
    overlap = (got[:, None] & full[None]).sum(-1) / np.maximum((got[:, None] | full[None]).sum(-1), 1)
    assert (overlap.argmax(1) == np.arange(60)).mean() > 0.95


def test_threshold_of_recall():
    memory = BTSPMemory(40, 300, plateau_prob=0.1, threshold=0.0, seed=1)
    memory.store([1] * 20 + [0] * 20)
    loose = memory.recall([1] * 20 + [0] * 20)
    tight = BTSPMemory(40, 300, plateau_prob=0.1, threshold=15.0, seed=1)
    tight.store([1] * 20 + [0] * 20)
    strict = tight.recall([1] * 20 + [0] * 20)
    assert loose.sum() > strict.sum()
    assert not (strict & ~loose).any()
    assert not memory.recall(np.zeros(40)).any()


def simulate(w_in, w_rec, w_out, xs, beta=0.0, tau_a=200.0, v_th=0.6, gamma=0.3):
    """Forward pass and e-prop gradients from their definition, in float64, with whole histories kept."""
    alpha = kappa = np.exp(-1 / 20)
    rho = np.exp(-1 / tau_a)
    n = len(w_rec)
    v, z, a, y = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(len(w_out))
    ys, eligibility_in, eligibility_rec, spikes = [], [], [], []
    trace_in, trace_rec = np.zeros(w_in.shape[1]), np.zeros(n)
    slow_in, slow_rec = np.zeros(w_in.shape), np.zeros(w_rec.shape)
    for x in xs:
        trace_in, trace_rec = alpha * trace_in + x, alpha * trace_rec + z
        a = rho * a + z
        v = alpha * v + w_in @ x + w_rec @ z - v_th * z
        over = v - v_th - beta * a
        psi = gamma / v_th * np.maximum(0, 1 - np.abs(over) / v_th)[:, None]
        z = (over > 0).astype(float)
        y = kappa * y + w_out @ z
        ys.append(y)
        spikes.append(z)
        eligibility_in.append(psi * (trace_in - beta * slow_in))
        eligibility_rec.append(psi * (trace_rec - beta * slow_rec))
        slow_in = psi * trace_in + (rho - psi * beta) * slow_in
        slow_rec = psi * trace_rec + (rho - psi * beta) * slow_rec
    return np.array(ys), np.array(eligibility_in), np.array(eligibility_rec), np.array(spikes)


def summed(ys, targets, w_out, eligibility):
    kappa = np.exp(-1 / 20)
    total = np.zeros(eligibility.shape[1:])
    for t in range(len(ys)):
        signal = w_out.T @ (ys[t] - targets[t])
        weights = kappa ** np.arange(t, -1, -1.0)
        filtered = np.tensordot(weights, eligibility[: t + 1], 1)
        total += signal[:, None] * filtered
    return total


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_gradients_against_whole_histories(beta):
    rng = np.random.default_rng(4)
    w_in, w_rec, w_out = rng.normal(0, 0.5, (8, 3)), rng.normal(0, 0.3, (8, 8)), rng.normal(0, 0.5, (2, 8))
    w_in, w_rec, w_out = (np.float32(w).astype(float) for w in (w_in, w_rec, w_out))
    np.fill_diagonal(w_rec, 0)
    xs, targets = rng.normal(0, 1, (40, 3)).astype(np.float32), rng.normal(0, 1, (40, 2)).astype(np.float32)
    layer = EpropLayer(3, 8, 2, adaptation=beta, tau_adapt=200.0)
    layer.set_weights(w_in, w_rec, w_out)
    ys, e_in, e_rec, spikes = simulate(w_in, w_rec, w_out, xs.astype(float), beta)
    for x, target, y, z in zip(xs, targets, ys, spikes, strict=True):
        np.testing.assert_allclose(layer.forward_with_eligibility(x), y, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(layer.spikes, z > 0)
        layer.learn(target)
    assert spikes.sum() > 20
    want_rec = summed(ys, targets, w_out, e_rec)
    np.fill_diagonal(want_rec, 0)
    np.testing.assert_allclose(layer.gradients["w_in"], summed(ys, targets, w_out, e_in), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(layer.gradients["w_rec"], want_rec, rtol=1e-3, atol=1e-4)


def test_silence_stays_silent():
    layer = EpropLayer(2, 10, 1)
    for _ in range(200):
        assert layer.forward_with_eligibility([0.0, 0.0]) == 0.0
    assert layer.metrics()["spikes"] == 0


def driven(seed=0, **kwargs):
    layer = EpropLayer(3, 12, 2, seed=seed, **kwargs)
    rng = np.random.default_rng(1)
    for _ in range(20):
        layer.forward_with_eligibility(rng.normal(1, 1, 3))
    return layer


def test_a_reward_moves_outputs_its_way_and_zero_moves_nothing():
    layer = driven()
    before = layer.w_out
    layer.learn([0.0, 0.0])
    gathered = layer.gradients
    layer.update(0.0)
    np.testing.assert_array_equal(layer.w_out, before)
    layer.update(1.0)
    assert ((layer.w_out - before) >= 0).all()
    assert ((layer.w_out - before) > 0).any()
    layer.update(-1.0)
    np.testing.assert_allclose(layer.w_out, before, atol=1e-6)
    for name, g in layer.gradients.items():
        np.testing.assert_array_equal(g, gathered[name])


def test_apply_descends_and_forgets():
    layer = driven()
    layer.learn([1.0, -1.0])
    g, w = layer.gradients, layer.w_in
    layer.apply(0.5)
    np.testing.assert_allclose(layer.w_in, w - 0.5 * g["w_in"], rtol=1e-5, atol=1e-6)
    assert not any(v.any() for v in layer.gradients.values())
    assert not np.diag(layer.w_rec).any()


def test_random_feedback_is_another_direction():
    def gradient(feedback):
        layer = driven(feedback=feedback)
        layer.learn([1.0, -1.0])
        return layer.gradients

    a, b = gradient("symmetric"), gradient("random")
    np.testing.assert_array_equal(a["w_out"], b["w_out"])
    assert not np.allclose(a["w_in"], b["w_in"])


def test_memory_is_twelve_bytes_per_synapse():
    layer = EpropLayer(10, 20, 3)
    assert layer.metrics()["synapse_bytes"] == 12 * (20 * 10 + 20 * 20) + 8 * 60


def layers():
    one = BTSPLayer(3, 2)
    one.one_shot_associate([1.0, 2.0, 3.0], [1.0, 2.0])
    memory = BTSPMemory(70, 130, plateau_prob=0.1, seed=3)
    memory.store(np.arange(70) % 3 == 0)
    return [one, memory, driven(), driven(adaptation=0.2, feedback="random")]


def go_on(x):
    if isinstance(x, BTSPLayer):
        x.one_shot_associate([0.0, 1.0, 0.0], 1.0)
    elif isinstance(x, BTSPMemory):
        x.store(np.arange(70) % 2 == 0)
    else:
        x.forward_with_eligibility([1.0, 1.0, 1.0])
        x.learn([0.0, 1.0])
        x.apply()
    return x.to_bytes()


@pytest.mark.parametrize("which", range(4))
def test_saved_state_goes_on_as_if_never_stopped(which):
    x = layers()[which]
    cls = type(x)
    copies = [cls.from_bytes(x.to_bytes()), pickle.loads(pickle.dumps(x))]  # noqa: S301
    after = go_on(x)
    assert [go_on(c) for c in copies] == [after, after]
    for at in range(0, len(after), max(1, len(after) // 150)):
        bad = bytearray(after)
        bad[at] ^= 8
        with pytest.raises(CorruptStateError):
            cls.from_bytes(bytes(bad))
    assert cls.__name__ in repr(x)
    assert x.metrics()


def test_bad_input_changes_nothing():
    layer, memory, net, _ = layers()
    before = [x.to_bytes() for x in (layer, memory, net)]
    nan = float("nan")
    with pytest.raises(NotFiniteError):
        layer.one_shot_associate([nan, 0, 0], 1.0)
    with pytest.raises(NotFiniteError):
        layer.one_shot_associate([1, 0, 0], nan)
    with pytest.raises(DimensionMismatch):
        layer.one_shot_associate([1, 0], 1.0)
    with pytest.raises(DimensionMismatch):
        layer.forward([1, 0])
    with pytest.raises(ValueError):
        layer.one_shot_associate([0, 0, 0], 1.0)
    for bad, error in [(np.zeros(70), ValueError), (np.ones(69), DimensionMismatch), (np.full(70, 2), ValueError)]:
        with pytest.raises(error):
            memory.store(bad)
    with pytest.raises(ShapeError):
        memory.store(np.ones((2, 70), dtype=bool))
    with pytest.raises(NotFiniteError):
        net.forward_with_eligibility([nan, 0, 0])
    with pytest.raises(DimensionMismatch):
        net.forward_with_eligibility([0.0, 0.0])
    with pytest.raises(NotFiniteError):
        net.learn([nan, 0])
    with pytest.raises(NotFiniteError):
        net.update(nan)
    with pytest.raises(ValueError):
        net.apply(-1.0)
    with pytest.raises(DimensionMismatch):
        net.set_weights(np.zeros((12, 4)), np.zeros((12, 12)), np.zeros((2, 12)))
    assert [x.to_bytes() for x in (layer, memory, net)] == before


@pytest.mark.parametrize(
    "make",
    [
        lambda: BTSPLayer(0),
        lambda: BTSPLayer(1, window_ms=0.0),
        lambda: BTSPMemory(1, 0),
        lambda: BTSPMemory(1, 1, plateau_prob=1.5),
        lambda: BTSPMemory(1, 1, threshold=-1.0),
        lambda: EpropLayer(1, 1, 1, tau_m=0.0),
        lambda: EpropLayer(1, 1, 1, tau_out=-1.0),
        lambda: EpropLayer(1, 1, 1, v_th=0.0),
        lambda: EpropLayer(1, 0, 1),
        lambda: EpropLayer(1, 1, 1, feedback="none"),
        lambda: EpropLayer(1, 1, 1, learning_rate=float("nan")),
    ],
)
def test_bad_settings(make):
    with pytest.raises(ConfigError):
        make()


def test_threads_lose_no_association():
    layer = BTSPLayer(64, 1)

    def work(lo):
        for i in range(lo, lo + 16):
            layer.one_shot_associate(np.eye(64)[i], float(i))

    threads = [threading.Thread(target=work, args=(16 * k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    np.testing.assert_array_equal(layer.weights[0], np.arange(64))
