"""Every derivative against central differences, in float64: functions, then modules."""

from __future__ import annotations

import numpy as np
import pytest

import sona.attention as at
from attention_numeric import check_module, check_vjp, differences

ORDERS = [False, True, "bottom_right"]
SIZES = [(1, 1), (4, 4), (3, 5), (5, 3)]


@pytest.fixture
def normal():
    rng = np.random.default_rng(0)
    return lambda *shape: rng.normal(size=shape)


@pytest.mark.parametrize("causal", ORDERS)
@pytest.mark.parametrize(("n", "m"), SIZES)
@pytest.mark.parametrize("f", [at.scaled_dot_product_attention, at.flash_attention])
def test_softmax(f, n, m, causal, normal):
    arrays = {"q": normal(2, n, 2), "k": normal(1, m, 2), "v": normal(m, 3), "mask": normal(n, m)}
    check_vjp(f, arrays, causal=causal, scale=0.7)


def test_softmax_over_several_tiles(normal):
    # 300 keys are two tiles of 256, 70 queries two of 64.
    arrays = {"q": normal(70, 1), "k": normal(300, 1), "v": normal(300, 1)}
    check_vjp(at.flash_attention, arrays, causal="bottom_right")


def test_softmax_with_a_mask_that_hides_rows(normal):
    mask = np.array([[True, False, True], [False, False, False]])
    q, k, v = normal(2, 2), normal(3, 2), normal(3, 2)
    _, pullback = at.vjp(at.scaled_dot_product_attention, q, k, v, mask)
    grads = pullback(np.ones((2, 2)))
    assert set(grads) == {"q", "k", "v"}
    np.testing.assert_array_equal(grads["q"][1], 0)
    np.testing.assert_array_equal(grads["k"][1], 0)
    np.testing.assert_array_equal(grads["v"][1], 0)


def test_grouped_queries(normal):
    check_vjp(at.flash_attention, {"q": normal(4, 3, 2), "k": normal(2, 5, 2), "v": normal(2, 5, 2)}, enable_gqa=True)


def test_windows_and_blocks(normal):
    arrays = {"q": normal(2, 9, 2), "k": normal(1, 9, 2), "v": normal(9, 3)}
    for causal in (False, True):
        check_vjp(at.local_global_attention, arrays, window=1, global_idx=[4], causal=causal)
        layout = np.random.default_rng(0).random((2, 3, 3)) < 0.5
        check_vjp(at.block_sparse_attention, arrays, layout=layout, block=4, causal=causal)


@pytest.mark.parametrize("causal", ORDERS)
@pytest.mark.parametrize("options", [{"kernel": "favor+", "features": 3}, {"kernel": "elu"}, {"kernel": "relu", "eps": 0.1}])
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_linear(n, m, options, causal, normal):
    check_vjp(at.linear_attention, {"q": normal(n, 2), "k": normal(2, m, 2), "v": normal(m, 2)}, causal=causal, **options)


@pytest.mark.parametrize("options", [{"kernel": "favor+", "features": 3}, {"kernel": "elu"}])
def test_causal_linear_over_several_chunks(options, normal):
    for n, m, causal in ((140, 140, True), (66, 70, "bottom_right")):
        check_vjp(at.linear_attention, {"q": normal(n, 1), "k": normal(m, 1), "v": normal(m, 1)}, causal=causal, **options)


def test_linear_with_eps(normal):
    arrays = {"q": normal(3, 2), "k": normal(4, 2), "v": normal(4, 2)}
    # The stabilisers are held fixed by definition, which is exact only as eps tends to 0.
    check_vjp(at.linear_attention, arrays, features=5, eps=1e-12)


@pytest.mark.parametrize("causal", ORDERS)
def test_hyperbolic(causal, normal):
    arrays = {"q": 0.3 * normal(2, 4, 2), "k": 0.3 * normal(5, 2), "v": 0.3 * normal(5, 2), "mask": normal(4, 5)}
    check_vjp(at.hyperbolic_attention, arrays, c=0.8, beta=1.5, offset=0.2, causal=causal)


def test_differential(normal):
    arrays = {name: normal(2, 3, 2) for name in ("q1", "q2")} | {name: normal(2, 4, 2) for name in ("k1", "k2", "v")}
    check_vjp(at.differential_attention, {**arrays, "lam": np.array([0.3, 0.6]), "mask": normal(3, 4)})
    _, pullback = at.vjp(at.differential_attention, **arrays, lam=0.3)
    grad = pullback(np.ones((2, 3, 2)))["lam"]
    want = differences(lambda y: float(at.differential_attention(**arrays, lam=float(y[0])).sum()), np.array([0.3]))
    np.testing.assert_allclose(grad, want, rtol=1e-6)


@pytest.mark.parametrize("steps", [1, 3])
def test_hopfield(steps, normal):
    check_vjp(at.hopfield_retrieve, {"state": normal(2, 3, 4), "patterns": normal(5, 4)}, steps=steps, tol=0.0)
    arrays = {"state": normal(3, 4), "patterns": normal(5, 4), "values": normal(5, 2)}
    check_vjp(at.hopfield_retrieve, arrays, steps=steps, tol=0.0, beta=2.0)


