"""Products of features that are mostly zeros: the same as those of all numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona import _core
from sona.attention import gcn_conv


def bags(n: int, d: int, share: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random((n, d)) < share, rng.normal(size=(n, d)), -0.0).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(16, 300),
    d=st.integers(16, 700),
    m=st.integers(16, 70),
    share=st.sampled_from([0.0, 0.01, 0.03, 0.04, 1.0]),
    seed=st.integers(0, 9),
)
def test_products_are_those_of_all_numbers(n: int, d: int, m: int, share: float, seed: int) -> None:
    x, w = bags(n, d, share, seed), np.random.default_rng(seed + 1).normal(size=(m, d)).astype(np.float32)
    out = _core.rows_by_rows(x, w)
    if out is None:
        # Few numbers, or neither sparse nor a processor with tiles: numpy's part.
        assert n * m * d < 1 << 18 or share >= 0.03 or np.count_nonzero(x) > x.size / 40
        return
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    bound = 1e-5 * (np.abs(x).astype(np.float64) @ np.abs(w).T.astype(np.float64)) + 1e-30
    assert (np.abs(out - exact) <= bound).all()


def test_dense_rows_after_sparse_ones() -> None:
    x = bags(3000, 200, 0.01)
    x[2500:] = np.random.default_rng(3).normal(size=(500, 200))
    w = np.random.default_rng(4).normal(size=(32, 200)).astype(np.float32)
    out = _core.rows_by_rows(x, w)
    np.testing.assert_allclose(x @ w.T if out is None else out, x @ w.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_goes_where_it_would(bad: float) -> None:
    x, w = bags(256, 512, 0.01), np.random.default_rng(5).normal(size=(32, 512)).astype(np.float32)
    x[7, 100] = bad
    edges = np.empty((2, 0), dtype=np.int64)
    with np.errstate(invalid="ignore"):
        out = np.asarray(gcn_conv(x, edges, w))
        np.testing.assert_array_equal(np.isfinite(out), np.isfinite(x @ w.T))
    # A weight that is not finite meets zeros too.
    x[7, 100], w[3, 50] = 0.0, bad
    with np.errstate(invalid="ignore"):
        out = np.asarray(gcn_conv(x, edges, w))
        np.testing.assert_array_equal(np.isnan(out), np.isnan(x @ w.T))
