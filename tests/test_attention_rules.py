"""Rules common to all of `sona.attention`: what goes in, what comes out, what is refused and how."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

import sona
import sona.attention as at
from sona.attention import layouts

rng = np.random.default_rng(0)


def normal(*shape, dtype="float64"):
    return rng.normal(size=shape).astype(dtype)


# Functions of q, k, v with everything else at its default.
QKV = {
    "scaled_dot_product": at.scaled_dot_product_attention,
    "flash": at.flash_attention,
    "favor": lambda q, k, v, **kw: at.linear_attention(q, k, v, **kw),
    "elu": lambda q, k, v, **kw: at.linear_attention(q, k, v, kernel="elu", **kw),
    "local": lambda q, k, v, **kw: at.local_global_attention(q, k, v, window=2, **kw),
    "hyperbolic": at.hyperbolic_attention,
    "lorentz": at.lorentz_attention,
}
MASKED = (at.scaled_dot_product_attention, at.flash_attention, at.hyperbolic_attention, at.lorentz_attention)
each = pytest.mark.parametrize("name", QKV)


class OnlyDlpack:
    """An array that offers DLPack and nothing else."""

    def __init__(self, x):
        self.x = x

    def __dlpack__(self, **kwargs):
        return self.x.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self.x.__dlpack_device__()


class OnlyArray:
    """An array that offers ``__array__`` and nothing else."""

    def __init__(self, x):
        self.x = x

    def __array__(self, dtype=None, copy=None):
        return self.x if dtype is None else self.x.astype(dtype)


VIEWS = {
    "dlpack": OnlyDlpack,
    "array protocol": OnlyArray,
    "buffer": memoryview,
    "lists": lambda x: x.tolist(),
    "strided": lambda x: np.repeat(x, 3, axis=-1)[..., ::3],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "fortran": np.asfortranarray,
    "byte-swapped": lambda x: x.astype(">f8"),
}


@each
@pytest.mark.parametrize("kind", VIEWS)
def test_anything_that_numpy_can_view(name, kind):
    q, k, v = (0.2 * normal(5, 4) for _ in range(3))
    want = QKV[name](q, k, v)
    got = QKV[name](*(VIEWS[kind](x) for x in (q, k, v)))
    np.testing.assert_array_equal(got, want)
    assert type(got) is np.ndarray
    assert got.flags.c_contiguous


def test_masks_come_in_any_form():
    x, mask = normal(4, 3), rng.random((4, 4)) < 0.6
    for f in MASKED:
        np.testing.assert_array_equal(f(x, x, x, mask=OnlyDlpack(mask)), f(x, x, x, mask=mask))
        np.testing.assert_array_equal(f(x, x, x, mask=mask.tolist()), f(x, x, x, mask=mask))
    bias = normal(4, 4)
    out, pullback = at.vjp(at.scaled_dot_product_attention, x, x, x, OnlyDlpack(bias))
    assert pullback(out)["mask"].shape == (4, 4)


@each
@pytest.mark.parametrize("dtype", ["int64", "int32", "float16", "bool", "complex128", "longdouble", "object"])
def test_other_types_are_refused(name, dtype):
    x = normal(5, 4)
    for i in range(3):
        given = [x, x, x]
        given[i] = x.astype(dtype)
        with pytest.raises(at.DTypeError, match=np.dtype(dtype).name):
            QKV[name](*given)


@each
def test_precision_is_that_of_the_widest_array(name):
    single, double = normal(5, 4, dtype="float32"), normal(5, 4)
    assert QKV[name](single, single, single).dtype == np.float32
    for i in range(3):
        given = [single, single, single]
        given[i] = double
        assert QKV[name](*given).dtype == np.float64


def test_python_numbers_do_not_promote():
    x = normal(5, 4, dtype="float32")
    assert at.scaled_dot_product_attention(x, x, x, scale=0.3).dtype == np.float32
    assert at.differential_attention(x, x, x, x, x, 0.5).dtype == np.float32
    assert at.differential_attention(x, x, x, x, x, np.float32(0.5)).dtype == np.float32
    assert at.linear_attention(x, x, x, kernel="relu", eps=0.1).dtype == np.float32
    assert at.hyperbolic_attention(x, x, x, c=0.7, beta=2.0).dtype == np.float32
    assert at.hopfield_retrieve(x, x, beta=2.0).dtype == np.float32
    assert at.k_winners(x, 2, threshold=0.1, output="values").dtype == np.float32
    assert at.sparsemax(x).dtype == np.float32
    assert at.poincare.dist(x, x, c=0.5).dtype == np.float32
    assert at.linear_attention(x, x, x, features=normal(7, 4)).dtype == np.float64


@each
def test_wrong_shapes_are_quoted(name):
    f = QKV[name]
    with pytest.raises(at.ShapeError, match=r"\(5, 4\).*\(5, 3\)"):
        f(normal(5, 4), normal(5, 3), normal(5, 3))
    with pytest.raises(at.ShapeError, match=r"\(5, 4\).*\(7, 3\)"):
        f(normal(5, 4), normal(5, 4), normal(7, 3))
    with pytest.raises(at.ShapeError, match=r"\(4,\)"):
        f(normal(4), normal(5, 4), normal(5, 3))
    with pytest.raises(at.ShapeError, match=r"\(2, 5, 4\).*\(3, 5, 4\).*\(1, 5, 3\)"):
        f(normal(2, 5, 4), normal(3, 5, 4), normal(1, 5, 3))
    with pytest.raises(at.ShapeError):
        f(1.0, normal(5, 4), normal(5, 3))
    with pytest.raises(at.ShapeError, match="different lengths"):
        f([[1.0, 2.0], [3.0]], normal(2, 2), normal(2, 2))


def test_more_wrong_shapes_are_quoted():
    with pytest.raises(at.ShapeError, match=r"\(2, 3, 4\).*\(3, 5, 4\)"):
        at.hopfield_energy(normal(2, 3, 4), normal(3, 5, 4))
    with pytest.raises(at.ShapeError, match=r"\(5, 4\).*\(6, 2\)"):
        at.hopfield_retrieve(normal(3, 4), normal(5, 4), normal(6, 2))
    with pytest.raises(at.ShapeError, match=r"\(5, 2\).*\(5, 3\)"):
        at.selective_scan(normal(5, 2), normal(5, 3), -np.ones((2, 3)), normal(5, 3), normal(5, 3))
    with pytest.raises(at.ShapeError, match=r"\(5, 3, 3\).*\(5, 2, 4\)"):
        at.ssd(normal(5, 3, 3), np.ones((5, 3)), -np.ones(3), normal(5, 2, 4), normal(5, 2, 4))
    with pytest.raises(at.ShapeError, match=r"\(2, 10\).*\(2, 11\)"):
        at.hdc_attention(np.ones((2, 10), bool), np.ones((2, 11), bool), normal(2, 2))
    with pytest.raises(at.ShapeError, match=r"\(3, 4\).*\(5, 4\)"):
        at.local_global_attention(normal(3, 4), normal(5, 4), normal(5, 4), window=1)
    with pytest.raises(at.ShapeError, match=r"\(3, 3\).*\(2, 2\)"):
        at.block_sparse_attention(*(normal(10, 4) for _ in range(3)), np.ones((2, 2), bool), block=4)
    with pytest.raises(at.ShapeError, match=r"\(6, 5, 4\).*\(4, 7, 4\).*\(4, 7, 3\)"):
        at.flash_attention(normal(6, 5, 4), normal(4, 7, 4), normal(4, 7, 3), enable_gqa=True)


def test_masks_that_are_refused():
    x = normal(3, 4)
    for f in MASKED:
        for bad in (np.nan, np.inf):
            with pytest.raises(at.ParameterError, match="mask"):
                f(x, x, x, mask=np.full((3, 3), bad))
        for dtype in ("int64", "float16"):
            with pytest.raises(at.DTypeError, match=dtype):
                f(x, x, x, mask=np.ones((3, 3), dtype))
        for shape in ((2, 3), (2, 3, 3)):
            with pytest.raises(at.ShapeError, match=rf"\({str(shape)[1:-1]}\).*\(3, 3\)"):
                f(x, x, x, mask=np.ones(shape, bool))


FUNCTIONS = [
    n for n in at.__all__ if callable(getattr(at, n)) and not isinstance(getattr(at, n), type) and n not in ("attention", "vjp")
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_unknown_keywords_are_type_errors(name):
    with pytest.raises(TypeError, match="nonsense"):
        getattr(at, name)(nonsense=1)


def test_parameters_out_of_range():
    x = normal(6, 4)
    calls = [
        lambda: at.scaled_dot_product_attention(x, x, x, causal="left"),
        lambda: at.scaled_dot_product_attention(x, x, x, scale=float("nan")),
        lambda: at.flash_attention(x, x, x, block_q=0),
        lambda: at.linear_attention(x, x, x, causal="left"),
        lambda: at.linear_attention(x, x, x, features=0),
        lambda: at.linear_attention(x, x, x, kernel="softmax"),
        lambda: at.linear_attention(x, x, x, eps=1e-4, causal=True),
        lambda: at.linear_attention(x, x, x, eps=-1.0),
        lambda: at.local_global_attention(x, x, x, window=-1),
        lambda: at.local_global_attention(x, x, x, window=1, causal="left"),
        lambda: at.local_global_attention(x, x, x, window=1, global_idx=[6]),
        lambda: at.local_global_attention(x, x, x, window=1, global_idx=[-1]),
        lambda: at.block_sparse_attention(x, x, x, np.ones((1, 1), bool), causal="left"),
        lambda: at.block_sparse_attention(x, x, x, np.ones((1, 1), bool), block=0),
        lambda: layouts.fixed(8, block=2, context=3),
        lambda: at.hyperbolic_attention(x, x, x, c=0.0),
        lambda: at.hyperbolic_attention(x, x, x, space="klein"),
        lambda: at.hyperbolic_attention(x, x, x, aggregate="mean"),
        lambda: at.hopfield_retrieve(x, x, steps=0),
        lambda: at.hopfield_retrieve(x, x, tol=-1.0),
        lambda: at.k_winners(x, 5),
        lambda: at.k_winners(x, -1),
        lambda: at.k_winners(x, 1, output="all"),
        lambda: at.k_winners([1.0, float("nan")], 1),
        lambda: at.ssd(x[:, :, None], np.ones((6, 4)), -np.ones(4), x[:, None], x[:, None], chunk=0),
        lambda: at.hdc_attention(at.hdc_pack(x > 0), at.hdc_pack(x > 0), x),
        lambda: at.moe_route(x, normal(3, 4), top_k=4),
        lambda: at.moe_route(x, normal(3, 4), top_k=1, norm="half"),
        lambda: at.set_num_threads(0),
        lambda: at.names("neural"),
        lambda: at.info("none"),
        lambda: at.attention("none"),
        lambda: at.vjp(at.lorentz_attention, x, x, x),
        lambda: at.vjp(print),
        lambda: at.vjp(at.hyperbolic_attention, x, x, x, space="tangent"),
        lambda: at.vjp(at.k_winners, x, 2),
        lambda: at.MultiHeadAttention(10, 3),
        lambda: at.DiffAttention(10, 3),
        lambda: at.MoEAttention(4, 4, 2, top_k=3),
        lambda: at.MambaBlock(0),
        lambda: at.AttentionSelector([]),
        lambda: at.AttentionSelector(["flash"], policy="greedy"),
        lambda: at.AttentionSelector(["flash"]).update("flash", 1.5),
        lambda: at.AttentionSelector(["flash"]).update("linear", 0.5),
    ]
    for call in calls:
        with pytest.raises(at.ParameterError):
            call()


def test_errors_have_the_classes_that_callers_expect():
    for error in (at.ShapeError, at.ParameterError, at.GraphError, at.CycleError, at.GateSkipped):
        assert issubclass(error, sona.SonaError)
        assert issubclass(error, ValueError)
    assert issubclass(at.DTypeError, (sona.SonaError, TypeError))
    assert issubclass(at.ParameterError, sona.ConfigError)
    assert issubclass(at.CycleError, at.GraphError)
    assert at.ShapeError is sona.ShapeError
    assert at.CycleError("x", [1, 2]).cycle == [1, 2]


def test_results_are_named():
    assert at.AttentionOutput._fields == ("out", "lse", "weights")
    assert at.ScanOutput._fields == ("y", "state")
    assert at.RouteOutput._fields == ("index", "gate", "aux_loss", "z_loss")
    assert at.WorkspaceOutput._fields == ("out", "slots")
    assert at.WorkspaceItems._fields == ("keys", "salience")
    assert at.OrderParameter._fields == ("r", "psi")
    assert at.PredictiveStream._fields == ("prediction", "reconstruction", "sent")
    assert at.BTSPTrace._fields == ("weights", "eligibility", "instructive")
    assert at.MechanismInfo._fields == ("name", "kind", "source", "params", "complexity", "differentiable")
    x = normal(3, 4)
    got = at.flash_attention(x, x, x, return_lse=True)
    assert isinstance(got, at.AttentionOutput)
    assert got.weights is None
    assert got.lse.shape == (3,)
    both = at.scaled_dot_product_attention(x, x, x, return_lse=True, return_weights=True)
    assert (both.lse.shape, both.weights.shape) == ((3,), (3, 3))
    assert at.hyperbolic_attention(x, x, x, return_weights=True).lse is None


@each
def test_inputs_stay_as_they_were_and_results_own_their_memory(name):
    given = [0.2 * normal(5, 4) for _ in range(3)]
    copies = [x.copy() for x in given]
    for x in given:
        x.setflags(write=False)
    out = QKV[name](*given)
    out[:] = 0
    for x, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(x, copy)


@each
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_queries_no_keys_no_width(name, dtype):
    f = QKV[name]
    empty = normal(0, 4, dtype=dtype)
    if name != "local":
        out = f(normal(3, 4, dtype=dtype), empty, empty)
        assert out.shape == (3, 4)
        want = np.zeros((3, 4))
        want[:, 0] = name == "lorentz"
        np.testing.assert_array_equal(out, want)
        assert f(empty, normal(3, 4, dtype=dtype), normal(3, 2, dtype=dtype)).shape == (0, 2)
    assert f(empty, empty, empty).shape == (0, 4)
    assert f(normal(0, 3, 4), normal(0, 3, 4), normal(0, 3, 2)).shape == (0, 3, 2)


def test_scale_zero_is_the_mean():
    q, k, v = (normal(5, 4) for _ in range(3))
    for f in (at.scaled_dot_product_attention, at.flash_attention, at.linear_attention):
        np.testing.assert_allclose(f(q, k, v, scale=0.0), np.broadcast_to(v.mean(0), v.shape), rtol=1e-12)


def test_gil_is_released():
    x = normal(4, 6000, 64, dtype="float32")
    long = normal(20_000, 64)
    words = at.hdc_pack(rng.random((2000, 10_000)) < 0.5)
    narrow = normal(20_000, 16)
    many = normal(40_000, 500, dtype="float32")
    calls = {
        "flash": lambda: at.flash_attention(x, x, x),
        "local": lambda: at.local_global_attention(x, x, x, window=600),
        "scan": lambda: at.selective_scan(long, long, -np.ones((64, 16)), narrow, narrow),
        "similarity": lambda: at.hdc_similarity(words, words, dim=10_000),
        "winners": lambda: at.k_winners(many, 16),
    }
    for name, call in calls.items():
        ticks, done = 0, threading.Event()

        def run(call=call, done=done):
            call()
            done.set()

        worker = threading.Thread(target=run)
        worker.start()
        while not done.is_set():
            ticks += 1
            time.sleep(0.0002)
        worker.join()
        # Held for the whole call, the GIL would let this loop turn at most a few times (before and after).
        assert ticks > 3, name


def test_graph_layers_refuse_gradients_of_the_wrong_shape():
    x, edges = normal(6, 4, dtype="float32"), np.array([[0, 1, 2], [1, 2, 3]])
    for layer in (at.GATConv(4, 3, heads=2), at.GATv2Conv(4, 3), at.GCNConv(4, 3), at.SAGEConv(4, 3)):
        out = layer(x, edges)
        assert set(layer.backward(np.ones(out.shape))) == {"x", *layer.state_dict()}
        with pytest.raises(at.ShapeError, match=r"\(3, 9\)"):
            layer.backward(np.ones((3, 9)))


ROW = np.ones((4, 3))
MAPS = np.ones((4, 2))
SCAN = {"u": ROW, "delta": ROW, "A": -np.ones((3, 2)), "B": MAPS, "C": MAPS}
DUAL = {"x": np.ones((4, 2, 3)), "dt": np.ones((4, 2)), "A": -np.ones(2), "B": np.ones((4, 1, 2)), "C": np.ones((4, 1, 2))}


@pytest.mark.parametrize(("scan", "given"), [(at.selective_scan, SCAN), (at.ssd, DUAL)])
def test_an_operand_that_is_missing_is_named(scan, given):
    for name in given:
        with pytest.raises(at.DTypeError, match=f"^{name}: .* got None"):
            scan(**{**given, name: None})


@pytest.mark.parametrize(
    "call",
    [
        lambda n: at.random_features(4, n),
        lambda n: at.random_features(n, 4),
        lambda n: at.linear_attention(ROW, ROW, ROW, features=n),
        lambda n: at.layouts.fixed(n, block=2, context=4),
        lambda n: at.layouts.bigbird(n, block=2),
        lambda n: at.hdc_encode(ROW, dim=n),
        lambda n: at.sample_neighbors([[0], [1]], [0], [1], num_nodes=n),
        lambda n: at.MultiHeadAttention(n, 1),
        lambda n: at.MoEAttention(8, 4, n),
        lambda n: at.DiffAttention(n, 1),
        lambda n: at.MambaBlock(4, d_conv=n),
        lambda n: at.MambaBlock(4, expand=n),
        lambda n: at.dag_hierarchical_lorentz(at.Dag(3, [[0, 1]]), step=n),
    ],
)
def test_sizes_beyond_memory_are_errors(call):
    for size in (10**9, 10**18):
        with pytest.raises(at.ParameterError):
            call(size)