def test_selective_scan(normal):
    length = 70  # beyond one chunk of 64
    arrays = {
        "u": normal(length, 2),
        "delta": 0.3 * normal(length, 2),
        "A": -np.abs(normal(2, 2)),
        "B": normal(length, 2),
        "C": normal(length, 2),
        "D": normal(2),
        "z": normal(length, 2),
        "delta_bias": normal(2),
        "h0": normal(2, 2),
    }
    check_vjp(at.selective_scan, arrays)
    few = {"u": normal(2, 3, 2), "delta": np.abs(normal(2, 3, 2)), "A": -np.abs(normal(2, 2))}
    check_vjp(at.selective_scan, {**few, "B": normal(1, 3, 2), "C": normal(3, 2)}, softplus=False)


def test_ssd(normal):
    arrays = {
        "x": normal(70, 4, 1),
        "dt": np.abs(normal(70, 4)),
        "A": -np.abs(normal(4)),
        "B": normal(70, 2, 2),
        "C": normal(70, 2, 2),
        "D": normal(4),
        "h0": normal(4, 1, 2),
    }
    check_vjp(at.ssd, arrays, chunk=16)


def test_scans_carry_the_gradient_of_the_state(normal):
    arrays = {"u": normal(5, 2), "delta": normal(5, 2), "A": -np.abs(normal(2, 2)), "B": normal(5, 2), "C": normal(5, 2)}
    dy, dstate = normal(5, 2), normal(2, 2)
    _, pullback = at.vjp(at.selective_scan, **arrays)
    grads = pullback(dy, dstate)

    def loss(name, y):
        out = at.selective_scan(**{**arrays, name: y})
        return float((out.y * dy).sum() + (out.state * dstate).sum())

    for name, x in arrays.items():
        np.testing.assert_allclose(grads[name], differences(lambda y, name=name: loss(name, y), x), atol=1e-6, err_msg=name)


def test_workspace(normal):
    weights = {n: normal(4, 4) for n in ("wq", "wk", "wv", "wq_broadcast", "wk_broadcast", "wv_broadcast")}
    gate = np.random.default_rng(0).random((2, 4))
    for residual in (True, False):
        arrays = {"slots": normal(2, 4), "x": normal(5, 4), "gate": gate, **weights}
        check_vjp(at.global_workspace, arrays, topk=2, residual=residual)
    check_vjp(at.global_workspace, {"slots": normal(2, 4), "x": normal(3, 5, 4), "gate": gate[0]})


def test_winners(normal):
    check_vjp(at.k_winners, {"x": normal(3, 6)}, k=2, output="values")
    check_vjp(at.sparsemax, {"x": normal(3, 6)})


def test_gradients_of_the_wrong_shape_are_refused(normal):
    x = 0.2 * normal(5, 4)
    scan = (x, x, -np.ones((4, 2)), normal(5, 2), normal(5, 2))
    calls = [
        (at.scaled_dot_product_attention, (x, x, x), {}),
        (at.linear_attention, (x, x, x), {}),
        (at.hyperbolic_attention, (x, x, x), {}),
        (at.differential_attention, (x, x, x, x, x, 0.3), {}),
        (at.hopfield_retrieve, (x, x), {}),
        (at.global_workspace, (x, x), {}),
        (at.k_winners, (x, 2), {"output": "values"}),
        (at.sparsemax, (x,), {}),
        (at.selective_scan, scan, {}),
    ]
    for f, args, kwargs in calls:
        _, pullback = at.vjp(f, *args, **kwargs)
        with pytest.raises(at.ShapeError, match=r"\(3, 4\).*\(5, 4\)"):
            pullback(np.ones((3, 4)))


def test_empty_operands_have_empty_gradients(normal):
    out, pullback = at.vjp(at.scaled_dot_product_attention, normal(3, 4), normal(0, 4), normal(0, 2), normal(3, 0))
    shapes = {name: g.shape for name, g in pullback(out).items()}
    assert shapes == {"q": (3, 4), "k": (0, 4), "v": (0, 2), "mask": (3, 0)}


def test_multi_head(normal):
    module = at.MultiHeadAttention(4, 2, dtype="float64")
    check_module(module, {"query": normal(2, 3, 4)}, causal=True, need_weights=True)
    check_module(module, {"query": normal(2, 3, 4), "key": normal(1, 5, 4)})
    inputs = {"query": normal(2, 3, 4), "key": normal(2, 5, 4), "value": normal(2, 5, 4), "mask": normal(3, 5)}
    check_module(at.MultiHeadAttention(4, 2, dtype="float64", bias=False), inputs)


@pytest.mark.parametrize("norm", ["selected", "full"])
def test_mixture(norm, normal):
    check_module(at.MoEAttention(4, 4, 3, num_kv_heads=2, norm=norm, dtype="float64"), {"x": normal(2, 5, 4)})


@pytest.mark.parametrize("pairing", ["adjacent", "halves"])
def test_differential_block(pairing, normal):
    check_module(at.DiffAttention(8, 2, layer=2, pairing=pairing, dtype="float64"), {"x": normal(2, 4, 8)})


def test_mamba_block(normal):
    check_module(at.MambaBlock(3, d_state=2, d_conv=3, dtype="float64"), {"x": normal(2, 5, 3)})
    check_module(at.MambaBlock(2, d_state=2, expand=1, dtype="float64"), {"x": normal(1, 66, 2)})
