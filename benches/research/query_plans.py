"""Choosing optimiser settings by `DagEngine` on recorded DuckDB plans, against baselines.

Run: SONA_DATA=… python benches/research/query_plans.py [--seeds 10] [--half dev] [--quick]

Data: 121 TPC-H and TPC-DS queries x 8 settings of DuckDB's optimiser (one optimiser rule switched off in each), CPU time of
every pair (the recording machine was loaded: CPU time is steadier than wall time). A round draws a query, a policy sees the
plan that the optimiser makes by default (estimated rows only, nothing measured) and picks a setting; the round costs the
recorded time of that pair times noise exp(N(0, 0.05²)). Rounds per query: as stated. A policy may stop a run and start the
default instead; both times count.

Every other query of each benchmark, by number, is for choosing the policy's constants (``--half dev``); figures are reported
on the rest.

Returning queries: every query of the half comes back again and again. New queries: the policy learns on the other half and on
a random half of this one, and then meets each of the rest once (it may learn from one new query for the next).
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

from sona.dag import DagEngine, OperatorType, QueryDag

NOISE = 0.05
# Rounds per query before the new ones come.
LEARN_ROUNDS = 10
KINDS = {
    "TABLE_SCAN": OperatorType.SCAN,
    "CTE_SCAN": OperatorType.SCAN,
    "DELIM_SCAN": OperatorType.SCAN,
    "COLUMN_DATA_SCAN": OperatorType.SCAN,
    "DUMMY_SCAN": OperatorType.SCAN,
    "EMPTY_RESULT": OperatorType.SCAN,
    "FILTER": OperatorType.FILTER,
    "HASH_JOIN": OperatorType.JOIN,
    "NESTED_LOOP_JOIN": OperatorType.JOIN,
    "CROSS_PRODUCT": OperatorType.JOIN,
    "LEFT_DELIM_JOIN": OperatorType.JOIN,
    "RIGHT_DELIM_JOIN": OperatorType.JOIN,
    "HASH_GROUP_BY": OperatorType.AGGREGATE,
    "PERFECT_HASH_GROUP_BY": OperatorType.AGGREGATE,
    "UNGROUPED_AGGREGATE": OperatorType.AGGREGATE,
    "WINDOW": OperatorType.AGGREGATE,
    "ORDER_BY": OperatorType.SORT,
    "TOP_N": OperatorType.SORT,
    "STREAMING_LIMIT": OperatorType.LIMIT,
}
OTHERS = ["PROJECTION", "UNION", "CTE", "NESTED_LOOP_JOIN", "CROSS_PRODUCT", "LEFT_DELIM_JOIN", "RIGHT_DELIM_JOIN", "WINDOW"]


def table(name):
    root = os.environ.get("SONA_DATA")
    if not root:
        sys.exit("SKIPPED: SONA_DATA names no directory with duckdb_plan_runs.parquet and duckdb_plan_nodes.parquet")
    return pq.read_table(Path(root) / f"{name}.parquet").to_pylist()


def load():
    """Queries, settings, milliseconds (Q, S), default plans with their operators' milliseconds."""
    runs = table("duckdb_plan_runs")
    queries = sorted({r["query"] for r in runs})
    settings = ["default", *sorted({r["arm"] for r in runs} - {"default"})]
    ms = np.full((len(queries), len(settings)), np.nan)
    for r in runs:
        ms[queries.index(r["query"]), settings.index(r["arm"])] = 1000 * r["cpu_s"]
    nodes = {}
    for r in table("duckdb_plan_nodes"):
        if r["arm"] == "default":
            nodes.setdefault(r["query"], []).append(r)
    plans, times = [], []
    for q in queries:
        plan = QueryDag()
        rows = sorted(nodes.get(q, []), key=lambda r: r["node"])
        at = {}
        for r in rows:
            card = r["est_card"]
            known = card is not None and math.isfinite(card)
            flags = [float(r["op"] == o) for o in OTHERS] + [float(known)]
            kind = KINDS.get(r["op"], OperatorType.OTHER)
            size = min(card, 1e12) if known else 0.0
            at[r["node"]] = plan.add_node(kind, cost=size, rows=size, features=flags)
        for r in rows:
            if r["parent"] in at:
                plan.add_edge(at[r["parent"]], at[r["node"]])
        plans.append(plan)
        times.append([1000 * r["op_time_s"] for r in rows])
    # What did not finish is as slow as the slowest.
    ms = np.where(np.isfinite(ms) & (ms > 0), ms, np.nanmax(ms))
    return queries, settings, ms, plans, times


