"""Trainable modules: parameters, their dictionaries, seeds, what they compute."""

from __future__ import annotations

import numpy as np
import pytest

import sona.attention as at

MODULES = {
    "multi_head": (lambda **kw: at.MultiHeadAttention(8, 2, **kw), 8),
    "mixture": (lambda **kw: at.MoEAttention(8, 4, 3, **kw), 8),
    "differential": (lambda **kw: at.DiffAttention(8, 2, **kw), 8),
    "mamba": (lambda **kw: at.MambaBlock(8, d_state=3, **kw), 8),
}
KEYS = {
    "multi_head": {"in_proj_weight": (24, 8), "in_proj_bias": (24,), "out_proj.weight": (8, 8), "out_proj.bias": (8,)},
    "mixture": {
        "kv_proj.weight": (8, 8),
        "router.weight": (3, 8),
        "input_linear.weight": (3, 4, 8),
        "output_linear.weight": (3, 8, 4),
        "bias": (8,),
    },
    "differential": {f"{n}_proj.weight": (8, 8) for n in ("q", "k", "v", "out")}
    | {f"lambda_{n}": (2,) for n in ("q1", "k1", "q2", "k2")}
    | {"subln.weight": (4,)},
    "mamba": {
        "in_proj.weight": (32, 8),
        "conv1d.weight": (16, 1, 4),
        "conv1d.bias": (16,),
        "x_proj.weight": (7, 16),
        "dt_proj.weight": (16, 1),
        "dt_proj.bias": (16,),
        "A_log": (16, 3),
        "D": (16,),
        "out_proj.weight": (8, 16),
    },
}
each = pytest.mark.parametrize("name", MODULES)


def inputs(dtype="float32", b=2, n=5):
    return np.random.default_rng(0).normal(size=(b, n, 8)).astype(dtype)


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_parameters(name, dtype):
    make, _ = MODULES[name]
    module = make(dtype=dtype)
    state = module.state_dict()
    assert {k: v.shape for k, v in state.items()} == KEYS[name]
    assert {v.dtype for v in state.values()} == {np.dtype(dtype)}
    out = module(inputs(dtype))
    assert out.dtype == dtype
    assert out.shape == (2, 5, 8)
    grads = module.backward(np.ones(out.shape))
    assert {g.dtype for g in grads.values()} == {np.dtype(dtype)}
    state[next(iter(state))][:] = 0  # a copy
    np.testing.assert_array_equal(module(inputs(dtype)), out)


@each
def test_seeds(name):
    make, _ = MODULES[name]
    x = inputs()
    np.testing.assert_array_equal(make(seed=3)(x), make(seed=3)(x))
    assert not np.array_equal(make(seed=3)(x), make(seed=4)(x))


@each
def test_state_goes_from_one_to_another(name):
    make, _ = MODULES[name]
    one, two, x = make(seed=1), make(seed=2), inputs()
    two.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(one(x), two(x))


@each
def test_states_that_are_refused_change_nothing(name):
    module = MODULES[name][0]()
    state, x = module.state_dict(), inputs()
    before, first = module(x), next(iter(state))
    rest = {k: v for k, v in state.items() if k != first}
    for bad, error in (
        (rest, (at.ParameterError, at.ShapeError)),
        ({**state, "more": np.zeros(2)}, (at.ParameterError, at.ShapeError)),
        ({**state, first: state[first][..., :1]}, at.ShapeError),
        ({**state, first: state[first].astype("float16")}, at.DTypeError),
        ({**state, first: state[first].astype(int)}, at.DTypeError),
    ):
        with pytest.raises(error):
            module.load_state_dict(bad)
        np.testing.assert_array_equal(module(x), before)


@each
def test_what_inputs_are_refused(name):
    module = MODULES[name][0]()
    with pytest.raises(at.ParameterError):
        module.backward(np.ones((2, 5, 8)))
    with pytest.raises(at.ShapeError, match=r"\(2, 5, 7\)"):
        module(inputs()[..., :7])
    with pytest.raises(at.ShapeError, match=r"\(5, 8\)"):
        module(inputs()[0])
    for dtype in ("int64", "float16"):
        with pytest.raises(at.DTypeError, match=dtype):
            module(inputs().astype(dtype))
    module(inputs())
    with pytest.raises(at.ShapeError, match=r"\(3, 4\).*\(2, 5, 8\)"):
        module.backward(np.ones((3, 4)))
    with pytest.raises(at.DTypeError):
        MODULES[name][0](dtype="float16")
    with pytest.raises(TypeError):
        MODULES[name][0](nonsense=1)


