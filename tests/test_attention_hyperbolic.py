"""Hyperbolic attention against extended precision, its Euclidean limit, and the edge of the ball."""

from __future__ import annotations

import numpy as np
import pytest

import sona.attention as attention
from attention_golden import FOLDER
from sona.attention import poincare


def longdouble_tangent(q, k, v):
    """Attention of tangent vectors, c = β = 1, written out with 64-bit mantissas."""

    def norm(x):
        return np.sqrt((x * x).sum(-1, keepdims=True))

    q, k, v = (np.asarray(x, dtype=np.longdouble) for x in (q, k, v))
    q, k, v = (x * np.tanh(norm(x)) / norm(x) for x in (q, k, v))
    apart = ((q[:, None] - k[None]) ** 2).sum(-1)
    z = 2 * apart / ((1 - norm(q) ** 2) * (1 - norm(k) ** 2).T)
    w = np.exp(-np.log1p(z + np.sqrt(z * (z + 2))))
    w /= w.sum(1, keepdims=True)
    lam = 2 / (1 - norm(v) ** 2)
    t = (w @ (lam * v)) / (w @ (lam - 1))
    mean = t / (1 + np.sqrt(1 - norm(t) ** 2))
    return mean * np.arctanh(norm(mean)) / norm(mean)


def test_tangent_space_agrees_with_extended_precision():
    with np.load(FOLDER / "hyperbolic.npz") as z:
        q, k, v = (z[f"case4/{name}"] for name in "qkv")
    got = attention.hyperbolic_attention(q, k, v, c=1.0, space="tangent")
    np.testing.assert_allclose(got, longdouble_tangent(q, k, v).astype(np.float64), rtol=1e-12)


def test_small_curvature_is_euclidean_with_a_factor_of_two():
    q, k, v = np.random.default_rng(0).normal(size=(3, 6, 4))
    got = attention.hyperbolic_attention(q, k, v, c=1e-8, return_weights=True)
    logits = -2 * np.linalg.norm(q[:, None] - k[None], axis=-1)
    want = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(got.weights, want, rtol=1e-5)
    np.testing.assert_allclose(got.out, want @ v, rtol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_points_beyond_the_edge_are_projected(dtype):
    far = np.array([[3.0, 4.0], [0.6, 0.8]], dtype=dtype)
    out = attention.hyperbolic_attention(far, far, far)
    assert out.dtype == dtype
    assert np.isfinite(out).all()
    assert (np.linalg.norm(out, axis=-1) < 1).all()


def test_exp_and_log_are_inverse():
    rng = np.random.default_rng(1)
    x, u = 0.4 * rng.normal(size=(2, 20, 3)) / np.sqrt(3)
    for c in (0.1, 0.3, 1.0):
        np.testing.assert_allclose(poincare.logmap(x, poincare.expmap(x, u, c=c), c=c), u, atol=1e-9)
        np.testing.assert_allclose(poincare.dist(x, poincare.expmap0(poincare.logmap0(x, c=c), c=c), c=c), 0, atol=1e-7)


def test_coincident_points_and_empty_rows():
    x = np.array([[0.2, 0.1]])
    assert poincare.dist(x, x)[0] == 0
    out = attention.hyperbolic_attention(x, x, x, mask=np.zeros((1, 1), dtype=bool))
    np.testing.assert_array_equal(out, 0)
    origin = attention.lorentz_attention([[1.0, 0.0]], np.zeros((0, 2)), np.zeros((0, 2)), curvature=4.0)
    np.testing.assert_array_equal(origin, [[0.5, 0.0]])


def test_bad_curvature():
    x = np.zeros((1, 2))
    for c in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(attention.ParameterError):
            attention.hyperbolic_attention(x, x, x, c=c)


@pytest.mark.parametrize(("one", "other"), [((3,), (5, 3)), ((2, 1, 3), (4, 3)), ((1, 4, 3), (2, 1, 3))])
def test_points_and_tangents_broadcast(one, other):
    rng = np.random.default_rng(0)
    x, y = 0.2 * rng.normal(size=one), 0.2 * rng.normal(size=other)
    whole = np.broadcast_shapes(one, other)
    full = np.broadcast_to(x, whole), np.broadcast_to(y, whole)
    for f in (poincare.expmap, poincare.logmap, poincare.mobius_add, poincare.dist):
        np.testing.assert_allclose(f(x, y, c=0.7), f(*full, c=0.7), atol=1e-12)
        np.testing.assert_allclose(f(y, x, c=0.7), f(*full[::-1], c=0.7), atol=1e-12)