def halves(n):
    """Positions of the queries that constants are chosen on, and of those that are reported: every other one by number."""
    return {"dev": np.arange(0, n, 2), "report": np.arange(1, n, 2)}


class Fixed:
    """Always the same setting."""

    def __init__(self, at):
        self.at = at

    def pick(self, q):
        return self.at if np.isscalar(self.at) else int(self.at[q])

    def learn(self, q, a, ms):
        pass


class Random:
    def __init__(self, settings, rng):
        self.n, self.rng = settings, rng

    def pick(self, q):
        return int(self.rng.integers(self.n))

    def learn(self, q, a, ms):
        pass


class EpsilonGreedy:
    """Per query: the setting of lowest mean, the default first; with probability epsilon any."""

    def __init__(self, queries, settings, rng, epsilon=0.1):
        self.sum, self.n = np.zeros((queries, settings)), np.zeros((queries, settings))
        self.rng, self.epsilon = rng, epsilon

    def pick(self, q):
        if self.rng.random() < self.epsilon:
            return int(self.rng.integers(self.sum.shape[1]))
        if not self.n[q].any():
            return 0
        mean = np.where(self.n[q] > 0, self.sum[q] / np.maximum(self.n[q], 1), np.inf)
        return int(mean.argmin())

    def learn(self, q, a, ms):
        self.sum[q, a] += ms
        self.n[q, a] += 1


class LinUCB:
    """Disjoint LinUCB (Li et al. 2010) on −ln(ms) of the plan's vector."""

    def __init__(self, vectors, settings, alpha=0.5):
        self.x, d = vectors, vectors.shape[1]
        self.inverse = np.stack([np.eye(d)] * settings)
        self.b = np.zeros((settings, d))
        self.alpha = alpha

    def pick(self, q):
        x = self.x[q]
        mean = (self.inverse @ x * self.b).sum(1)
        width = np.sqrt(np.einsum("i,aij,j->a", x, self.inverse, x))
        return int((mean + self.alpha * width).argmax())

    def learn(self, q, a, ms):
        x = self.x[q]
        v = self.inverse[a] @ x
        self.inverse[a] -= np.outer(v, v) / (1 + x @ v)
        self.b[a] -= x * math.log(ms)


class Sona:
    def __init__(self, plans, settings, seed, budget, every=100):
        self.engine = DagEngine(128, regret_budget=budget, seed=seed)
        self.plans, self.settings, self.every, self.n = plans, settings, every, 0
        self.seconds = self.background = 0.0

    def pick(self, q):
        start = time.perf_counter()
        self.choice = self.engine.choose(self.plans[q], self.settings)
        self.seconds += time.perf_counter() - start
        return self.settings.index(self.choice.setting)

    def timeout(self):
        return self.choice.timeout_ms

    def learn(self, q, a, ms, stopped=False):
        start = time.perf_counter()
        self.engine.post_query(self.plans[q], ms, setting=self.settings[a], stopped=stopped)
        self.seconds += time.perf_counter() - start
        self.n += 1
        if self.n % self.every == 0:
            start = time.perf_counter()
            self.engine.background_learn()
            self.background += time.perf_counter() - start


def play(policy, ms, order, rng, stops=True):
    """Cost of every round, cost of the default there, settings picked."""
    cost, usual, picked = np.empty(len(order)), np.empty(len(order)), np.empty(len(order), int)
    for i, q in enumerate(order):
        noise = np.exp(rng.normal(0, NOISE, ms.shape[1]))
        real = ms[q] * noise
        a = policy.pick(q)
        limit = policy.timeout() if stops and hasattr(policy, "timeout") else None
        stopped = limit is not None and real[a] > limit
        cost[i], usual[i], picked[i] = (limit + real[0] if stopped else real[a]), real[0], a
        if stopped:
            policy.learn(q, a, limit, stopped=True)
        else:
            policy.learn(q, a, real[a])
    return cost, usual, picked


