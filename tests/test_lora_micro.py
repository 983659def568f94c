"""The fast adapter: exactness, errors, state, threads."""

from __future__ import annotations

import copy
import pickle
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_samples import draw, signal, trained
from sona.exceptions import CorruptStateError, DimensionMismatch, NotFiniteError, ShapeError
from sona.lora import MicroLoRA


class Subclass(np.ndarray):
    """What a fast path must not mistake for a plain array."""


class TestForward:
    @settings(max_examples=40, deadline=None)
    @given(d=st.integers(1, 70), rank=st.integers(1, 2), n=st.integers(0, 5), seed=st.integers(0, 99))
    def test_follows_the_definition_and_batches_equal_single_calls(self, d, rank, n, seed):
        lora = trained(d, rank, seed, scale=0.7)
        A, B, x = lora.A.astype(np.float64), lora.B.astype(np.float64), draw(seed + 2, n, d)
        want = x + 0.7 * x @ A.T @ B.T
        y, delta = lora.forward(x), lora.delta(x)
        assert y.dtype == np.float32
        assert y.flags.c_contiguous
        np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(delta, want - x, rtol=1e-4, atol=1e-4)
        for i in range(n):
            np.testing.assert_array_equal(lora.forward(x[i]), y[i])
            np.testing.assert_array_equal(lora.delta(x[i]), delta[i])

    def test_untrained_is_the_identity_bit_for_bit(self):
        x = np.array([-0.0, 0.0, 1e-42, -3.4e38, 1.5], np.float32)
        for y in (MicroLoRA(5).forward(x), MicroLoRA(5, 1).forward(x[None])[0]):
            assert y.tobytes() == x.tobytes()
        assert not MicroLoRA(5).delta(x).any()

    def test_large_batches_run_detached_with_the_same_result(self):
        lora, x = trained(256), draw(5, 4200, 256)
        y, out = lora.forward(x), np.empty_like(x)
        assert lora.forward(x, out) is out
        np.testing.assert_array_equal(out, y)
        np.testing.assert_array_equal(y[:50], lora.forward(x[:50]))
        np.testing.assert_array_equal(lora.delta(x)[-50:], lora.delta(x[-50:]))
        x[4000, 7] = np.nan
        with pytest.raises(NotFiniteError, match=str(4000 * 256 + 7)):
            lora.forward(x)

    @pytest.mark.parametrize(
        "convert",
        [
            list,
            lambda x: x.astype(np.float64),
            lambda x: np.repeat(x, 2)[::2],
            lambda x: x.astype(">f4"),
            lambda x: x.view(Subclass),
        ],
    )
    def test_anything_that_asarray_takes(self, convert):
        lora, x = trained(6), draw(3, 6)
        y = lora.forward(convert(x))
        assert type(y) is np.ndarray
        np.testing.assert_array_equal(y, lora.forward(x))

    def test_unaligned_memory(self):
        raw = np.zeros(6 * 4 + 1, np.uint8)
        x = raw[1:].view(np.float32)
        x[:] = draw(3, 6)
        np.testing.assert_array_equal(trained(6).forward(x), trained(6).forward(x.copy()))

    def test_out(self):
        lora, x = trained(8), draw(3, 2, 8)
        want = lora.forward(x)
        for call in (lora.forward, lora.delta):
            out = np.empty_like(x)
            assert call(x, out=out) is out
            np.testing.assert_array_equal(out, call(x))
        same = x.copy()
        assert lora.forward(same, out=same) is same
        np.testing.assert_array_equal(same, want)
        # Overlapping memory: the input is read before it is overwritten.
        both = np.concatenate([x, x])
        lora.forward(both[:2], out=both[1:3])
        np.testing.assert_array_equal(both[1:3], want)

    @pytest.mark.parametrize(
        "out",
        [
            np.empty((2, 7), np.float32),
            np.empty((1, 2, 8), np.float32),
            np.empty(16, np.float32),
            np.empty((2, 8), np.float64),
            np.empty((2, 16), np.float32)[:, ::2],
            np.empty((8, 2), np.float32).T,
            [[0.0] * 8] * 2,
        ],
    )
    def test_bad_out(self, out):
        with pytest.raises(ShapeError, match="out"):
            trained(8).forward(draw(3, 2, 8), out=out)

    def test_a_read_only_out_stays_as_it_is(self):
        out = np.zeros((2, 8), np.float32)
        out.flags.writeable = False
        with pytest.raises(ShapeError, match="read-only"):
            trained(8).forward(draw(3, 2, 8), out=out)
        assert not out.any()

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("make", [MicroLoRA, trained])
    def test_not_finite(self, value, make):
        lora = make(40)
        for at in (0, 17, 39):
            x, out = draw(0, 40), np.full(40, 7.0, np.float32)
            x[at] = value
            for call in (lora.forward, lora.delta):
                with pytest.raises(NotFiniteError, match=f"index {at} "):
                    call(x, out=out)
            assert np.all(out == 7.0)

    @pytest.mark.parametrize(
        ("x", "error"),
        [
            (np.zeros(9), DimensionMismatch),
            (np.zeros((2, 9)), DimensionMismatch),
            (np.zeros(0), DimensionMismatch),
            (np.zeros((2, 2, 8)), ShapeError),
            (np.float32(1), ShapeError),
            (1.0, ShapeError),
            ("text", ShapeError),
            (None, ShapeError),
        ],
    )
    def test_bad_shapes(self, x, error):
        with pytest.raises(error, match="x"):
            trained(8).forward(x)


