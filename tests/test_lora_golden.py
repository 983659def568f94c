"""Every golden case of the rooms ``trajectory`` and ``lora``."""

from __future__ import annotations

import numpy as np
import pytest
import safetensors.numpy

import sona.exceptions
import sona.lora
from golden_files import golden
from sona.lora import (
    NF4_CODE,
    AdapterPool,
    BaseLoRA,
    MicroLoRA,
    QuantizedMicroLoRA,
    clip_by_norm,
    dequantize_nf4,
    dequantize_symmetric,
    export_peft,
    load_peft,
    quantize_affine,
    quantize_nf4,
    quantize_symmetric,
)
from sona.trajectory import LearningSignal, TrajectoryBuffer, TrajectoryBuilder


def close(got, want, tol):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.all(np.abs(got - want) <= tol * (1 + np.abs(want))), np.abs(got - want).max()


@golden("lora_grad", "lora.npz")
def test_micro_forward_and_gradients(arrays, params, tol):
    lora = MicroLoRA(params["hidden_dim"], params["rank"], scale=params.get("scale"))
    lora.set_factors(arrays["A"], arrays["B"])
    close(lora.forward(arrays["x"]), arrays["y"], tol)
    close(lora.delta(arrays["x"]), arrays["y"] - arrays["x"], tol)
    for got, want in zip(
        lora.gradients(arrays["x"], arrays["grad_y"]), (arrays["dA"], arrays["dB"], arrays["dx"]), strict=True
    ):
        close(got, want, tol)


@golden("base_lora", "lora.npz")
def test_base_layer(arrays, params, tol):
    layer = params["layer"]
    lora = BaseLoRA(
        params["hidden_dim"], params["rank"], params["num_layers"], alpha=params["alpha"], use_rslora=params["use_rslora"]
    )
    lora.set_factors(layer, arrays["A"], arrays["B"])
    close(lora.forward_layer(layer, arrays["x"]), arrays["y"], tol)
    for got, want in zip(
        lora.gradients(layer, arrays["x"], arrays["grad_y"]), (arrays["dA"], arrays["dB"], arrays["dx"]), strict=True
    ):
        close(got, want, tol)
    close(lora.merge_weights(arrays["W"], layer), arrays["merged"], tol)
    close(lora.delta_weight(layer), arrays["merged"] - arrays["W"], tol)


@golden("signal_ranking", "lora.npz")
def test_ranking_signal(arrays, params, tol):
    signal = LearningSignal.from_ranking(
        arrays["query"], arrays["positives"], arrays["negatives"], output=arrays["output"], **params
    )
    close(signal.gradient_estimate, arrays["ascent"], tol)
    close(signal.metadata.loss, arrays["loss"], tol)
    assert signal.weight == 1.0
    np.testing.assert_array_equal(signal.query_embedding, arrays["query"])


@golden("signal_choice", "lora.npz")
def test_choice_signal(arrays, params, tol):
    rest = dict(params)
    signal = LearningSignal.from_choice(
        arrays["query"], arrays["candidates"], rest.pop("chosen"), rest.pop("reward"), output=arrays["output"], **rest
    )
    close(signal.gradient_estimate, arrays["ascent"], tol)
    close(signal.metadata.loss, arrays["loss"], tol)


@golden("signal_relevance", "lora.npz")
def test_relevance_signal(arrays, params, tol):
    signal = LearningSignal.from_relevance(
        arrays["query"], arrays["candidates"], arrays["relevance"], output=arrays["output"], **params
    )
    close(signal.gradient_estimate, arrays["ascent"], tol)
    close(signal.metadata.loss, arrays["loss"], tol)


@golden("signal_trajectory", "lora.npz")
def test_trajectory_signal(arrays, params, tol):
    builder = TrajectoryBuilder(0, arrays["query"])
    for activations, reward in zip(arrays["activations"], arrays["rewards"], strict=True):
        builder.add_step(activations, [], reward)
    signal = LearningSignal.from_trajectory(builder.build(params["final_quality"]), baseline=params["baseline"])
    close(signal.gradient_estimate, arrays["ascent"], tol)
    assert signal.quality_score == pytest.approx(params["final_quality"])
    assert signal.metadata.steps == len(arrays["rewards"])


