"""Does a bank of patterns predict whether an agent solves a task it has not seen? Recorded runs of MINT.

Run: SONA_DATA=… python benches/research/agent_outcomes.py [--seeds 5]

Data: 586 tasks, 31,699 runs of 55 language models as agents (success or not), tasks embedded by MiniLM. A case is one run: the
embedding of its task, its outcome, and the model as scope. Tasks are divided at random, 60 % to learn from, 20 % to choose
parameters on, 20 % to report on: no run of a reported task is ever seen. Every predictor ranks the runs by expected success;
AUC over all runs (which models are good matters as well), and the mean over models of the AUC within a model (only the task
matters).

The bank may hold 1/20 of the vectors that the raw cases have: per model one pattern for every 20 cases.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import rankdata

from sona.patterns import PatternConfig, ReasoningBank, kmeans

SHARE = 20


def load():
    root = os.environ.get("SONA_DATA")
    if not root:
        sys.exit("SKIPPED: SONA_DATA names no directory with the mint_* files")
    root = Path(root)
    tasks = pq.read_table(root / "mint_tasks.parquet").to_pylist()
    x = np.load(root / "mint_task_minilm_fp16.npz")["x"].astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    at = {(t["dataset"], t["task_id"]): i for i, t in enumerate(tasks)}
    runs = [
        (r["model"], at[r["dataset"], r["task_id"]], float(r["success"]))
        for r in pq.read_table(root / "mint_runs.parquet").to_pylist()
        if (r["dataset"], r["task_id"]) in at
    ]
    return x, runs


def auc(score, y):
    """Area under the ROC curve, ties counted half; NaN without both outcomes."""
    positive = y.sum()
    if positive in (0, len(y)):
        return math.nan
    return (rankdata(score)[y > 0.5].sum() - positive * (positive + 1) / 2) / (positive * (len(y) - positive))


class Split:
    """Cases to learn from by model, runs to be judged."""

    def __init__(self, x, runs, learn, judge):
        self.x = x
        self.cases = {}
        for model, task, y in runs:
            if task in learn:
                self.cases.setdefault(model, []).append((task, y))
        self.mean = {m: float(np.mean([y for _, y in c])) for m, c in self.cases.items()}
        self.all = float(np.mean([y for c in self.cases.values() for _, y in c]))
        self.judged = [r for r in runs if r[1] in judge and r[0] in self.cases]
        self.y = np.array([y for _, _, y in self.judged])

    def score(self, predict):
        p = np.array([predict(m, t) for m, t, _ in self.judged])
        models = np.array([m for m, _, _ in self.judged])
        within = [auc(p[models == m], self.y[models == m]) for m in set(models)]
        return auc(p, self.y), float(np.nanmean(within))

    def bank(self, seed):
        """A bank with a scope per model, one pattern for every SHARE cases."""
        most = max(len(c) for c in self.cases.values())
        config = PatternConfig(
            k_clusters=most // SHARE,
            embedding_dim=self.x.shape[1],
            min_cluster_size=1,
            merge_similarity=1.0,
            max_trajectories=10**6,
            seed=seed,
        )
        bank = ReasoningBank(config)
        for model, cases in self.cases.items():
            for task, y in cases:
                bank.add(self.x[task], y, scope=model)
        bank.extract_patterns()
        held = {}
        for p in bank.patterns:
            held.setdefault(p.scope, []).append(p)
        return {
            m: (
                np.stack([p.centroid / np.linalg.norm(p.centroid) for p in ps]),
                np.array([p.avg_quality for p in ps]),
                np.array([p.cluster_size for p in ps], float),
            )
            for m, ps in held.items()
        }


def equal_weights(split, bank, seed):
    """As many patterns as the bank has, clustered without its weights (quality + 0.05), which look away from failures."""
    out = {}
    for model, cases in split.cases.items():
        x, y = split.x[[t for t, _ in cases]], np.array([y for _, y in cases])
        r = kmeans(x, len(bank[model][1]), metric="cosine", seed=seed)
        n = np.bincount(r.labels, minlength=len(r.centroids)).astype(float)
        q = np.bincount(r.labels, weights=y, minlength=len(n)) / np.maximum(n, 1)
        c = r.centroids / np.maximum(np.linalg.norm(r.centroids, axis=1, keepdims=True), 1e-12)
        out[model] = (c[n > 0], q[n > 0], n[n > 0])
    return out


def knn(split, k, temperature):
    """Weighted mean outcome of the k nearest raw cases of the same model, weights e^(cos/temperature)."""
    arrays = {m: (split.x[[t for t, _ in c]], np.array([y for _, y in c])) for m, c in split.cases.items()}

    def predict(model, task):
        v, y = arrays[model]
        s = v @ split.x[task]
        top = np.argsort(-s)[:k]
        w = np.exp((s[top] - s[top[0]]) / temperature)
        return float(w @ y[top] / w.sum())

    return predict


def nearest_pattern(split, bank):
    def predict(model, task):
        c, q, _ = bank[model]
        return float(q[(c @ split.x[task]).argmax()])

    return predict


def blended(split, bank, temperature, prior):
    """All patterns of the model, weighted by size·e^(cos/temperature), and `prior` cases of the model's mean."""

    def predict(model, task):
        c, q, n = bank[model]
        s = c @ split.x[task]
        w = n * np.exp((s - s.max()) / temperature)
        return float((w @ q + prior * split.mean[model]) / (w.sum() + prior))

    return predict


