"""Linear attention and state-space models: what they estimate, and that streams equal batches."""

from __future__ import annotations

import numpy as np
import pytest

import sona.attention as at

LENGTHS = [1, 2, 63, 64, 65, 100, 257]


def phi(x, omega):
    """Positive random features (Choromanski et al. 2021, lemma 1)."""
    return np.exp(x @ omega.T - 0.5 * (x * x).sum(-1, keepdims=True)) / np.sqrt(len(omega))


def kernels(q, k, kernel, omega):
    """The (n, m) products of features."""
    if kernel == "favor+":
        root = q.shape[-1] ** -0.25
        return phi(q * root, omega) @ phi(k * root, omega).swapaxes(-1, -2)
    f = {"elu": lambda x: np.where(x > 0, x + 1, np.exp(x)), "relu": lambda x: np.maximum(x, 0)}[kernel]
    return f(q) @ f(k).swapaxes(-1, -2)


@pytest.mark.parametrize("kernel", ["favor+", "elu", "relu"])
@pytest.mark.parametrize("causal", [False, True, "bottom_right"])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (65, 65), (257, 257), (40, 130), (130, 40)])
def test_linear_equals_the_quadratic_form(n, m, causal, kernel):
    rng = np.random.default_rng(n + m)
    q, k, v = rng.normal(size=(2, n, 3)), rng.normal(size=(1, m, 3)), rng.normal(size=(2, m, 2))
    omega = at.random_features(3, 6, seed=4)
    weights = kernels(q, k, kernel, omega)
    if causal:
        offset = m - n if causal == "bottom_right" else 0
        weights = weights * (np.arange(m) <= np.arange(n)[:, None] + offset)
    total = weights.sum(-1, keepdims=True)
    want = np.divide(weights @ v, total, out=np.zeros((2, n, 2)), where=total > 0)
    features = omega if kernel == "favor+" else None
    got = at.linear_attention(q, k, v, kernel=kernel, features=features, causal=causal)
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-10)


def test_a_stream_of_tokens_equals_the_batch():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 150, 4))
    whole = at.linear_attention(q, k, v, causal=True, seed=3)
    for t in (0, 63, 64, 149):
        one = at.linear_attention(q[t : t + 1], k[: t + 1], v[: t + 1], causal="bottom_right", seed=3)
        np.testing.assert_allclose(one[0], whole[t], rtol=1e-10)


def test_favor_is_unbiased():
    rng = np.random.default_rng(0)
    d, draws = 8, 200
    # Short vectors: for long ones the estimate has so heavy a tail that 200 draws say nothing about its mean.
    q, k = 0.25 * rng.normal(size=(2, 20, d))
    exact = np.exp(q @ k.T)
    omegas = [at.random_features(d, 16, seed=s) for s in range(draws)]
    estimates = np.stack([phi(q, omega) @ phi(k, omega).T for omega in omegas])
    error = (estimates.mean(0) - exact) / (estimates.std(0, ddof=1) / np.sqrt(draws))
    # Of 400 standard scores one in 370 lies beyond 3; none beyond 5.
    assert np.abs(error).max() < 5
    assert (np.abs(error) < 3).mean() > 0.97


def test_orthogonal_features_are_better_than_independent_ones():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 20, 8)) / 8**0.5
    exact = np.exp(q @ k.T)
    errors = {"orthogonal": [], "independent": []}
    for seed in range(200):
        for name, omega in (("orthogonal", at.random_features(8, 8, seed=seed)), ("independent", rng.normal(size=(8, 8)))):
            errors[name].append(((phi(q, omega) @ phi(k, omega).T - exact) ** 2).mean())
    assert np.mean(errors["orthogonal"]) < np.mean(errors["independent"])


def test_random_features():
    omega = at.random_features(5, 12, seed=1)
    for block in (omega[:5], omega[5:10], omega[10:]):
        gram = block @ block.T
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(at.random_features(5, 12, scaling=1), axis=1), 5**0.5)
    np.testing.assert_array_equal(omega, at.random_features(5, 12, seed=1))
    assert not np.array_equal(omega, at.random_features(5, 12, seed=2))


@pytest.mark.parametrize("causal", [False, True])
def test_large_inputs_neither_overflow_nor_vanish(causal):
    rng = np.random.default_rng(0)
    for dtype in ("float32", "float64"):
        x = (1e4 * rng.normal(size=(70, 4))).astype(dtype)
        out = at.linear_attention(x, x, x, causal=causal)
        assert np.isfinite(out).all()
        assert out.dtype == dtype
        assert (np.abs(out) <= np.abs(x).max() * 1.001).all()