def interval(x):
    """Mean with the half width of its 95 % interval over seeds."""
    x = np.asarray(x, float)
    half = 1.96 * x.std(ddof=1) / math.sqrt(len(x)) if len(x) > 1 else 0.0
    return f"{x.mean():.3f} ± {half:.3f}"


def policies(names, vectors, plans, settings, ms, train, seed):
    rng = np.random.default_rng(1000 + seed)
    n, k = len(plans), len(settings)
    made = {
        "always default": lambda: Fixed(0),
        "best per query (oracle)": lambda: Fixed(ms.argmin(1)),
        "best single setting (hindsight)": lambda: Fixed(int(ms[train].sum(0).argmin())),
        "random": lambda: Random(k, rng),
        "epsilon-greedy per query": lambda: EpsilonGreedy(n, k, rng),
        "LinUCB": lambda: LinUCB(vectors, k),
    }
    for budget in (0.02, 0.05, 0.2):
        made[f"sona, budget {budget:.0%}"] = lambda b=budget: Sona(plans, settings, seed, b)
    made["sona, budget 5%, never stopped"] = lambda: Sona(plans, settings, seed, 0.05)
    return {name: made[name] for name in names or made}


def vectors_of(plans):
    """Plan vectors as the engine's own encoder makes them (without any evidence), and a constant."""
    x = np.stack([DagEngine(128).pre_query(p).vector for p in plans])
    return np.c_[x, np.ones(len(x))]


def by_time(ms, plans, settings, vectors, half, seeds, repeats):
    rows = {}
    bad = ms > 2 * ms[:, :1]
    for seed in range(seeds):
        order = np.concatenate([np.random.default_rng((seed, r)).permutation(half) for r in range(repeats)])
        for name, make in policies(None, vectors, plans, settings, ms, half, seed).items():
            policy = make()
            cost, usual, picked = play(policy, ms, order, np.random.default_rng((seed, 99)), stops="never" not in name)
            late = len(order) // 2
            excess = (np.cumsum(cost) - np.cumsum(usual)) / np.cumsum(usual)
            # After the first pass the running share is meaningful.
            worst = (excess[len(half) :]).max()
            best = play(Fixed(ms.argmin(1)), ms, order, np.random.default_rng((seed, 99)))[0]
            wrong = bad[order, picked]
            seen = rows.setdefault(name, [])
            seen.append(
                [
                    cost.sum() / usual.sum(),
                    cost[late:].sum() / usual[late:].sum(),
                    (cost[late:].sum() - best[late:].sum()) / best[late:].sum(),
                    worst,
                    wrong.sum() / len(half),
                    wrong[late:].mean(),
                    getattr(policy, "seconds", math.nan) / len(order) * 1000,
                ]
            )
        print(f"seed {seed} done", file=sys.stderr, flush=True)
    for name, seen in rows.items():
        if name.startswith("sona"):
            print(f"Greatest running excess of any seed, {name}: {max(s[3] for s in seen):.3f}")
    return rows


