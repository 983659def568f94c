"""Graph attention and convolution against dense formulas and finite differences; sampling against its distribution."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.attention import (
    DTypeError,
    GATConv,
    GATv2Conv,
    GCNConv,
    GraphError,
    ParameterError,
    SAGEConv,
    ShapeError,
    gat_conv,
    gatv2_conv,
    gcn_conv,
    get_num_threads,
    sage_conv,
    sample_neighbors,
    set_num_threads,
    vjp,
)

F, H, C = 4, 2, 3


@st.composite
def graphs(draw, most=7):
    """Number of nodes and edges (2, E), with loops and repetitions."""
    n = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return n, rng.integers(n, size=(2, draw(st.integers(0, 3 * n)))), rng


def with_loops(n, edges):
    kept = edges[:, edges[0] != edges[1]]
    return np.concatenate([kept, np.tile(np.arange(n), (2, 1))], axis=1)


def softmax_over_incoming(n, edges, logits):
    alpha = np.zeros_like(logits)
    for i in range(n):
        into = edges[1] == i
        if into.any():
            e = np.exp(logits[into] - logits[into].max(axis=0))
            alpha[into] = e / e.sum(axis=0)
    return alpha


def leaky(x, slope=0.2):
    return np.where(x > 0, x, slope * x)


def gather(n, edges, alpha, values):
    out = np.zeros((n, *values.shape[1:]))
    for (j, i), a in zip(edges.T, alpha, strict=True):
        out[i] += a[:, None] * values[j]
    return out


def gat_by_formula(n, edges, x, w, src, dst):
    h = (x @ w.T).reshape(n, H, C)
    logits = leaky((h * src).sum(2)[edges[0]] + (h * dst).sum(2)[edges[1]])
    alpha = softmax_over_incoming(n, edges, logits)
    return gather(n, edges, alpha, h), alpha


@given(graphs(), st.booleans(), st.booleans())
def test_gat_is_its_formula(graph, loops, concat):
    n, edges, rng = graph
    x, w, src, dst = rng.normal(size=(n, F)), rng.normal(size=(H * C, F)), *rng.normal(size=(2, H, C))
    bias = rng.normal(size=H * C if concat else C)
    full = with_loops(n, edges) if loops else edges
    want, alpha = gat_by_formula(n, full, x, w, src, dst)
    want = (want.reshape(n, H * C) if concat else want.mean(axis=1)) + bias
    got = gat_conv(x, edges, w, src, dst, bias, heads=H, concat=concat, add_self_loops=loops, return_attention=True)
    np.testing.assert_allclose(got.out, want, rtol=1e-10, atol=1e-12)
    np.testing.assert_array_equal(got.edge_index, full)
    np.testing.assert_allclose(got.alpha, alpha, rtol=1e-10, atol=1e-12)


@given(graphs(), st.booleans())
def test_gatv2_is_its_formula(graph, loops):
    n, edges, rng = graph
    x, wl, wr, att = rng.normal(size=(n, F)), *rng.normal(size=(2, H * C, F)), rng.normal(size=(H, C))
    bl, br = rng.normal(size=(2, H * C))
    full = with_loops(n, edges) if loops else edges
    left, right = (x @ wl.T + bl).reshape(n, H, C), (x @ wr.T + br).reshape(n, H, C)
    logits = (leaky(left[full[0]] + right[full[1]]) * att).sum(axis=2)
    want = gather(n, full, softmax_over_incoming(n, full, logits), left).reshape(n, H * C)
    got = gatv2_conv(x, edges, wl, bl, wr, br, att, heads=H, add_self_loops=loops)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@given(graphs(), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([2, 6]))
def test_gcn_is_its_formula(graph, loops, improved, weighted, out):
    n, edges, rng = graph
    x, w = rng.normal(size=(n, F)), rng.normal(size=(out, F))
    weight = rng.random(edges.shape[1]) if weighted else np.ones(edges.shape[1])
    a = np.zeros((n, n))
    own = np.full(n, np.nan)
    for (j, i), v in zip(edges.T, weight, strict=True):
        if loops and i == j:
            own[i] = v
        else:
            a[i, j] += v
    if loops:
        a += np.diag(np.where(np.isnan(own), 2.0 if improved else 1.0, own))
    degree = a.sum(axis=1)
    root = np.zeros(n)
    root[degree > 0] = degree[degree > 0] ** -0.5
    want = (root[:, None] * a * root) @ x @ w.T
    got = gcn_conv(x, edges, w, edge_weight=weight if weighted else None, add_self_loops=loops, improved=improved)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)


@given(graphs(), st.sampled_from(["mean", "max", "sum"]), st.booleans(), st.sampled_from([2, 6]))
def test_sage_is_its_formula(graph, aggr, normalize, out):
    n, edges, rng = graph
    x, wl, wr, b = rng.normal(size=(n, F)), *rng.normal(size=(2, out, F)), rng.normal(size=out)
    near = np.zeros((n, F))
    for i in range(n):
        own = x[edges[0][edges[1] == i]]
        if len(own):
            near[i] = getattr(own, aggr)(axis=0)
    want = near @ wl.T + b + x @ wr.T
    if normalize:
        want /= np.linalg.norm(want, axis=1, keepdims=True)
    got = sage_conv(x, edges, wl, b, wr, aggr=aggr, normalize=normalize)
    np.testing.assert_allclose(got, want, rtol=1e-10, atol=1e-12)
    all_edges = sage_conv(x, edges, wl, b, wr, aggr=aggr, normalize=normalize, fanout=10**6, seed=3)
    np.testing.assert_array_equal(all_edges, got)


EDGES = np.array([[0, 1, 2, 3, 0, 4, 4, 2, 1, 5, 5], [1, 2, 0, 0, 3, 3, 4, 1, 2, 5, 0]])


def calls():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(7, F))
    w = rng.normal(size=(H * C, F))
    narrow = rng.normal(size=(2, F))
    wl, wr = rng.normal(size=(2, 3, F))
    for heads_joined in (True, False):
        for loops in (True, False):
            options = {"heads": H, "concat": heads_joined, "add_self_loops": loops, "negative_slope": 0.3}
            bias = rng.normal(size=H * C if heads_joined else C)
            arrays = {"x": x, "weight": w, "bias": bias}
            arrays |= {"att_src": rng.normal(size=(H, C)), "att_dst": rng.normal(size=(H, C))}
            yield gat_conv, arrays, options
            arrays = {"x": x, "weight_l": w, "weight_r": rng.normal(size=w.shape), "bias": bias}
            arrays |= {"bias_l": rng.normal(size=H * C), "bias_r": rng.normal(size=H * C), "att": rng.normal(size=(H, C))}
            yield gatv2_conv, arrays, options
    for weight in (narrow, rng.normal(size=(6, F))):
        for loops in (True, False):
            arrays = {"x": x, "weight": weight, "bias": rng.normal(size=len(weight))}
            arrays["edge_weight"] = rng.uniform(0.5, 2.0, EDGES.shape[1])
            yield gcn_conv, arrays, {"add_self_loops": loops, "improved": loops}
    for aggr in ("mean", "max", "sum"):
        for normalize in (True, False):
            arrays = {"x": x, "weight_l": wl, "weight_r": wr, "bias_l": rng.normal(size=3)}
            yield sage_conv, arrays, {"aggr": aggr, "normalize": normalize, "fanout": 2, "seed": 5}


@pytest.mark.parametrize(("function", "arrays", "options"), list(calls()))
def test_gradients_by_finite_differences(function, arrays, options):
    def value():
        return function(edge_index=EDGES, **arrays, **options)

    out, pullback = vjp(function, edge_index=EDGES, **arrays, **options)
    np.testing.assert_array_equal(out, value())
    dout = np.random.default_rng(1).normal(size=out.shape)
    grads = pullback(dout)
    assert grads.keys() == arrays.keys()
    step = 1e-6
    for name, a in arrays.items():
        numeric = np.empty_like(a)
        for at in np.ndindex(a.shape):
            kept = a[at]
            a[at] = kept + step
            above = value()
            a[at] = kept - step
            numeric[at] = ((above - value()) * dout).sum() / (2 * step)
            a[at] = kept
        assert grads[name].shape == a.shape
        np.testing.assert_allclose(grads[name], numeric, rtol=1e-5, atol=1e-7, err_msg=name)


LAYERS = [GATConv(F, C, heads=H), GATv2Conv(F, C, heads=H, concat=False), GCNConv(F, C), SAGEConv(F, C, aggr="max")]


@given(graphs(), st.sampled_from(LAYERS))
def test_relabelling_the_nodes_relabels_the_result(graph, layer):
    n, edges, rng = graph
    x, name = rng.normal(size=(n, F)), rng.permutation(n)
    moved = np.empty_like(x)
    moved[name] = x
    np.testing.assert_allclose(layer(moved, name[edges])[name], layer(x, edges), atol=1e-5)


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_layers_keep_load_and_learn(layer):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, F))
    out = layer(x, EDGES)
    assert out.dtype == np.float32
    grads = layer.backward(np.ones(out.shape))
    state = layer.state_dict()
    assert grads.keys() == state.keys() | {"x"}
    assert all(grads[k].shape == state[k].shape for k in state)
    options = {"heads": H} if isinstance(layer, (GATConv, GATv2Conv)) else {}
    options |= {"concat": False} if isinstance(layer, GATv2Conv) else {}
    options |= {"aggr": "max"} if isinstance(layer, SAGEConv) else {}
    other = type(layer)(F, C, seed=9, dtype="float64", **options)
    flat = {k: v[0] if v.ndim == 3 else v for k, v in state.items()}
    other.load_state_dict(flat)
    np.testing.assert_allclose(other(x, EDGES), out, atol=1e-5)
    with pytest.raises(ParameterError):
        other.load_state_dict({**state, "more": np.zeros(1)})
    # One step against the gradient lowers the loss it belongs to.
    double = other.backward(np.ones(out.shape))
    before = other(x, EDGES).sum()
    other.load_state_dict({k: v - 1e-3 * double[k].reshape(v.shape) for k, v in state.items()})
    assert other(x, EDGES).sum() < before


def test_nan_stays_with_those_who_see_it():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, F))
    x[2] = np.nan
    edges = np.array([[0, 1, 2, 3], [1, 2, 3, 4]])
    touched = [False, False, True, True, False, False]
    for layer in LAYERS:
        np.testing.assert_array_equal(np.isnan(layer(x, edges)).any(axis=1), touched, err_msg=repr(layer))


def test_empty_graphs():
    for n in (0, 3):
        for edges in ([[], []], np.empty((2, 0), dtype=np.int64)):
            for layer in LAYERS:
                out = layer(np.ones((n, F)), edges)
                assert out.shape[0] == n
                assert layer.backward(np.ones(out.shape))["x"].shape == (n, F)
    bias = np.arange(2.0)
    out = gat_conv(np.ones((3, 1)), [[], []], np.ones((2, 1)), *np.ones((2, 1, 2)), bias, add_self_loops=False)
    np.testing.assert_array_equal(out, np.tile(bias, (3, 1)))


def test_bad_inputs():
    x, w = np.ones((3, F)), np.ones((2, F))
    att = np.ones((1, 2))
    for edges in ([[0], [3]], [[-1], [0]], [[0, 1]], [0, 1], [[0, 1], [0]], np.zeros((3, 2), dtype=int)):
        with pytest.raises(GraphError):
            gcn_conv(x, edges, w)
    with pytest.raises(DTypeError):
        gcn_conv(x, [[0.0], [1.0]], w)
    with pytest.raises(DTypeError):
        gcn_conv(np.ones((3, F), dtype=int), [[0], [1]], w)
    for wrong in (np.ones((3, F + 1)), np.ones(F), np.ones((1, 3, F))):
        with pytest.raises(ShapeError):
            sage_conv(wrong, [[0], [1]], w, None, w)
    with pytest.raises(ShapeError):
        gat_conv(x, [[0], [1]], w, att, np.ones((1, 3)))
    with pytest.raises(ShapeError):
        gat_conv(x, [[0], [1]], w, att, att, np.ones(3))
    with pytest.raises(ShapeError):
        gat_conv(x, [[0], [1]], np.ones((3, F)), att, att, heads=2)
    with pytest.raises(ShapeError):
        gcn_conv(x, [[0], [1]], w, edge_weight=[1.0, 2.0])
    for call in (
        lambda: gcn_conv(x, [[0], [1]], w, edge_weight=[-1.0]),
        lambda: gat_conv(x, [[0], [1]], w, att, att, heads=0),
        lambda: sage_conv(x, [[0], [1]], w, None, w, aggr="median"),
        lambda: sage_conv(x, [[0], [1]], w, None, w, fanout=-1),
        lambda: sample_neighbors([[0], [1]], [0], [-1], num_nodes=2),
        lambda: SAGEConv(2, 2, aggr="median"),
    ):
        with pytest.raises(ParameterError):
            call()
    with pytest.raises(GraphError):
        sample_neighbors([[0], [1]], [2], [1], num_nodes=2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_change_no_bit(dtype):
    before = get_num_threads()
    rng = np.random.default_rng(2)
    n = 3000
    edges = rng.integers(n, size=(2, 300_000))
    x, w, att = (rng.normal(size=s).astype(dtype) for s in ((n, 64), (64, 64), (4, 16)))
    try:
        results = []
        for threads in (1, 2):
            set_num_threads(threads)
            one = vjp(gat_conv, x, edges, w, att, -att, heads=4)
            two = vjp(gatv2_conv, x, edges, w, None, w[::-1], None, att, heads=4)
            three = vjp(gcn_conv, x, edges, w)
            four = vjp(sage_conv, x, edges, w, None, w, aggr="max", fanout=5)
            results.append([])
            for out, pullback in (one, two, three, four):
                assert out.dtype == dtype
                results[-1] += [out, *(g for _, g in sorted(pullback(np.ones_like(out)).items()))]
    finally:
        set_num_threads(before)
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=50)
@given(graphs(most=12), st.lists(st.integers(0, 4), min_size=1, max_size=3), st.integers(-5, 2**70))
def test_sampled_neighbourhoods(graph, fanouts, seed):
    n, edges, rng = graph
    seeds = rng.permutation(n)[: rng.integers(1, n + 1)]
    s = sample_neighbors(edges, seeds, fanouts, num_nodes=n, seed=seed)
    np.testing.assert_array_equal(s.nodes[: len(seeds)], seeds)
    assert len(set(s.nodes.tolist())) == len(s.nodes)
    known = set(seeds.tolist())
    frontier = list(known)
    for hop, fanout in enumerate(fanouts):
        own = s.edge_index[:, s.hop == hop]
        assert set(own[1].tolist()) <= set(frontier)
        for v in frontier:
            drawn, there = own[0][own[1] == v].tolist(), edges[0][edges[1] == v].tolist()
            assert len(drawn) == min(fanout, len(there))
            for u in drawn:
                there.remove(u)  # without replacement: every edge once
        frontier = [u for u in s.nodes.tolist() if u in set(own[0].tolist()) - known]
        known |= set(own[0].tolist())
    assert known == set(s.nodes.tolist())


def test_every_neighbour_is_as_likely():
    """Inclusion of 7 neighbours at fanout 3 over 4,000 seeds: chi-square with 6 degrees of freedom, and the mean unbiased."""
    edges = np.array([np.arange(1, 8), np.zeros(7, dtype=int)])
    rounds = 4000
    count = np.zeros(8)
    values = np.concatenate([[0.0], 2.0 ** np.arange(7)])[:, None]
    means = []
    one, zero = np.eye(1), np.zeros((1, 1))
    for seed in range(rounds):
        drawn = sample_neighbors(edges, [0], [3], num_nodes=8, seed=seed).edge_index[0]
        count[drawn] += 1
        means.append(sage_conv(values, edges, one, None, zero, fanout=3, seed=seed)[0, 0])
    expected = rounds * 3 / 7
    # Inclusions within a draw exclude each other: the statistic is scaled by (n − 1)/(n − k).
    chi = ((count[1:] - expected) ** 2 / expected).sum() * (7 - 1) / (7 - 3)
    assert chi < 22.5  # P < 0.001
    assert np.mean(means) == pytest.approx(values[1:].mean(), abs=4 * np.std(means) / rounds**0.5)


def test_a_draw_depends_on_seed_hop_and_node_only():
    rng = np.random.default_rng(4)
    edges = rng.integers(30, size=(2, 600))
    alone = sample_neighbors(edges, [7], [4], num_nodes=30, seed=1)
    among = sample_neighbors(edges, [3, 7, 9], [4], num_nodes=30, seed=1)
    own = among.edge_index[:, among.edge_index[1] == 7]
    np.testing.assert_array_equal(alone.edge_index, own)
    other = sample_neighbors(edges, [7], [4], num_nodes=30, seed=2)
    assert not np.array_equal(alone.edge_index, other.edge_index)
