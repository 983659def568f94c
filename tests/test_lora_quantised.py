"""Quantisation and PEFT files: error bounds, exchange with safetensors, hostile files."""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sona.exceptions import (
    ConfigError,
    CorruptStateError,
    DimensionMismatch,
    NotFiniteError,
    ShapeError,
    StoreError,
)
from sona.lora import (
    NF4_CODE,
    BaseLoRA,
    MicroLoRA,
    QAMicroLoRA,
    QuantizedMicroLoRA,
    dequantize_nf4,
    dequantize_symmetric,
    export_peft,
    load_peft,
    quantize_affine,
    quantize_nf4,
    quantize_symmetric,
)

floats = st.floats(-100, 100, width=32)


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trained(d=256, rank=2):
    lora = MicroLoRA(d, rank)
    lora.set_factors(draw(0, rank, d) / np.sqrt(d), 0.3 * draw(1, d, rank))
    return lora


@settings(max_examples=60, deadline=None)
@given(
    w=hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), elements=floats),
    bits=st.sampled_from([4, 8]),
    data=st.data(),
)
def test_symmetric_follows_its_definition(w, bits, data):
    axis = data.draw(st.integers(-w.ndim, w.ndim - 1))
    others = tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    top = 2 ** (bits - 1) - 1
    largest = np.abs(w).max(axis=others).astype(np.float32)
    scale = np.where(largest / np.float32(top) > 0, largest / np.float32(top), np.float32(1))
    q, got = quantize_symmetric(w, bits, axis=axis)
    assert (q.dtype, got.dtype, q.shape, got.shape) == (np.int8, np.float32, w.shape, scale.shape)
    np.testing.assert_array_equal(got, scale)
    shape = [1] * w.ndim
    shape[axis] = -1
    want = np.clip(np.rint(w / scale.reshape(shape).astype(np.float32)), -top - 1, top)
    np.testing.assert_array_equal(q, want)
    back = dequantize_symmetric(q, got, axis=axis)
    assert (np.abs(back - w) <= 0.501 * scale.reshape(shape)).all()


@settings(max_examples=40, deadline=None)
@given(w=hnp.arrays(np.float32, st.integers(1, 40), elements=floats))
def test_affine_follows_its_definition(w):
    q, scale, zero = quantize_affine(w)
    lo, hi = float(w.min()), float(w.max())
    want = (hi - lo) / 255 or 1.0
    assert scale == pytest.approx(want, rel=1e-12)
    assert isinstance(zero, int)
    assert zero == np.clip(np.rint(-lo / want), 0, 255)
    np.testing.assert_array_equal(q, np.clip(np.rint(w.astype(np.float64) / want) + zero, 0, 255))


@settings(max_examples=40, deadline=None)
@given(x=hnp.arrays(np.float32, st.integers(0, 40), elements=floats), block=st.integers(1, 9))
def test_nf4_takes_the_nearest_value(x, block):
    codes, absmax = quantize_nf4(x, block=block)
    assert (codes.dtype, codes.shape, absmax.shape) == (np.uint8, x.shape, (-(-len(x) // block),))
    back = dequantize_nf4(codes, absmax, block=block)
    per = np.repeat(absmax, block)[: len(x)]
    if len(x):
        nearest = np.abs(NF4_CODE[None] * per[:, None] - x[:, None]).min(axis=1)
        np.testing.assert_allclose(np.abs(back - x), nearest, atol=1e-5 * max(1, per.max()))


def test_the_code_is_constant():
    assert not NF4_CODE.flags.writeable
    assert len(NF4_CODE) == 16
    assert (np.diff(NF4_CODE) > 0).all()


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ValueError, lambda: quantize_symmetric(np.ones((2, 2)), 5)),
        (ValueError, lambda: quantize_symmetric(np.ones((2, 2)), 8, axis=2)),
        (NotFiniteError, lambda: quantize_symmetric([np.nan])),
        (ShapeError, lambda: quantize_symmetric(1.0)),
        (DimensionMismatch, lambda: dequantize_symmetric(np.ones((2, 2), np.int8), [1.0])),
        (ValueError, lambda: dequantize_symmetric([300.0], [1.0])),
        (NotFiniteError, lambda: quantize_affine([np.inf])),
        (ValueError, lambda: quantize_nf4([1.0], block=0)),
        (ValueError, lambda: quantize_nf4([1.0], block=-1)),
        (ValueError, lambda: dequantize_nf4([16], [1.0])),
        (DimensionMismatch, lambda: dequantize_nf4([1, 2], [1.0], block=1)),
        (ConfigError, lambda: QuantizedMicroLoRA(MicroLoRA(4), bits=3)),
        (ConfigError, lambda: QuantizedMicroLoRA(MicroLoRA(4), bits=-8)),
        (ConfigError, lambda: QuantizedMicroLoRA(MicroLoRA(4), bits=8, scheme="nf4")),
        (ConfigError, lambda: QuantizedMicroLoRA(MicroLoRA(4), scheme="affine")),
        (ConfigError, lambda: QuantizedMicroLoRA(MicroLoRA(4), bits=4, scheme="nf4", block=0)),
        (TypeError, lambda: QuantizedMicroLoRA(BaseLoRA(4))),
        (DimensionMismatch, lambda: QuantizedMicroLoRA(MicroLoRA(4)).forward(np.ones(5))),
        (NotFiniteError, lambda: QuantizedMicroLoRA(MicroLoRA(4)).forward(np.full(4, np.nan))),
    ],
)
def test_bad_input(error, call):
    with pytest.raises(error):
        call()