class TestGradients:
    @settings(max_examples=25, deadline=None)
    @given(d=st.integers(1, 12), rank=st.integers(1, 2), n=st.integers(1, 4), seed=st.integers(0, 99))
    def test_equal_finite_differences_in_float64(self, d, rank, n, seed):
        lora = trained(d, rank, seed)
        s, A, B = lora.scale, lora.A.astype(np.float64), lora.B.astype(np.float64)
        x, g = draw(seed + 2, n, d).astype(np.float64), draw(seed + 3, n, d).astype(np.float64)

        def loss(A, B, x):
            return (g * (x + s * x @ A.T @ B.T)).sum()

        def numeric(at):
            grad, h = np.empty(at.shape), 1e-4
            for i in np.ndindex(at.shape):
                at[i] += h
                up = loss(A, B, x)
                at[i] -= 2 * h
                grad[i] = (up - loss(A, B, x)) / (2 * h)
                at[i] += h
            return grad

        for got, at in zip(lora.gradients(x, g), (A, B, x), strict=True):
            np.testing.assert_allclose(got, numeric(at), rtol=1e-3, atol=1e-3)

    def test_shapes(self):
        lora = trained(8)
        dA, dB, dx = lora.gradients(draw(0, 8), draw(1, 8))
        assert (dA.shape, dB.shape, dx.shape) == ((2, 8), (8, 2), (8,))
        with pytest.raises(DimensionMismatch):
            lora.gradients(draw(0, 2, 8), draw(1, 3, 8))
        with pytest.raises(DimensionMismatch):
            lora.gradients(draw(0, 8), draw(1, 7))
        with pytest.raises(NotFiniteError):
            lora.gradients(draw(0, 8), draw(1, 8) * np.nan)


class TestState:
    @pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adamw"])
    @pytest.mark.parametrize("again", [lambda x: MicroLoRA.from_bytes(x.to_bytes()), copy.deepcopy])
    def test_save_load_continue_equals_never_stopping(self, optimizer, again):
        a, b = (MicroLoRA(9, optimizer=optimizer, learning_rate=0.5) for _ in range(2))
        for i in range(300):
            for lora in (a, b):
                lora.accumulate_gradient(signal(i, 9))
                if i % 3 == 0:
                    lora.apply_accumulated()
            if i % 37 == 5:
                b = again(b)
        assert a.to_bytes() == b.to_bytes()
        assert a.metrics() == b.metrics()

    def test_damaged_bytes_are_refused(self):
        data = trained(5).to_bytes()
        for bad in (b"", data[:-1], data[:30], bytes([data[0] ^ 1]) + data[1:], data + b"\0"):
            with pytest.raises(CorruptStateError):
                MicroLoRA.from_bytes(bad)
        from sona.lora import BaseLoRA

        with pytest.raises(CorruptStateError, match="BLRA"):
            MicroLoRA.from_bytes(BaseLoRA(5).to_bytes())

    def test_pickle_and_repr(self):
        lora = pickle.loads(pickle.dumps(trained(5)))  # noqa: S301
        np.testing.assert_array_equal(lora.A, trained(5).A)
        assert repr(lora) == "MicroLoRA(hidden_dim=5, rank=2, optimizer='adamw', pending=0)"

    def test_memory_is_flat_once_the_queries_are_full(self):
        lora = MicroLoRA(8)
        sizes = []
        for i in range(600):
            lora.accumulate_gradient(signal(i, 8))
            sizes.append(lora.nbytes)
        assert sizes[260] == sizes[-1]
        assert len(lora.to_bytes()) < 2 * sizes[-1]


def test_readers_never_see_half_a_step():
    d = 512
    lora = MicroLoRA(d, 1, trust_region=None)
    x = np.zeros(d, np.float32)
    x[0] = 1.0
    # Every published pair has A = B = k, so y - x is k² everywhere; a torn read would mix two values.
    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            delta = lora.delta(x)
            if (delta != delta[0]).any():
                torn.append(delta)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for t in readers:
        t.start()
    for k in range(1, 1500):
        lora.set_factors(np.full((1, d), k), np.full((d, 1), k))
    stop.set()
    for t in readers:
        t.join(60)
        assert not t.is_alive()
    assert not torn


def test_concurrent_writers_lose_no_signal():
    lora = MicroLoRA(16)
    applied = []

    def work(seed):
        for i in range(300):
            lora.accumulate_gradient(signal(seed * 1000 + i, 16))
            if i % 7 == 0:
                applied.append(lora.apply_accumulated().count)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
        assert not t.is_alive()
    applied.append(lora.apply_accumulated().count)
    assert sum(applied) == lora.metrics()["accumulated"] == 1200