def test_more_features_come_closer():
    rng = np.random.default_rng(0)
    q, k, v = 0.5 * rng.normal(size=(3, 100, 8))
    exact = at.flash_attention(q, k, v)
    errors = [np.abs(at.linear_attention(q, k, v, features=m) - exact).mean() for m in (8, 64, 512, 4096)]
    assert errors == sorted(errors, reverse=True)


def scan_operands(length, d=3, states=4, lead=()):
    rng = np.random.default_rng(length)
    return {
        "u": rng.normal(size=(*lead, length, d)),
        "delta": rng.normal(size=(*lead, length, d)),
        "A": -np.exp(rng.normal(size=(d, states))),
        "B": rng.normal(size=(*lead, length, states)),
        "C": rng.normal(size=(*lead, length, states)),
    }


TIMED = ("u", "delta", "B", "C", "z", "x", "dt")


def part(operands, cut, axis):
    return {k: (np.take(x, cut, axis=axis) if k in TIMED else x) for k, x in operands.items()}


@pytest.mark.parametrize("length", LENGTHS)
def test_selective_scan_is_the_recurrence(length):
    p = scan_operands(length)
    rng = np.random.default_rng(1)
    skip, bias, z, h0 = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(length, 3)), rng.normal(size=(3, 4))
    got = at.selective_scan(**p, D=skip, z=z, delta_bias=bias, h0=h0)
    h = h0.copy()
    for t in range(length):
        step = np.logaddexp(0, p["delta"][t] + bias)
        h = np.exp(step[:, None] * p["A"]) * h + step[:, None] * p["B"][t] * p["u"][t][:, None]
        y = (h @ p["C"][t] + skip * p["u"][t]) * z[t] / (1 + np.exp(-z[t]))
        np.testing.assert_allclose(got.y[t], y, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(got.state, h, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("cuts", [[1], [64], [3, 70, 128], list(range(1, 150))])
def test_a_scan_in_parts_equals_the_whole(cuts):
    p = scan_operands(150, lead=(2,))
    whole = at.selective_scan(**p)
    state, parts = None, []
    for cut in np.split(np.arange(150), cuts):
        out = at.selective_scan(**part(p, cut, 1), h0=state)
        state = out.state
        parts.append(out.y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole.y, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(state, whole.state, rtol=1e-11, atol=1e-12)


def ssd_operands(length, groups=2):
    rng = np.random.default_rng(length)
    return {
        "x": rng.normal(size=(length, 4, 3)),
        "dt": np.exp(rng.normal(size=(length, 4))),
        "A": -np.exp(rng.normal(size=4)),
        "B": rng.normal(size=(length, groups, 5)),
        "C": rng.normal(size=(length, groups, 5)),
    }


@pytest.mark.parametrize("length", LENGTHS)
def test_ssd_is_the_recurrence_for_every_chunk(length):
    p = ssd_operands(length)
    skip = np.arange(4.0)
    got = at.ssd(**p, D=skip)
    h = np.zeros((4, 3, 5))
    for t in range(length):
        b, c = p["B"][t].repeat(2, axis=0), p["C"][t].repeat(2, axis=0)
        h = np.exp(p["dt"][t] * p["A"])[:, None, None] * h + (p["dt"][t][:, None] * p["x"][t])[:, :, None] * b[:, None]
        y = (h * c[:, None]).sum(-1) + skip[:, None] * p["x"][t]
        np.testing.assert_allclose(got.y[t], y, rtol=1e-9, atol=1e-10)
    for chunk in (1, 7, 1000):
        np.testing.assert_allclose(at.ssd(**p, D=skip, chunk=chunk).y, got.y, rtol=1e-10, atol=1e-12)


def test_ssd_in_parts_equals_the_whole():
    p = ssd_operands(130, groups=1)
    whole, state, parts = at.ssd(**p), None, []
    for cut in np.split(np.arange(130), [1, 64, 65]):
        out = at.ssd(**part(p, cut, 0), h0=state)
        state = out.state
        parts.append(out.y)
    np.testing.assert_allclose(np.concatenate(parts), whole.y, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(state, whole.state, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mamba_steps_equal_the_batch(dtype):
    block = at.MambaBlock(6, d_state=4, dtype=dtype, seed=3)
    x = np.random.default_rng(0).normal(size=(2, 70, 6)).astype(dtype)
    whole, state = block(x), None
    for t in range(70):
        y, state = block.step(x[:, t], state)
        np.testing.assert_allclose(y, whole[:, t], atol=1e-5 if dtype == "float32" else 1e-12)
    with pytest.raises(at.ShapeError):
        block.step(x[:1, 0], state)


def test_mamba_sees_only_the_past():
    block = at.MambaBlock(4)
    x = np.random.default_rng(0).normal(size=(1, 30, 4))
    base = block(x)
    x[:, 20:] += 5
    np.testing.assert_array_equal(block(x)[:, :20], base[:, :20])