@golden("lora_update", "lora.npz")
def test_micro_update(arrays, params, tol):
    lora = MicroLoRA(
        params["hidden_dim"],
        params["rank"],
        optimizer=params["optimizer"],
        learning_rate=params["learning_rate"],
        weight_decay=params["weight_decay"],
        clip_norm=params["clip_norm"],
    )
    lora.set_factors(arrays["A"], arrays["B"])
    for _ in range(params["rounds"]):
        for x, g, quality in zip(arrays["x"], arrays["g"], arrays["quality"], strict=True):
            assert lora.accumulate_gradient(LearningSignal.with_gradient(x, g, quality, baseline=params["baseline"]))
        report = lora.apply_accumulated()
        assert report.applied
        assert report.count == len(arrays["x"])
    close(lora.A, arrays["A_new"], tol)
    close(lora.B, arrays["B_new"], tol)


@golden("optimizer", "lora.npz")
def test_optimizer(arrays, params, tol):
    optimizer = getattr(sona.lora, params["cls"])(len(arrays["w0"]), **params["kw"])
    w = arrays["w0"]
    for grad in arrays["grads"]:
        w = optimizer.step(w, grad)
    close(w, arrays["w"], tol)


@golden("base_train", "lora.npz")
def test_base_training_step(arrays, params, tol):
    lora = BaseLoRA(params["hidden_dim"], params["rank"], optimizer="sgd", weight_decay=0.0)
    lora.set_factors(0, arrays["A"], arrays["B"])
    loss = lora.train_step(
        0,
        arrays["queries"],
        arrays["positives"],
        negatives=arrays["negs"] if params["negatives"] else None,
        temperature=params["temperature"],
        learning_rate=params["learning_rate"],
    )
    close(loss, arrays["loss"], tol)
    for got, want in zip(lora.factors(0), (arrays["A_new"], arrays["B_new"]), strict=True):
        close(got, want, tol)


@golden("merge_micro", "lora.npz")
def test_merging_a_fast_adapter(arrays, params, tol):
    base, micro = BaseLoRA(params["hidden_dim"], params["rank"]), MicroLoRA(params["hidden_dim"])
    base.set_factors(0, arrays["A"], arrays["B"])
    micro.set_factors(arrays["a"], arrays["b"])
    close(base.merge_micro(0, micro), arrays["rel_error"], tol)
    close(base.delta_weight(0), arrays["delta"], tol)


@golden("peft", "lora.npz")
def test_peft_file(arrays, params, tol, tmp_path):
    (module,) = params["modules"]
    export_peft(tmp_path, {module: (arrays["A"], arrays["B"])}, alpha=params["alpha"], use_rslora=params["use_rslora"])
    tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    assert set(tensors) == {f"base_model.model.{module}.lora_{x}.weight" for x in "AB"}
    for x in "AB":
        tensor = tensors[f"base_model.model.{module}.lora_{x}.weight"]
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, arrays[x])
    factors, config = load_peft(tmp_path)
    np.testing.assert_array_equal(factors[module][0], arrays["A"])
    np.testing.assert_array_equal(factors[module][1], arrays["B"])
    assert config["peft_type"] == "LORA"
    assert config["r"] == len(arrays["A"])
    assert config["lora_alpha"] == params["alpha"]
    assert config["target_modules"] == params["modules"]
    assert config["use_rslora"] is params["use_rslora"]


@golden("clip", "lora.npz")
def test_clip(arrays, params, tol):
    close(clip_by_norm(arrays["x"], params["max_norm"]), arrays["y"], tol)


@golden("quant_sym", "quantisation.npz")
def test_symmetric_quantisation(arrays, params, tol):
    q, scale = quantize_symmetric(arrays["W"], params["bits"])
    assert q.dtype == np.int8
    close(scale, arrays["scale"], tol)
    close(dequantize_symmetric(q, scale), arrays["deq"], tol)
    transposed, scale = quantize_symmetric(np.ascontiguousarray(arrays["W"].T), params["bits"], axis=1)
    np.testing.assert_array_equal(transposed.T, q)
    close(dequantize_symmetric(transposed, scale, axis=-1).T, arrays["deq"], tol)