def two_level(split, bank, temperature, prior, share):
    """As `blended`, on deviations from the mean of the model, mixed with those of all models."""
    c = np.concatenate([bank[m][0] for m in bank])
    dev = np.concatenate([bank[m][1] - split.mean[m] for m in bank])
    n = np.concatenate([bank[m][2] for m in bank])
    common = {}

    def everyone(task):
        if task not in common:
            s = c @ split.x[task]
            w = n * np.exp((s - s.max()) / temperature)
            common[task] = float(w @ dev / (w.sum() + prior))
        return common[task]

    own = blended(split, bank, temperature, prior)

    def predict(model, task):
        return split.mean[model] + (1 - share) * (own(model, task) - split.mean[model]) + share * everyone(task)

    return predict


def two_level_knn(split, k, temperature, share):
    """The same mixture on raw cases: what 20 times the memory gives."""
    own = knn(split, k, temperature)
    total, count = np.zeros(len(split.x)), np.zeros(len(split.x))
    for m, c in split.cases.items():
        for t, y in c:
            total[t] += y - split.mean[m]
            count[t] += 1
    known = np.flatnonzero(count)
    dev = total[known] / count[known]
    common = {}

    def predict(model, task):
        if task not in common:
            s = split.x[known] @ split.x[task]
            top = np.argsort(-s)[:k]
            w = np.exp((s[top] - s[top[0]]) / temperature)
            common[task] = float(w @ dev[top] / w.sum())
        return split.mean[model] + (1 - share) * (own(model, task) - split.mean[model]) + share * common[task]

    return predict


TEMPERATURES = (0.02, 0.05, 0.1, 0.2, 0.4)


def families(split, seed):
    """Name -> list of (parameters, predictor); parameters are chosen on the development tasks."""
    bank = split.bank(seed)
    equal = equal_weights(split, bank, seed)
    return {
        "global mean": [((), lambda m, t: split.all)],
        "mean of the model": [((), lambda m, t: split.mean[m])],
        "kNN over raw cases": [((k, t), knn(split, k, t)) for k in (5, 10, 20, 40, 80) for t in (0.05, 0.1, 1.0)],
        "bank, nearest pattern": [((), nearest_pattern(split, bank))],
        "bank, blended patterns": [((t, a), blended(split, bank, t, a)) for t in TEMPERATURES for a in (0.0, 5.0, 20.0)],
        "bank clustered with equal weights, blended": [
            ((t, a), blended(split, equal, t, a)) for t in TEMPERATURES for a in (0.0, 5.0, 20.0)
        ],
        "bank, two levels": [
            ((t, a, s), two_level(split, bank, t, a, s))
            for t in TEMPERATURES[:4]
            for a in (0.0, 5.0)
            for s in (0.25, 0.5, 0.75, 1.0)
        ],
        "kNN over raw cases, two levels": [
            ((k, t, s), two_level_knn(split, k, t, s)) for k in (10, 20, 40) for t in (0.05, 0.1) for s in (0.5, 0.75, 1.0)
        ],
    }, bank


def interval(v):
    v = np.asarray(v)
    return f"{v.mean():.3f} ± {1.96 * v.std(ddof=1) / math.sqrt(len(v)):.3f}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    x, runs = load()
    results, chosen, patterns, cases = {}, {}, [], []
    for seed in range(args.seeds):
        order = np.random.default_rng(seed).permutation(len(x))
        a, b = int(0.6 * len(x)), int(0.8 * len(x))
        learn, dev, test = set(order[:a].tolist()), set(order[a:b].tolist()), set(order[b:].tolist())
        tuned = Split(x, runs, learn, dev)
        picks = {}
        for name, options in families(tuned, seed)[0].items():
            scores = [np.mean(tuned.score(f)) for _, f in options] if len(options) > 1 else [0.0]
            picks[name] = int(np.argmax(scores))
        final = Split(x, runs, learn, test)
        made, bank = families(final, seed)
        patterns.append(sum(len(c[1]) for c in bank.values()))
        cases.append(sum(len(c) for c in final.cases.values()))
        for name, options in made.items():
            parameters, f = options[picks[name]]
            results.setdefault(name, []).append(final.score(f))
            chosen.setdefault(name, []).append(parameters)
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    print(f"{len(runs)} runs, {len(x)} tasks; cases learned from {np.mean(cases):.0f}, patterns held {np.mean(patterns):.0f}")
    print("\n| predictor | vectors held | AUC, all runs | AUC within a model | chosen on development tasks |")
    print("|---|---|---|---|---|")
    for name, v in results.items():
        v = np.array(v)
        size = {"b": np.mean(patterns), "k": np.mean(cases)}.get(name[0], 0)
        pick = max(set(chosen[name]), key=chosen[name].count)
        print(f"| {name} | {size:.0f} | {interval(v[:, 0])} | {interval(v[:, 1])} | {pick if pick else ''} |")
    for better, worse in (
        ("bank, nearest pattern", "kNN over raw cases"),
        ("bank, blended patterns", "kNN over raw cases"),
        ("bank clustered with equal weights, blended", "kNN over raw cases"),
        ("bank, two levels", "kNN over raw cases"),
        ("bank, two levels", "kNN over raw cases, two levels"),
    ):
        d = np.array(results[better]) - np.array(results[worse])
        print(f"{better} − {worse}: all runs {interval(d[:, 0])}, within a model {interval(d[:, 1])}")


if __name__ == "__main__":
    main()
