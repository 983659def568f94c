"""The optimisers against PyTorch's formulas, and clipping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch, NotFiniteError
from sona.lora import SGD, Adagrad, AdamW, clip_by_norm


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def reference(name, w, grads, lr=0.05, mu=0.0, wd=0.0, eps=1e-10, betas=(0.9, 0.999)):
    """PyTorch's formulas in float64."""
    w, m, v = w.astype(np.float64), 0.0, 0.0
    for t, g in enumerate(grads.astype(np.float64), start=1):
        if name == "SGD":
            g = g + wd * w
            m = g if t == 1 else mu * m + g
            w = w - lr * m
        elif name == "Adagrad":
            v = v + g * g
            w = w - lr * g / (np.sqrt(v) + eps)
        else:
            w = w * (1 - lr * wd)
            m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
            w = w - lr / (1 - betas[0] ** t) * m / (np.sqrt(v) / np.sqrt(1 - betas[1] ** t) + 1e-8)
    return w


class TestOptimisers:
    @settings(max_examples=30, deadline=None)
    @given(n=st.integers(1, 50), steps=st.integers(1, 15), seed=st.integers(0, 99), wd=st.floats(0, 0.5))
    def test_follow_pytorch(self, n, steps, seed, wd):
        w0, grads = draw(seed, n), draw(seed + 1, steps, n)
        for name, make, kwargs in (
            ("SGD", lambda: SGD(n, lr=0.05, momentum=0.8, weight_decay=wd), {"mu": 0.8, "wd": wd}),
            ("SGD", lambda: SGD(n, lr=0.05, weight_decay=wd), {"wd": wd}),
            ("Adagrad", lambda: Adagrad(n, lr=0.05), {}),
            ("AdamW", lambda: AdamW(n, lr=0.05, betas=(0.8, 0.95), weight_decay=wd), {"wd": wd, "betas": (0.8, 0.95)}),
        ):
            optimizer, w = make(), w0
            for i, g in enumerate(grads):
                if i == steps // 2:
                    optimizer = type(optimizer).from_bytes(optimizer.to_bytes())
                w = optimizer.step(w, g)
            np.testing.assert_allclose(w, reference(name, w0, grads, **kwargs), rtol=2e-4, atol=2e-5)
            assert optimizer.metrics()["steps"] == steps

    @pytest.mark.parametrize("make", [SGD, Adagrad, AdamW])
    def test_step_leaves_its_arguments_and_reset_forgets(self, make):
        optimizer, w, g = make(4), draw(0, 4), draw(1, 4)
        first = optimizer.step(w, g)
        np.testing.assert_array_equal(w, draw(0, 4))
        optimizer.step(w, g)
        optimizer.reset()
        np.testing.assert_array_equal(optimizer.step(w, g), first)
        assert make.__name__ in repr(optimizer)

    @pytest.mark.parametrize(
        "call",
        [
            lambda: SGD(0),
            lambda: SGD(3, lr=-1.0),
            lambda: SGD(3, momentum=1.0),
            lambda: SGD(3, weight_decay=np.nan),
            lambda: Adagrad(3, eps=-1.0),
            lambda: AdamW(3, betas=(0.9, 1.0)),
            lambda: AdamW(-3),
        ],
    )
    def test_bad_configurations(self, call):
        with pytest.raises(ConfigError):
            call()

    def test_bad_input(self):
        optimizer = AdamW(3)
        with pytest.raises(DimensionMismatch):
            optimizer.step(np.ones(4), np.ones(4))
        with pytest.raises(NotFiniteError):
            optimizer.step(np.ones(3), [1.0, np.nan, 1.0])
        assert optimizer.metrics()["steps"] == 0
        with pytest.raises(CorruptStateError):
            SGD.from_bytes(optimizer.to_bytes())
        with pytest.raises(CorruptStateError):
            AdamW.from_bytes(b"")

    def test_clip_by_norm(self):
        g = draw(0, 2, 3)
        np.testing.assert_allclose(np.linalg.norm(clip_by_norm(g, 0.5)), 0.5, rtol=1e-6)
        np.testing.assert_array_equal(clip_by_norm(g, 100.0), g)
        assert clip_by_norm(g, 0.5).shape == (2, 3)
        assert not clip_by_norm(np.zeros(3), 1.0).any()
        assert clip_by_norm(np.zeros(0), 1.0).shape == (0,)
        with pytest.raises(ValueError, match="max_norm"):
            clip_by_norm(g, -1.0)
        with pytest.raises(NotFiniteError):
            clip_by_norm([np.nan], 1.0)
