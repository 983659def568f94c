"""What quantising an adapter costs in ranking, with and without training through the codes; and many adapters at once.

Run: SONA_DATA=… python benches/research/quantised_adapters.py [--seeds 5]

Data: Banking77 (77 intents, MiniLM). Items are the means of 5 training texts of each intent; an adapter of rank 2 learns
InfoNCE over the other training texts (one pass), and test texts rank the intents: mean reciprocal rank. Then the adapter is
quantised. "trained through": after the pass, another tenth of a pass at a tenth of the rate goes through
`QuantAwareMicroLoRA`; the float adapter gets the same extra tenth, so that the gain is not that of more data.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sona.lora import AdapterPool, MicroLoRA, QuantAwareMicroLoRA, QuantizedMicroLoRA
from sona.trajectory import LearningSignal

GATES = {("symmetric", 8): 0.002, ("symmetric", 4): 0.01, ("nf4", 4): 0.01}


def load():
    root = os.environ.get("SONA_DATA")
    if not root:
        sys.exit("SKIPPED: SONA_DATA names no directory with banking77")
    rows = pq.read_table(Path(root) / "banking77.parquet").to_pylist()
    x = np.load(Path(root) / "banking77_minilm_fp16.npz")["x"].astype(np.float32)
    intents = sorted({r["intent"] for r in rows})
    y = np.array([intents.index(r["intent"]) for r in rows])
    return x, y, np.array([r["split"] == "train" for r in rows])


def mrr(z, y, items):
    s = z / np.linalg.norm(z, axis=1, keepdims=True) @ items.T
    own = s[np.arange(len(y)), y]
    return float((1 / (1 + (s > own[:, None]).sum(1))).mean())


def learn(adapter, x, y, items, order, rate, batch=32):
    for i, at in enumerate(order, start=1):
        others = np.delete(items, y[at], axis=0)
        signal = LearningSignal.from_ranking(x[at], items[y[at]], others, output=adapter.forward(x[at]))
        adapter.accumulate_gradient(signal)
        if i % batch == 0:
            adapter.apply_accumulated(rate)
    adapter.apply_accumulated(rate)


def one(x, y, train, seed):
    rng = np.random.default_rng(seed)
    support = np.concatenate([rng.choice(np.flatnonzero(train & (y == c)), 5, replace=False) for c in range(y.max() + 1)])
    items = np.stack([x[support[y[support] == c]].mean(0) for c in range(y.max() + 1)])
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    pool = rng.permutation(np.setdiff1d(np.flatnonzero(train), support))
    extra, test = pool[: len(pool) // 10], np.flatnonzero(~train)
    lora = MicroLoRA(x.shape[1], trust_region=None, seed=seed)
    learn(lora, x, y, items, pool, 0.01)
    start = MicroLoRA.from_bytes(lora.to_bytes())
    learn(lora, x, y, items, extra, 0.001)
    score = lambda a: mrr(a.forward(x[test]), y[test], items)  # noqa: E731
    float_score = score(lora)
    out = {"none": [mrr(x[test], y[test], items)], "float32": [float_score, 0.0, lora.param_count * 4]}
    for scheme, bits in GATES:
        q = QuantizedMicroLoRA(lora, bits=bits, scheme=scheme)
        out[f"{scheme} int{bits}" if scheme == "symmetric" else "nf4"] = [score(q), 1 - score(q) / float_score, q.nbytes]
        aware = QuantAwareMicroLoRA(start, bits=bits, scheme=scheme)
        learn(aware, x, y, items, extra, 0.001)
        name = f"{scheme} int{bits}, trained through" if scheme == "symmetric" else "nf4, trained through"
        q = aware.quantized()
        out[name] = [score(q), 1 - score(q) / float_score, q.nbytes]
    return out


def many(rows, adapters=64, d=384, repeats=25):
    """Milliseconds of `forward_many`, of a loop over adapters and of a loop over rows, interleaved; the least of each."""
    rng = np.random.default_rng(0)
    pool = AdapterPool(d, similarity=0.99)
    ids = []
    for _ in range(adapters):
        i, lora = pool.select(rng.normal(size=d).astype(np.float32))
        lora.set_factors(*(rng.normal(size=s).astype(np.float32) / 20 for s in ((2, d), (d, 2))))
        ids.append(i)
    which, x = rng.choice(ids, rows), rng.normal(size=(rows, d)).astype(np.float32)

    def grouped():
        return pool.forward_many(which, x)

    def by_adapter():
        y = np.empty_like(x)
        for i in np.unique(which):
            y[which == i] = pool.get(int(i)).forward(x[which == i])
        return y

    def by_row():
        return np.stack([pool.get(int(i)).forward(v) for i, v in zip(which, x, strict=True)])

    calls = {"`forward_many`": grouped, "loop over adapters": by_adapter, "loop over rows": by_row}
    times = {k: [] for k in calls}
    want = by_row()
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            got = call()
            times[name].append(1000 * (time.perf_counter() - start))
            assert np.array_equal(got, want)
    return {k: min(v) for k, v in times.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    x, y, train = load()
    runs = [one(x, y, train, s) for s in range(args.seeds)]
    print("| adapter | MRR | loss against float32 | bytes |\n|---|---|---|---|")
    for name in runs[0]:
        v = np.array([r[name] for r in runs])
        half = 1.96 * v.std(0, ddof=1) / math.sqrt(len(v))
        cells = [f"{v[:, 0].mean():.4f} ± {half[0]:.4f}", "", ""]
        if v.shape[1] > 1:
            cells[1:] = [f"{100 * v[:, 1].mean():.2f} % ± {100 * half[1]:.2f}", f"{v[0, 2]:.0f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\n| ms, 64 adapters of d 384 | `forward_many` | loop over adapters | loop over rows |\n|---|---|---|---|")
    for rows in (64, 1024, 4096):
        print(f"| {rows:,} rows | " + " | ".join(f"{ms:.3f}" for ms in many(rows).values()) + " |")


if __name__ == "__main__":
    main()