def split(half, n, rng):
    """The other half and a random half of this one to learn on, the rest to meet."""
    shuffled = rng.permutation(half)
    test = shuffled[len(half) // 2 :]
    return np.setdiff1d(np.arange(n), test), test


def held_out(ms, plans, settings, vectors, half, seeds, repeats):
    rows = {}
    bad = ms > 2 * ms[:, :1]
    for seed in range(seeds):
        rng = np.random.default_rng((seed, 7))
        train, test = split(half, len(plans), rng)
        order = np.concatenate([rng.permutation(train) for _ in range(min(LEARN_ROUNDS, repeats))])
        for name, make in policies(None, vectors, plans, settings, ms, train, seed).items():
            if "never" in name:
                continue
            policy = make()
            play(policy, ms, order, np.random.default_rng((seed, 98)))
            if isinstance(policy, Sona):
                policy.engine.background_learn()
            cost, usual, picked = play(policy, ms, test, np.random.default_rng((seed, 97)))
            best = play(Fixed(ms.argmin(1)), ms, test, np.random.default_rng((seed, 97)))[0]
            wrong = bad[test, picked]
            rows.setdefault(name, []).append(
                [cost.sum() / usual.sum(), (cost.sum() - best.sum()) / best.sum(), wrong.mean(), (picked > 0).mean()]
            )
        print(f"held-out seed {seed} done", file=sys.stderr, flush=True)
    return rows


def operators(plans, times, half, seeds):
    """Median and mean |ln(predicted/true)| of operators of held-out queries."""
    rows = {}
    for seed in range(seeds):
        train, test = split(half, len(plans), np.random.default_rng((seed, 5)))
        engine = DagEngine(128, seed=seed)
        for _ in range(2):
            for q in train:
                engine.post_query(plans[q], sum(times[q]), sum(times[q]), operator_ms=times[q])
            engine.background_learn()

        def features(q):
            out = []
            for v in range(len(plans[q])):
                op, _, rows_, flags = plans[q].node(v)
                below = sum(plans[q].node(c)[2] for p, c in plans[q].edges if p == v)
                out.append((op.value, [1.0, math.log1p(rows_), math.log1p(below), *flags]))
            return out

        def fit(samples):
            x, y = np.array([s[0] for s in samples]), np.array([s[1] for s in samples])
            return np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ y)

        samples = [(f, math.log(max(t, 1e-3)), op) for q in train for (op, f), t in zip(features(q), times[q], strict=True)]
        everything = fit(samples)
        level = {}
        by_kind = {}
        for op in {s[2] for s in samples}:
            own = [s for s in samples if s[2] == op]
            by_kind[op] = fit(own)
            level[op] = np.mean([s[1] for s in own])
        mean = np.mean([s[1] for s in samples])
        errors = {k: [] for k in ("mean of the kind", "ridge, all kinds", "ridge per kind", "sona")}
        for q in test:
            got = engine.predict_operators(plans[q])
            for (op, f), t, p in zip(features(q), times[q], got, strict=True):
                y = math.log(max(t, 1e-3))
                errors["mean of the kind"].append(abs(level.get(op, mean) - y))
                errors["ridge, all kinds"].append(abs(np.dot(f, everything) - y))
                errors["ridge per kind"].append(abs(np.dot(f, by_kind.get(op, everything)) - y))
                errors["sona"].append(abs(math.log(max(p, 1e-3)) - y))
        for k, e in errors.items():
            rows.setdefault(k, []).append([np.median(e), np.mean(e)])
    return rows


def show(title, columns, rows):
    print(f"\n### {title}\n\n| policy | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
    for name, values in rows.items():
        values = np.array(values)
        cells = [interval(values[:, i]) if np.isfinite(values[:, i]).all() else "" for i in range(values.shape[1])]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--half", choices=["dev", "report"], default="report")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    seeds, repeats = (2, 10) if args.quick else (args.seeds, args.repeats)
    queries, settings, ms, plans, times = load()
    half = halves(len(queries))[args.half]
    print(
        f"{len(half)} of {len(queries)} queries, {len(settings)} settings, {repeats} rounds per query, {seeds} seeds; "
        "mean ± 95 % interval"
    )
    vectors = vectors_of(plans)
    show(
        "Operators of held-out queries: |ln(predicted / measured)|",
        ["median", "mean"],
        operators(plans, times, half, seeds),
    )
    show(
        f"New queries, after {min(LEARN_ROUNDS, repeats)} rounds of each known one",
        ["time / default", "regret / best", "bad settings", "away from default"],
        held_out(ms, plans, settings, vectors, half, seeds, repeats),
    )
    show(
        "Returning queries",
        [
            "time / default, all rounds",
            "time / default, last half",
            "regret / best, last half",
            "worst running excess over default",
            "bad runs per query",
            "bad share, last half",
            "ms per round in the engine",
        ],
        by_time(ms, plans, settings, vectors, half, seeds, repeats),
    )


if __name__ == "__main__":
    main()