@pytest.mark.parametrize(("bits", "scheme"), [(8, "symmetric"), (4, "symmetric"), (4, "nf4")])
class TestQuantisedAdapter:
    def test_rankings_hardly_change(self, bits, scheme):
        # Items scattered around the adapted queries; the gate allows 0.2 % (int8) and 1 % (4 bits) of the MRR.
        lora, queries = trained(), draw(2, 500, 256)
        items = lora.forward(queries) + 6 * draw(3, 500, 256)
        items /= np.linalg.norm(items, axis=1, keepdims=True)

        def mrr(y):
            scores = y @ items.T
            return (1 / ((scores > np.diag(scores)[:, None]).sum(axis=1) + 1)).mean()

        full = mrr(lora.forward(queries))
        assert 0.2 < full < 0.95
        small = QuantizedMicroLoRA(lora, bits=bits, scheme=scheme)
        assert mrr(small.forward(queries)) >= full * (0.998 if bits == 8 else 0.99)
        assert mrr(queries) < full, "the adapter must matter"

    def test_forward_equals_its_own_factors(self, bits, scheme):
        lora = trained(33)
        small = QAMicroLoRA(lora, bits=bits, scheme=scheme, block=16)
        own, x = trained(33), draw(5, 7, 33)
        own.set_factors(*small.dequantize())
        np.testing.assert_allclose(small.forward(x), own.forward(x), rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(small.forward(x[2]), small.forward(x)[2])
        for got, want in zip(small.gradients(x, x), own.gradients(x, x), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)

    def test_untrained_is_the_identity(self, bits, scheme):
        x = draw(5, 40_000, 8)
        x[0, 0] = -0.0
        assert QuantizedMicroLoRA(MicroLoRA(8), bits=bits, scheme=scheme).forward(x).tobytes() == x.tobytes()

    def test_straight_through_training_lowers_the_loss_of_the_quantised_adapter(self, bits, scheme):
        # Full-precision factors take the gradients of the quantised ones.
        d, x, target = 24, draw(6, 40, 24), draw(7, 40, 24)
        lora = MicroLoRA(d)
        lora.set_factors(lora.A, 0.01 * draw(8, d, 2))

        def loss(small):
            return ((small.forward(x) - target) ** 2).mean()

        small = QuantizedMicroLoRA(lora, bits=bits, scheme=scheme)
        first = loss(small)
        for _ in range(150):
            dA, dB, _ = small.gradients(x, 2 * (small.forward(x) - target) / x.size)
            lora.set_factors(lora.A - 0.5 * dA, lora.B - 0.5 * dB)
            small = QuantizedMicroLoRA(lora, bits=bits, scheme=scheme)
        assert loss(small) < 0.95 * first

    def test_state(self, bits, scheme):
        small = QuantizedMicroLoRA(trained(), bits=bits, scheme=scheme)
        x = draw(5, 256)
        for again in (QuantizedMicroLoRA.from_bytes(small.to_bytes()), pickle.loads(pickle.dumps(small))):  # noqa: S301
            np.testing.assert_array_equal(again.forward(x), small.forward(x))
            assert again.nbytes == small.nbytes == small.metrics()["nbytes"]
        data = small.to_bytes()
        for bad in (b"", data[:-1], data[:60] + bytes([data[60] ^ 1]) + data[61:]):
            with pytest.raises(CorruptStateError):
                QuantizedMicroLoRA.from_bytes(bad)


def test_sizes():
    lora = trained()
    full = lora.param_count * 4
    # One float32 scale per row of B, which has only two values: less is saved than by blocks.
    assert QuantizedMicroLoRA(lora).nbytes == 1024 + 4 * (2 + 256)
    assert QuantizedMicroLoRA(lora, bits=4).nbytes == 512 + 4 * (2 + 256)
    assert QuantizedMicroLoRA(lora, bits=4, scheme="nf4").nbytes * 7 < full


class TestPeft:
    def test_round_trip(self, tmp_path):
        lora = BaseLoRA(6, 4, 2, alpha=8.0, use_rslora=True)
        for i in range(2):
            lora.set_factors(i, draw(i, 4, 6), draw(i + 2, 6, 4))
        modules = {f"layers.{i}.q_proj": lora.factors(i) for i in range(2)}
        export_peft(tmp_path / "a" / "b", modules, alpha=lora.alpha, use_rslora=True, target_modules=["q_proj"])
        factors, config = load_peft(tmp_path / "a" / "b")
        assert set(factors) == set(modules)
        for name, (A, B) in modules.items():
            np.testing.assert_array_equal(factors[name][0], A)
            np.testing.assert_array_equal(factors[name][1], B)
        assert config["target_modules"] == ["q_proj"]
        assert config["use_rslora"] is True
        assert config["r"] == 4
        # Writing again replaces both files.
        export_peft(tmp_path / "a" / "b", {"x": (np.ones((1, 2)), np.ones((3, 1)))}, alpha=1.0)
        assert set(load_peft(str(tmp_path / "a" / "b"))[0]) == {"x"}

    @pytest.mark.parametrize("dtype", [np.float16, np.float32])
    def test_files_of_others(self, tmp_path, dtype):
        A, B = draw(0, 2, 5).astype(dtype), draw(1, 3, 2).astype(dtype)
        safetensors.numpy.save_file(
            {"base_model.model.m.lora_A.weight": A, "base_model.model.m.lora_B.weight": B},
            tmp_path / "adapter_model.safetensors",
            metadata={"format": "pt"},
        )
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "extra": [1]}))
        factors, config = load_peft(tmp_path)
        assert config == {"peft_type": "LORA", "r": 2, "extra": [1]}
        np.testing.assert_array_equal(factors["m"][0], A.astype(np.float32))
        np.testing.assert_array_equal(factors["m"][1], B.astype(np.float32))

    @pytest.mark.parametrize(
        ("error", "factors", "kwargs"),
        [
            (ValueError, {}, {"alpha": 1.0}),
            (ValueError, {"": (np.ones((1, 2)), np.ones((2, 1)))}, {"alpha": 1.0}),
            (ValueError, {"m": (np.ones((1, 2)), np.ones((2, 1)))}, {"alpha": np.nan}),
            (DimensionMismatch, {"m": (np.ones((1, 2)), np.ones((2, 2)))}, {"alpha": 1.0}),
            (ShapeError, {"m": (np.ones(2), np.ones((2, 1)))}, {"alpha": 1.0}),
            (NotFiniteError, {"m": (np.full((1, 2), np.nan), np.ones((2, 1)))}, {"alpha": 1.0}),
            (
                ValueError,
                {"m": (np.ones((1, 2)), np.ones((2, 1))), "n": (np.ones((2, 2)), np.ones((2, 2)))},
                {"alpha": 1.0},
            ),
        ],
    )
    def test_bad_exports_write_nothing(self, tmp_path, error, factors, kwargs):
        with pytest.raises(error):
            export_peft(tmp_path / "out", factors, **kwargs)
        assert not (tmp_path / "out").exists()

    def test_hostile_files(self, tmp_path):
        with pytest.raises(StoreError):
            load_peft(tmp_path)
        export_peft(tmp_path, {"m": (draw(0, 2, 5), draw(1, 3, 2))}, alpha=1.0)
        weights, config = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
        good = weights.read_bytes()
        (length,) = struct.unpack("<Q", good[:8])
        header = json.loads(good[8 : 8 + length])
        key = "base_model.model.m.lora_A.weight"

        def rebuilt(**changes):
            edited = {**header, key: {**header[key], **changes}}
            text = json.dumps(edited).encode()
            return struct.pack("<Q", len(text)) + text + good[8 + length :]

        nan = bytearray(good)
        nan[-4:] = struct.pack("<f", np.nan)
        for bad in (
            b"",
            good[:7],
            good[:-1],
            struct.pack("<Q", 2**62) + good[8:],
            struct.pack("<Q", len(good)) + good[8:],
            rebuilt(shape=[2, 2**40]),
            rebuilt(shape=[2, 2**63, 0]),
            rebuilt(data_offsets=[0, 2**50]),
            rebuilt(data_offsets=[8, 0]),
            rebuilt(shape=[10]),
            rebuilt(shape=[5, 2]),
            rebuilt(dtype="I32"),
            good.replace(b"lora_A", b"lora_C"),
            good.replace(b"m.lora_A", b"n.lora_A"),
            bytes(nan),
        ):
            weights.write_bytes(bad)
            with pytest.raises((CorruptStateError, NotFiniteError)):
                load_peft(tmp_path)
        weights.write_bytes(good)
        load_peft(tmp_path)
        for bad in (b"", b"{", b"[]", b'{"peft_type": "IA3"}', b"\xff", b"[" * 100_000, b" " * (1 << 21)):
            config.write_bytes(bad)
            with pytest.raises(CorruptStateError):
                load_peft(tmp_path)