@each
def test_one_token_and_none(name):
    module = MODULES[name][0]()
    sizes = (1,) if name == "mamba" else (0, 1)
    for n in sizes:
        out = module(inputs(n=n))
        assert out.shape == (2, n, 8)
        assert np.isfinite(out).all()
        assert module.backward(out)["query" if name == "multi_head" else "x"].shape == (2, n, 8)


@pytest.mark.parametrize("name", ["mixture", "differential", "mamba"])
def test_later_tokens_change_nothing(name):
    module, x = MODULES[name][0](), inputs(n=30)
    base = module(x)
    x[:, 20:] += 3
    np.testing.assert_array_equal(module(x)[:, :20], base[:, :20])


def test_multi_head_is_the_formula():
    module, rng = at.MultiHeadAttention(8, 2, dtype="float64", seed=5), np.random.default_rng(1)
    x, y = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 6, 8))
    state = {k: rng.normal(size=v.shape) for k, v in module.state_dict().items()}
    module.load_state_dict(state)
    wq, wk, wv = np.split(state["in_proj_weight"], 3)
    bq, bk, bv = np.split(state["in_proj_bias"], 3)
    q, k, v = x @ wq.T + bq, y @ wk.T + bk, y @ wv.T + bv
    heads = [at.scaled_dot_product_attention(*(a[..., i : i + 4] for a in (q, k, v))) for i in (0, 4)]
    want = np.concatenate(heads, axis=-1) @ state["out_proj.weight"].T + state["out_proj.bias"]
    got = module(x, y, need_weights=True)
    np.testing.assert_allclose(got.out, want, rtol=1e-11)
    np.testing.assert_allclose(got.weights.sum(-1), np.ones((2, 2, 3)), rtol=1e-12)
    for mask in (rng.random((3, 6)) < 0.5, rng.random((2, 1, 3, 6)) < 0.5, rng.normal(size=(2, 2, 3, 6))):
        assert module(x, y, mask=mask).shape == (2, 3, 8)
    none = module(x, y, mask=np.zeros((3, 6), bool))
    np.testing.assert_allclose(none, np.broadcast_to(state["out_proj.bias"], none.shape))


def test_multi_head_quotes_what_does_not_fit():
    module = at.MultiHeadAttention(8, 2)
    with pytest.raises(at.ShapeError, match=r"\(2, 6, 8\).*\(2, 7, 8\)"):
        module(np.zeros((2, 5, 8)), np.zeros((2, 6, 8)), np.zeros((2, 7, 8)))
    with pytest.raises(at.ShapeError, match=r"\(2, 5, 8\).*\(3, 5, 8\)"):
        module(np.zeros((2, 5, 8)), np.zeros((3, 5, 8)))
    with pytest.raises(at.DTypeError):
        module(np.zeros((2, 5, 8)), mask=np.zeros((5, 5), np.float16))


@pytest.mark.parametrize("norm", ["selected", "full"])
def test_routing(norm):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(2, 50, 6)), rng.normal(size=(4, 6))
    route = at.moe_route(x, w, top_k=2, norm=norm)
    logits = x @ w.T
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :2]
    np.testing.assert_array_equal(route.index, order)
    gate = np.take_along_axis(p, order, -1)
    np.testing.assert_allclose(route.gate, gate / gate.sum(-1, keepdims=True) if norm == "selected" else gate, rtol=1e-12)
    load = np.bincount(order.ravel(), minlength=4) / 100
    assert isinstance(route.aux_loss, float)
    assert isinstance(route.z_loss, float)
    np.testing.assert_allclose(route.aux_loss, 4 * (load * p.mean((0, 1))).sum())
    np.testing.assert_allclose(route.z_loss, (np.log(np.exp(logits).sum(-1)) ** 2).mean())
    tied = at.moe_route(np.zeros((3, 6)), w, top_k=3)
    np.testing.assert_array_equal(tied.index, [[0, 1, 2]] * 3)
