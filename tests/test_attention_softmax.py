"""Properties of softmax attention: dense, by tiles, windows, blocks, differences of two maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sona.attention as at
from sona.attention import layouts

DTYPES = ["float32", "float64"]
LENGTHS = [0, 1, 2, 63, 64, 65, 100, 257]
WIDTHS = [1, 3, 8, 64, 80, 128]


def exact(q, k, v, mask=None, causal=False, scale=None):
    """Written out in float64."""
    q, k, v = (np.asarray(x, dtype=np.float64) for x in (q, k, v))
    s = q @ np.swapaxes(k, -1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    if causal:
        offset = k.shape[-2] - q.shape[-2] if causal == "bottom_right" else 0
        s = np.where(np.arange(s.shape[-1]) <= np.arange(s.shape[-2])[:, None] + offset, s, -np.inf)
    if s.shape[-1] == 0:
        return np.zeros((*s.shape[:-1], v.shape[-1]))
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - np.where(np.isfinite(top), top, 0))
    total = e.sum(axis=-1, keepdims=True)
    return e / np.where(total == 0, 1, total) @ v


def close(got, want, m):
    tol = 2e-6 * max(m, 1) ** 0.5 if got.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(got, want, rtol=tol, atol=tol)


def three(rng, n, m, d, dv, dtype="float64"):
    return (rng.normal(size=s).astype(dtype) for s in ((n, d), (m, d), (m, dv)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", LENGTHS)
def test_all_lengths(n, dtype):
    rng = np.random.default_rng(n)
    for m in (0, 1, 64, 65, 257):
        q, k, v = three(rng, n, m, 8, 5, dtype)
        for causal in (False, True, "bottom_right"):
            close(at.flash_attention(q, k, v, causal=causal), exact(q, k, v, causal=causal), m)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", WIDTHS)
def test_all_widths(d, dtype):
    rng = np.random.default_rng(d)
    for n, dv in ((1, d), (65, 1), (65, d + 1)):
        q, k, v = three(rng, n, 100, d, dv, dtype)
        close(at.scaled_dot_product_attention(q, k, v), exact(q, k, v), 100)


@pytest.mark.parametrize("dtype", DTYPES)
def test_huge_and_tiny_logits(dtype):
    rng = np.random.default_rng(0)
    q, k, v = three(rng, 20, 70, 4, 3, dtype)
    for factor in (1e4, 1e-30, 1e-42):
        got = at.scaled_dot_product_attention(q * np.asarray(factor, dtype), k, v)
        assert np.isfinite(got).all()
        close(got, exact(q * np.asarray(factor, dtype), k, v), 1e4 if factor == 1e4 else 70)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 9), st.sampled_from(DTYPES), st.data())
@settings(max_examples=60, deadline=None)
def test_masks_orders_and_broadcasting(seed, n, m, dtype, data):
    rng = np.random.default_rng(seed)
    lead = data.draw(st.sampled_from([(), (2,), (3, 2)]))
    q = rng.normal(size=(*lead, n, 3)).astype(dtype)
    k = rng.normal(size=(*data.draw(st.sampled_from([(), lead])), m, 3)).astype(dtype)
    v = rng.normal(size=(*data.draw(st.sampled_from([(), lead])), m, 2)).astype(dtype)
    shape = data.draw(st.sampled_from([(n, m), (1, m), (n, 1), (m,), (*lead, n, m)]))
    mask = rng.random(shape) < 0.6
    if data.draw(st.booleans()):
        mask = np.where(mask, rng.normal(size=shape), -np.inf).astype(dtype)
    causal = data.draw(st.sampled_from([False, True, "bottom_right"]))
    got = at.scaled_dot_product_attention(q, k, v, mask, causal=causal, return_lse=True, return_weights=True)
    close(got.out, exact(q, k, v, mask, causal), m)
    total = got.weights.sum(axis=-1)
    empty = np.isneginf(got.lse)
    np.testing.assert_array_equal(total[empty], 0)
    np.testing.assert_allclose(total[~empty], 1, rtol=1e-5)
    np.testing.assert_array_equal(got.out[empty], 0)


def test_a_mask_drops_keys():
    rng = np.random.default_rng(0)
    q, k, v = three(rng, 7, 300, 4, 3)
    kept = rng.random(300) < 0.5
    want = at.flash_attention(q, k[kept], v[kept])
    np.testing.assert_allclose(at.flash_attention(q, k, v, kept), want, rtol=1e-12)
    np.testing.assert_allclose(at.flash_attention(q, k, v, np.where(kept, 0.0, -np.inf)), want, rtol=1e-12)


def test_tile_sizes_change_rounding_only():
    rng = np.random.default_rng(0)
    q, k, v = three(rng, 100, 257, 8, 5)
    want = at.flash_attention(q, k, v, causal="bottom_right")
    for block_q, block_k in ((1, 1), (7, 3), (64, 64), (1000, 1000)):
        got = at.flash_attention(q, k, v, causal="bottom_right", block_q=block_q, block_k=block_k)
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-13)


@pytest.fixture
def threads():
    before = at.get_num_threads()
    yield at.set_num_threads
    at.set_num_threads(before)


def mechanisms(n):
    """Every causal function of q, k, v of equal length."""
    layout = layouts.strided(n, block=16, context=32)
    return {
        "dense": lambda q, k, v: at.scaled_dot_product_attention(q, k, v, causal=True),
        "flash": lambda q, k, v: at.flash_attention(q, k, v, causal="bottom_right", block_k=32),
        "local": lambda q, k, v: at.local_global_attention(q, k, v, window=5, global_idx=[1, n // 2], causal=True),
        "blocks": lambda q, k, v: at.block_sparse_attention(q, k, v, layout, block=16),
        "differential": lambda q, k, v: at.differential_attention(q, k, k, q, v, 0.4, causal=True),
        "hyperbolic": lambda q, k, v: at.hyperbolic_attention(0.1 * q, 0.1 * k, 0.1 * v, causal=True),
        "frechet": lambda q, k, v: at.hyperbolic_attention(0.1 * q, 0.1 * k, 0.1 * v, causal=True, aggregate="frechet"),
        "lorentz": lambda q, k, v: at.lorentz_attention(*(on_hyperboloid(x) for x in (q, k, v)), causal=True),
        "favor+": lambda q, k, v: at.linear_attention(q, k, v, causal=True),
        "elu": lambda q, k, v: at.linear_attention(q, k, v, causal=True, kernel="elu"),
        "relu": lambda q, k, v: at.linear_attention(q, k, v, causal=True, kernel="relu", eps=0.01),
        "scan": lambda q, k, v: at.selective_scan(v, q[:, :3], -np.ones((3, 4), q.dtype), q[:, :4], k[:, :4]).y,
        "ssd": lambda q, k, v: at.ssd(v[:, :, None], np.exp(q[:, :3]), -np.ones(3, q.dtype), q[:, None], k[:, None]).y[..., 0],
    }


def on_hyperboloid(x):
    return np.concatenate([np.sqrt(1 + (x * x).sum(-1, keepdims=True)), x], axis=-1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", mechanisms(8))
def test_the_future_changes_nothing(name, dtype):
    n, rng = 130, np.random.default_rng(0)
    f = mechanisms(n)[name]
    q, k, v = three(rng, n, n, 8, 3, dtype)
    base = f(q, k, v)
    for at_token in (1, 64, 100):
        later = []
        for x in (q, k, v):
            x = x.copy()
            x[at_token:] = 3 * rng.normal(size=x[at_token:].shape)
            later.append(x)
        # Identical to the bit.
        np.testing.assert_array_equal(f(*later)[:at_token], base[:at_token])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", mechanisms(8))
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_reaches_the_rows_that_attend_it(name, dtype, which):
    n, token, rng = 130, 70, np.random.default_rng(0)
    f = mechanisms(n)[name]
    operands = list(three(rng, n, n, 8, 3, dtype))
    base = f(*operands)
    operands[which][token] = np.nan
    got = f(*operands)
    np.testing.assert_array_equal(got[:token], base[:token])
    assert np.isnan(got[token]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_a_bit(threads, dtype):
    n, rng = 130, np.random.default_rng(0)
    q, k, v = (rng.normal(size=(6, 400, 64)).astype(dtype) for _ in range(3))
    small = list(three(rng, n, n, 8, 3, dtype))
    results = []
    for count in (1, 2, 3):
        threads(count)
        assert at.get_num_threads() == count
        out, pullback = at.vjp(at.flash_attention, q, k, v, causal=True)
        wide = at.local_global_attention(q, k, v, window=100, global_idx=3)
        results.append([out, *pullback(out).values(), wide, *(f(*small) for f in mechanisms(n).values())])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("seed", range(3))
def test_order_of_tokens_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    q, k, v = three(rng, 20, 70, 4, 4)
    queries, keys = rng.permutation(20), rng.permutation(70)
    small = (0.2 * q, 0.2 * k, 0.2 * v)
    calls = [
        (at.scaled_dot_product_attention, (q, k, v), {}),
        (at.linear_attention, (q, k, v), {}),
        (at.linear_attention, (q, k, v), {"kernel": "elu"}),
        (at.hyperbolic_attention, small, {}),
        (at.lorentz_attention, tuple(on_hyperboloid(x) for x in (q, k, v)), {}),
        (lambda q, k, v: at.hopfield_retrieve(q, k, v, steps=3), (q, k, v), {}),
    ]
    for f, (a, b, c), kwargs in calls:
        np.testing.assert_allclose(f(a[queries], b[keys], c[keys], **kwargs), f(a, b, c, **kwargs)[queries], atol=1e-11)


@given(st.integers(0, 2**32 - 1), st.integers(1, 150), st.integers(0, 20), st.booleans())
@settings(max_examples=40, deadline=None)
def test_windows_equal_a_mask(seed, n, window, causal):
    rng = np.random.default_rng(seed)
    q, k, v = three(rng, n, n, 4, 3)
    tokens = rng.integers(0, n, size=rng.integers(0, 4))
    i, j = np.arange(n)[:, None], np.arange(n)
    mask = (np.abs(i - j) <= window) | np.isin(i, tokens) | np.isin(j, tokens)
    got = at.local_global_attention(q, k, v, window=window, global_idx=tokens, causal=causal)
    close(got, exact(q, k, v, mask, causal), n)
    twice = np.concatenate([tokens, tokens])
    np.testing.assert_array_equal(got, at.local_global_attention(q, k, v, window=window, global_idx=twice, causal=causal))


@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.sampled_from([1, 3, 16, 64]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_blocks_equal_a_mask(seed, n, block, causal):
    rng = np.random.default_rng(seed)
    q, k, v = (rng.normal(size=(2, n, 4)) for _ in range(3))
    nb = -(-n // block)
    layout = rng.random((2, nb, nb)) < 0.4
    mask = layout.repeat(block, axis=1).repeat(block, axis=2)[:, :n, :n]
    close(at.block_sparse_attention(q, k, v, layout, block=block, causal=causal), exact(q, k, v, mask, causal), n)


def test_layouts():
    n, block, context = 130, 8, 32
    nb, s = 17, 4
    r, c = np.arange(nb)[:, None], np.arange(nb)
    past = c <= r
    want = past & ((r // s == c // s) | (c % s >= s - 2))
    np.testing.assert_array_equal(layouts.fixed(n, block=block, context=context, columns=2), want)
    np.testing.assert_array_equal(layouts.local(n, block=block, context=context), past & (r - c <= s))
    np.testing.assert_array_equal(layouts.strided(n, block=block, context=context), past & ((r - c < s) | ((r - c) % s == 0)))
    big = layouts.bigbird(n, block=block, window=3, num_global=2, num_random=3, seed=5)
    base = (np.abs(r - c) <= 1) | (r < 2) | (c < 2)
    assert big[base].all()
    np.testing.assert_array_equal((big & ~base).sum(axis=1)[2:], 3)
    np.testing.assert_array_equal(big, layouts.bigbird(n, block=block, window=3, num_global=2, num_random=3, seed=5))


def test_rows_of_a_differential_map_sum_to_one_minus_lambda():
    rng = np.random.default_rng(0)
    q, k, _ = three(rng, 9, 30, 4, 4)
    lam = np.array([0.0, 0.3, 1.4])
    ones = np.ones((3, 30, 1))
    got = at.differential_attention(*(np.broadcast_to(x, (3, *x.shape)) for x in (q, k, q[::-1], k)), ones, lam)
    np.testing.assert_allclose(got[..., 0], np.broadcast_to(1 - lam[:, None], (3, 9)), rtol=1e-12, atol=1e-12)


def test_grouped_queries_read_their_head():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(2, 6, 5, 4)), rng.normal(size=(2, 2, 7, 4)), rng.normal(size=(2, 2, 7, 3))
    want = at.flash_attention(q, k.repeat(3, axis=1), v.repeat(3, axis=1))
    np.testing.assert_array_equal(at.flash_attention(q, k, v, enable_gqa=True), want)
