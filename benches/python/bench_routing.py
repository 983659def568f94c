"""Routing against numpy, scikit-learn and, where it is installed, onnxruntime: decisions, candidates, neighbours.

``python benches/python/bench_routing.py`` prints a table. Everything runs on one thread; contenders take turns in one process,
and each figure is the median of the runs with the tenth and ninetieth percentile beside it.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
from sklearn.neighbors import NearestNeighbors

from machine import machine
from sona.routing import FastGRNN, KnnRouter, TinyDancerRouter

D = 384


def clustered(n: int, seed: int) -> np.ndarray:
    """Unit vectors around 100 centres."""
    centres = np.random.default_rng(7).standard_normal((100, D))
    rng = np.random.default_rng(seed)
    x = centres[rng.integers(0, 100, n)] + 0.6 * rng.standard_normal((n, D))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def interleaved(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, np.ndarray]:
    """Microseconds of each call, in turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for call in contenders.values():
        call()
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(1e6 * (time.perf_counter() - start))
    return {name: np.array(v) for name, v in times.items()}


def perceptron(hidden: int, w: np.ndarray, v: np.ndarray) -> Callable[[np.ndarray], object] | None:
    """A two-layer perceptron in onnxruntime on one thread; None where it is not installed."""
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        sys.stderr.write(f"onnxruntime is left out: {error}\n")
        return None
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["p"]),
        helper.make_node("Tanh", ["p"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        f"mlp{hidden}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, D])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(w, "w"), numpy_helper.from_array(v, "v")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})


def candidates(rounds: int) -> None:
    x = clustered(100, 1)
    for hidden, rank in ((8, 4), (8, None), (64, None)):
        cell = FastGRNN(D, hidden, rank_w=rank)
        cell.fit([row[None] for row in x], np.zeros(len(x)), epochs=1)
        rng = np.random.default_rng(0)
        w, v = rng.normal(size=(D, hidden)).astype(np.float32), rng.normal(size=(hidden, 1)).astype(np.float32)
        contenders: dict[str, Callable[[], object]] = {
            "sona": lambda cell=cell: cell.predict_rows(x),
            "numpy, same width, tanh only": lambda w=w, v=v: np.tanh(x @ w) @ v,
        }
        session = perceptron(hidden, w, v)
        if session is not None:
            contenders["onnxruntime, same width, tanh only"] = lambda session=session: session(x)
        report(f"100 candidates × {D}, {hidden} hidden, rank {rank or 'full'}", interleaved(contenders, rounds))


def neighbours(rounds: int) -> None:
    rows, queries = clustered(10_000, 2), clustered(64, 3)
    quality = np.random.default_rng(0).random(len(rows))
    knn = KnnRouter(["m"], dim=D, k=100)
    for x, q in zip(rows, quality, strict=True):
        knn.learn(x, "m", float(q))
    peer = NearestNeighbors(n_neighbors=100, algorithm="brute", metric="cosine").fit(rows)
    turn = iter(range(10**9))

    def query() -> np.ndarray:
        return queries[next(turn) % len(queries)]

    def by_numpy() -> float:
        s = rows @ query()
        return float(quality[np.argpartition(-s, 100)[:100]].mean())

    contenders = {
        "sona": lambda: knn.predict(query()),
        "numpy": by_numpy,
        "scikit-learn": lambda: quality[peer.kneighbors(query()[None], return_distance=False)[0]].mean(),
    }
    report(f"kNN-100 over 10,000 × {D}", interleaved(contenders, max(20, rounds // 10)))


def decisions(rounds: int) -> None:
    rows = clustered(2000, 4)
    for predictor, models in (("linear", 100), ("thompson", 100), ("hybrid", 100), ("linear", 11), ("hybrid", 11), ("knn", 11)):
        router = TinyDancerRouter({f"m{i}": 1.0 + i for i in range(models)}, dim=D, predictor=predictor, cost_weight=0.01)
        for i, x in enumerate(rows):
            router.learn(x, f"m{i % models}", float(i % 3 == 0))
        times = interleaved({"sona": lambda router=router: router.route(rows[0])}, rounds)
        report(f"decision, {predictor}, {models} models, 2,000 cases", times)


def report(what: str, times: dict[str, np.ndarray]) -> None:
    first = np.median(times["sona"])
    for name, t in times.items():
        low, mid, high = np.quantile(t, [0.1, 0.5, 0.9])
        ratio = "" if name == "sona" else f"{mid / first:.2f}×"
        print(f"| {what} | {name} | {mid:.1f} [{low:.1f}, {high:.1f}] | {ratio} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    rounds = parser.parse_args().rounds
    print("| what | contender | µs, median [p10, p90] | against sona |\n|---|---|---|---|")
    candidates(rounds)
    neighbours(rounds)
    decisions(rounds)
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