@golden("quant_affine", "quantisation.npz")
def test_affine_quantisation(arrays, params, tol):
    q, scale, zero_point = quantize_affine(arrays["W"])
    assert q.dtype == np.uint8
    np.testing.assert_array_equal(q, arrays["q"])
    close(scale, params["scale"], tol)
    assert zero_point == params["zero_point"]


@golden("quant_nf4", "quantisation.npz")
def test_nf4_quantisation(arrays, params, tol):
    np.testing.assert_array_equal(NF4_CODE, arrays["code"])
    codes, absmax = quantize_nf4(arrays["x"], block=params["block"])
    close(absmax, arrays["absmax"], tol)
    close(dequantize_nf4(codes, absmax, block=params["block"]), arrays["deq"], tol)


def policy(y, candidates):
    unit = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    logits = unit @ (y / np.linalg.norm(y)) / 0.05
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@golden("direction", "behaviour.npz")
@pytest.mark.parametrize("reward", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", ["adamw", "adagrad", "sgd"])
def test_one_feedback_moves_the_choice(arrays, params, tol, reward, optimizer):
    for query, candidates, chosen in zip(arrays["queries"], arrays["candidates"], arrays["chosen"], strict=True):
        lora = MicroLoRA(len(query), params["rank"], optimizer=optimizer)
        before = policy(lora.forward(query), candidates)[chosen]
        lora.accumulate_gradient(LearningSignal.from_choice(query, candidates, int(chosen), reward))
        lora.apply_accumulated()
        after = policy(lora.forward(query), candidates)[chosen]
        assert (after > before) if reward else (after < before)


@golden("pool", "behaviour.npz")
def test_pool_ids(arrays, params, tol):
    pool = AdapterPool(arrays["X"].shape[1], rank=params["rank"])
    assert [pool.select(x)[0] for x in arrays["X"]] == params["ids"]


@golden("quantized_lora", "behaviour.npz")
def test_quantised_adapter(arrays, params, tol):
    lora = MicroLoRA(len(arrays["x"]), len(arrays["A"]))
    lora.set_factors(arrays["A"], arrays["B"])
    small = QuantizedMicroLoRA(lora, bits=params["bits"])
    A, B = small.dequantize()
    own = MicroLoRA(len(arrays["x"]), len(arrays["A"]))
    own.set_factors(A, B)
    close(small.forward(arrays["x"]), own.forward(arrays["x"]), tol)
    close(A, dequantize_symmetric(*quantize_symmetric(arrays["A"], params["bits"])), tol)
    close(B, dequantize_symmetric(*quantize_symmetric(arrays["B"], params["bits"])), tol)
    assert small.nbytes < lora.param_count * 4


@golden("buffer", "store_loops.npz")
def test_buffer_drops_the_oldest(arrays, params, tol):
    buffer = TrajectoryBuffer(params["capacity"])
    for i in range(params["n"]):
        assert buffer.record(TrajectoryBuilder(i, [1.0]).build(0.5))
    lost = params["n"] - params["capacity"]
    assert buffer.dropped_count == lost
    assert buffer.success_rate == pytest.approx(params["capacity"] / params["n"])
    assert [t.id for t in buffer.peek(2)] == [lost, lost + 1]
    assert [t.id for t in buffer.drain()] == list(range(lost, params["n"]))
    assert buffer.is_empty


def argument(x):
    if isinstance(x, str) and x.startswith("np:"):
        _, fill, *shape = x.split(":")
        return np.full([int(n) for n in shape], {"nan": np.nan, "ones": 1.0}[fill], np.float32)
    return x


@golden("bad_input", "bad_input.npz", module="lora")
def test_bad_input(arrays, params, tol):
    def call():
        target = sona.lora
        for name, args, kwargs in params["calls"]:
            target = getattr(target, name)(*map(argument, args), **kwargs)

    with pytest.raises(getattr(sona.exceptions, params["error"])):
        call()
