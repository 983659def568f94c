"""Every golden case of the rooms ``trajectory`` and ``lora``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import sona.exceptions
import sona.lora
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

GOLDEN = Path(__file__).parent / "golden" / "learning"


def golden(kind, file="lora.npz", module=None):
    """Decorator: one test per case of the kind, with its arrays, parameters and tolerance."""
    cases = []
    with np.load(GOLDEN / file) as z:
        meta = json.loads(str(z["meta"]))
        for name, case in meta["cases"].items():
            if case["kind"] == kind and case["params"].get("module") == module:
                arrays = {k.split("/", 1)[1]: z[k] for k in z.files if k.startswith(name + "/")}
                cases.append(pytest.param(arrays, case["params"], case.get("tol", meta["tol"]), id=name))
    assert cases
    return pytest.mark.parametrize(("a", "p", "tol"), cases)


def close(got, want, tol):
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    assert np.all(np.abs(got - want) <= tol * (1 + np.abs(want))), np.abs(got - want).max()


@golden("lora_grad")
def test_micro_forward_and_gradients(a, p, tol):
    lora = MicroLoRA(p["hidden_dim"], p["rank"], scale=p.get("scale"))
    lora.set_factors(a["A"], a["B"])
    close(lora.forward(a["x"]), a["y"], tol)
    close(lora.delta(a["x"]), a["y"] - a["x"], tol)
    for got, want in zip(lora.gradients(a["x"], a["grad_y"]), (a["dA"], a["dB"], a["dx"]), strict=True):
        close(got, want, tol)


@golden("base_lora")
def test_base_layer(a, p, tol):
    layer = p["layer"]
    lora = BaseLoRA(p["hidden_dim"], p["rank"], p["num_layers"], alpha=p["alpha"], use_rslora=p["use_rslora"])
    lora.set_factors(layer, a["A"], a["B"])
    close(lora.forward_layer(layer, a["x"]), a["y"], tol)
    for got, want in zip(lora.gradients(layer, a["x"], a["grad_y"]), (a["dA"], a["dB"], a["dx"]), strict=True):
        close(got, want, tol)
    close(lora.merge_weights(a["W"], layer), a["merged"], tol)
    close(lora.delta_weight(layer), a["merged"] - a["W"], tol)


@golden("signal_ranking")
def test_ranking_signal(a, p, tol):
    signal = LearningSignal.from_ranking(a["query"], a["positives"], a["negatives"], output=a["output"], **p)
    close(signal.gradient_estimate, a["ascent"], tol)
    close(signal.metadata.loss, a["loss"], tol)
    assert signal.weight == 1.0
    np.testing.assert_array_equal(signal.query_embedding, a["query"])


@golden("signal_choice")
def test_choice_signal(a, p, tol):
    p = dict(p)
    signal = LearningSignal.from_choice(a["query"], a["candidates"], p.pop("chosen"), p.pop("reward"), output=a["output"], **p)
    close(signal.gradient_estimate, a["ascent"], tol)
    close(signal.metadata.loss, a["loss"], tol)


@golden("signal_relevance")
def test_relevance_signal(a, p, tol):
    signal = LearningSignal.from_relevance(a["query"], a["candidates"], a["relevance"], output=a["output"], **p)
    close(signal.gradient_estimate, a["ascent"], tol)
    close(signal.metadata.loss, a["loss"], tol)


@golden("signal_trajectory")
def test_trajectory_signal(a, p, tol):
    builder = TrajectoryBuilder(0, a["query"])
    for activations, reward in zip(a["activations"], a["rewards"], strict=True):
        builder.add_step(activations, [], reward)
    signal = LearningSignal.from_trajectory(builder.build(p["final_quality"]), baseline=p["baseline"])
    close(signal.gradient_estimate, a["ascent"], tol)
    assert signal.quality_score == pytest.approx(p["final_quality"])
    assert signal.metadata.steps == len(a["rewards"])


@golden("lora_update")
def test_micro_update(a, p, tol):
    lora = MicroLoRA(
        p["hidden_dim"],
        p["rank"],
        optimizer=p["optimizer"],
        learning_rate=p["learning_rate"],
        weight_decay=p["weight_decay"],
        clip_norm=p["clip_norm"],
    )
    lora.set_factors(a["A"], a["B"])
    for _ in range(p["rounds"]):
        for x, g, quality in zip(a["x"], a["g"], a["quality"], strict=True):
            assert lora.accumulate_gradient(LearningSignal.with_gradient(x, g, quality, baseline=p["baseline"]))
        report = lora.apply_accumulated()
        assert report.applied
        assert report.count == len(a["x"])
    close(lora.A, a["A_new"], tol)
    close(lora.B, a["B_new"], tol)


@golden("optimizer")
def test_optimizer(a, p, tol):
    optimizer = getattr(sona.lora, p["cls"])(len(a["w0"]), **p["kw"])
    w = a["w0"]
    for grad in a["grads"]:
        w = optimizer.step(w, grad)
    close(w, a["w"], tol)


@golden("base_train")
def test_base_training_step(a, p, tol):
    lora = BaseLoRA(p["hidden_dim"], p["rank"], optimizer="sgd", weight_decay=0.0)
    lora.set_factors(0, a["A"], a["B"])
    loss = lora.train_step(
        0,
        a["queries"],
        a["positives"],
        negatives=a["negs"] if p["negatives"] else None,
        temperature=p["temperature"],
        learning_rate=p["learning_rate"],
    )
    close(loss, a["loss"], tol)
    for got, want in zip(lora.factors(0), (a["A_new"], a["B_new"]), strict=True):
        close(got, want, tol)


@golden("merge_micro")
def test_merging_a_fast_adapter(a, p, tol):
    base, micro = BaseLoRA(p["hidden_dim"], p["rank"]), MicroLoRA(p["hidden_dim"])
    base.set_factors(0, a["A"], a["B"])
    micro.set_factors(a["a"], a["b"])
    close(base.merge_micro(0, micro), a["rel_error"], tol)
    close(base.delta_weight(0), a["delta"], tol)


@golden("peft")
def test_peft_file(a, p, tol, tmp_path):
    (module,) = p["modules"]
    export_peft(tmp_path, {module: (a["A"], a["B"])}, alpha=p["alpha"], use_rslora=p["use_rslora"])
    tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    assert set(tensors) == {f"base_model.model.{module}.lora_{x}.weight" for x in "AB"}
    for x in "AB":
        tensor = tensors[f"base_model.model.{module}.lora_{x}.weight"]
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, a[x])
    factors, config = load_peft(tmp_path)
    np.testing.assert_array_equal(factors[module][0], a["A"])
    np.testing.assert_array_equal(factors[module][1], a["B"])
    assert config["peft_type"] == "LORA"
    assert config["r"] == len(a["A"])
    assert config["lora_alpha"] == p["alpha"]
    assert config["target_modules"] == p["modules"]
    assert config["use_rslora"] is p["use_rslora"]


@golden("clip")
def test_clip(a, p, tol):
    close(clip_by_norm(a["x"], p["max_norm"]), a["y"], tol)


@golden("quant_sym", "quantisation.npz")
def test_symmetric_quantisation(a, p, tol):
    q, scale = quantize_symmetric(a["W"], p["bits"])
    assert q.dtype == np.int8
    close(scale, a["scale"], tol)
    close(dequantize_symmetric(q, scale), a["deq"], tol)
    transposed, scale = quantize_symmetric(np.ascontiguousarray(a["W"].T), p["bits"], axis=1)
    np.testing.assert_array_equal(transposed.T, q)
    close(dequantize_symmetric(transposed, scale, axis=-1).T, a["deq"], tol)


@golden("quant_affine", "quantisation.npz")
def test_affine_quantisation(a, p, tol):
    q, scale, zero_point = quantize_affine(a["W"])
    assert q.dtype == np.uint8
    np.testing.assert_array_equal(q, a["q"])
    close(scale, p["scale"], tol)
    assert zero_point == p["zero_point"]


@golden("quant_nf4", "quantisation.npz")
def test_nf4_quantisation(a, p, tol):
    np.testing.assert_array_equal(NF4_CODE, a["code"])
    codes, absmax = quantize_nf4(a["x"], block=p["block"])
    close(absmax, a["absmax"], tol)
    close(dequantize_nf4(codes, absmax, block=p["block"]), a["deq"], tol)


def policy(y, candidates):
    unit = candidates / np.linalg.norm(candidates, axis=1, keepdims=True)
    logits = unit @ (y / np.linalg.norm(y)) / 0.05
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


@golden("direction", "behaviour.npz")
@pytest.mark.parametrize("reward", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", ["adamw", "adagrad", "sgd"])
def test_one_feedback_moves_the_choice(a, p, tol, reward, optimizer):
    for query, candidates, chosen in zip(a["queries"], a["candidates"], a["chosen"], strict=True):
        lora = MicroLoRA(len(query), p["rank"], optimizer=optimizer)
        before = policy(lora.forward(query), candidates)[chosen]
        lora.accumulate_gradient(LearningSignal.from_choice(query, candidates, int(chosen), reward))
        lora.apply_accumulated()
        after = policy(lora.forward(query), candidates)[chosen]
        assert (after > before) if reward else (after < before)


@golden("pool", "behaviour.npz")
def test_pool_ids(a, p, tol):
    pool = AdapterPool(a["X"].shape[1], rank=p["rank"])
    assert [pool.select(x)[0] for x in a["X"]] == p["ids"]


@golden("quantized_lora", "behaviour.npz")
def test_quantised_adapter(a, p, tol):
    lora = MicroLoRA(len(a["x"]), len(a["A"]))
    lora.set_factors(a["A"], a["B"])
    small = QuantizedMicroLoRA(lora, bits=p["bits"])
    A, B = small.dequantize()
    own = MicroLoRA(len(a["x"]), len(a["A"]))
    own.set_factors(A, B)
    close(small.forward(a["x"]), own.forward(a["x"]), tol)
    close(A, dequantize_symmetric(*quantize_symmetric(a["A"], p["bits"])), tol)
    close(B, dequantize_symmetric(*quantize_symmetric(a["B"], p["bits"])), tol)
    assert small.nbytes < lora.param_count * 4


@golden("buffer", "store_loops.npz")
def test_buffer_drops_the_oldest(a, p, tol):
    buffer = TrajectoryBuffer(p["capacity"])
    for i in range(p["n"]):
        assert buffer.record(TrajectoryBuilder(i, [1.0]).build(0.5))
    lost = p["n"] - p["capacity"]
    assert buffer.dropped_count == lost
    assert buffer.success_rate == pytest.approx(p["capacity"] / p["n"])
    assert [t.id for t in buffer.peek(2)] == [lost, lost + 1]
    assert [t.id for t in buffer.drain()] == list(range(lost, p["n"]))
    assert buffer.is_empty


def argument(x):
    if isinstance(x, str) and x.startswith("np:"):
        _, fill, *shape = x.split(":")
        return np.full([int(n) for n in shape], {"nan": np.nan, "ones": 1.0}[fill], np.float32)
    return x


@golden("bad_input", "bad_input.npz", module="lora")
def test_bad_input(a, p, tol):
    def call():
        target = sona.lora
        for name, args, kwargs in p["calls"]:
            target = getattr(target, name)(*map(argument, args), **kwargs)

    with pytest.raises(getattr(sona.exceptions, p["error"])):
        call()
