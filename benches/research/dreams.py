"""Do dreams suggest the right links, and does consolidation keep what matters? Against the simple ways, on real data.

``SONA_DATA=… python benches/research/dreams.py`` writes ``benches/results/dreams_links.md``,
``dreams_integration.md`` and ``dreams_consolidation.md``; ``--only links`` (or another) writes one of them.

Links: a tenth of a graph's edges is hidden; a method scores them against as many pairs that are no edge; AUC. The walk
with restart uses edges alone; the dream law adds creative jumps (exp(cos / .2) among non-neighbours) and is computed
exactly, not sampled: where a dream from a spends its time. Both are summed over the two directions of a pair.

Consolidation: memories are requests with their intent; another part of the requests uses them (accesses, and importance:
how often the memory had the right intent); then half of the bytes must go. Judged on the published test requests:
recall@10 is the share whose intent is among the ten nearest memories, accuracy that of the nearest one.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from data import data_dir, unit
from scipy.stats import rankdata, t

from sona.dreams import DreamConfig, DreamEngine, MemoryConsolidator, MemoryNode, PhiEvaluator, random_walk_with_restart
from sona.patterns import VectorIndex, kmeans

ROOT = Path(__file__).resolve().parents[2]
RESTART, JUMP, TEMPERATURE = 0.1, 0.3, 0.2


def interval(values: list[float]) -> str:
    """Mean and half-width of the 95 % t interval."""
    v = np.asarray(values)
    half = t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v)) if len(v) > 1 else float("nan")
    return f"{v.mean():.3f} ± {half:.3f}"


# --- graphs ----------------------------------------------------------------------------------------------------------


def miserables() -> tuple[np.ndarray, np.ndarray | None]:
    """Co-appearances in Les Misérables (Knuth 1993); no features."""
    with np.load(ROOT / "tests/golden/learning/dreams.npz") as z:
        return z["rwr_0/W"].astype(np.float64), None


def cora() -> tuple[np.ndarray, np.ndarray | None]:
    """Citations, with the words of each paper."""
    with np.load(data_dir() / "cora.npz") as z:
        n, d = z["x_shape"]
        x = np.zeros((n, d), np.float32)
        for i in range(n):
            row = slice(z["x_indptr"][i], z["x_indptr"][i + 1])
            x[i, z["x_indices"][row]] = z["x_data"][row]
        w = np.zeros((n, n))
        edges = z["edges"].T if z["edges"].shape[0] == 2 else z["edges"]
        w[edges[:, 0], edges[:, 1]] = w[edges[:, 1], edges[:, 0]] = 1.0
    np.fill_diagonal(w, 0)
    # A word counts more the rarer it is: without this the common ones decide every cosine.
    idf = np.log(n / np.maximum((x > 0).sum(0), 1))
    return w, unit(x * idf + 1e-12)


def co_click(queries: np.ndarray, items: np.ndarray, n: int) -> np.ndarray:
    """Items chosen for similar requests: each request with its five nearest, similarity .6 at least."""
    index = VectorIndex(queries.shape[1])
    index.add(np.arange(len(queries)), queries)
    near, cosine = index.search(queries, 6)
    w = np.zeros((n, n))
    for i in range(len(queries)):
        for j, c in zip(near[i], cosine[i], strict=True):
            if j >= 0 and c >= 0.6 and items[i] != items[j]:
                w[items[i], items[j]] += c
                w[items[j], items[i]] += c
    return w


def labelled(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and intent numbers of one split, without what is out of scope."""
    frame = pd.read_parquet(data_dir() / f"{name}.parquet")
    with np.load(data_dir() / f"{name}_minilm_fp16.npz") as z:
        x = unit(z["x"].astype(np.float32))
    keep = ((frame["split"] == split) & ~frame["intent"].isin(["oos", "out_of_scope"])).to_numpy()
    codes = pd.Categorical(frame["intent"]).codes.astype(np.int64)
    return x[keep], codes[keep]


def intents(name: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Intents chosen for similar requests; an intent's vector comes from the other half of the requests."""
    x, y = labelled(name, "train")
    half = np.random.default_rng(0).random(len(x)) < 0.5
    n = int(y.max()) + 1
    vectors = np.zeros((n, x.shape[1]), np.float32)
    np.add.at(vectors, y[half], x[half])
    used = np.flatnonzero(np.linalg.norm(vectors, axis=1) > 0)
    w = co_click(x[~half], y[~half], n)
    return w[np.ix_(used, used)], unit(vectors[used])


def scifact() -> tuple[np.ndarray, np.ndarray | None]:
    """Abstracts that are evidence for similar claims; vectors of the abstracts."""
    root = data_dir()
    docs, queries = pd.read_parquet(root / "scifact_docs.parquet"), pd.read_parquet(root / "scifact_queries.parquet")
    qrels = pd.read_parquet(root / "scifact_qrels.parquet")
    with np.load(root / "scifact_doc_minilm_fp16.npz") as z:
        x = unit(z["x"].astype(np.float32))
    with np.load(root / "scifact_query_minilm_fp16.npz") as z:
        q = unit(z["x"].astype(np.float32))
    doc = {str(v): i for i, v in enumerate(docs["doc_id"])}
    claim = {str(v): i for i, v in enumerate(queries["query_id"])}
    pairs = [(claim[str(a)], doc[str(b)]) for a, b in zip(qrels["query_id"], qrels["doc_id"], strict=True)]
    rows, items = np.array(pairs).T
    w = co_click(q[rows], items, len(x))
    used = np.flatnonzero(w.sum(0) > 0)
    return w[np.ix_(used, used)], x[used]


# --- links -----------------------------------------------------------------------------------------------------------


def stationary(p: np.ndarray) -> np.ndarray:
    """Row i: where a walk with restart at i spends its time."""
    n = len(p)
    p = p.copy()
    empty = p.sum(1) == 0
    p[empty] = np.eye(n)[empty]
    return RESTART * np.linalg.inv(np.eye(n) - (1 - RESTART) * p)


def scorers(w: np.ndarray, x: np.ndarray | None, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Scores of all pairs by each method, given the visible edges."""
    n = len(w)
    a = (w > 0).astype(np.float64)
    degree = a.sum(1)
    p = w / np.maximum(w.sum(1, keepdims=True), 1e-300)
    rwr = stationary(p)
    start = int(degree.argmax())
    ours = random_walk_with_restart(w, start, restart=RESTART)
    assert np.abs(ours - rwr[start]).max() < 1e-6, "the bench's matrix inverse and the library disagree"
    out = {
        "random": rng.random((n, n)),
        "common neighbours": a @ a,
        "Adamic–Adar": a @ np.diag(1 / np.log(np.maximum(degree, 2))) @ a,
        "degree product": np.outer(degree, degree),
        "walk with restart": rwr + rwr.T,
    }
    if x is not None:
        cos = (x @ x.T).astype(np.float64)
        out["cosine"] = cos
        jump = np.exp((cos - 1) / TEMPERATURE) * (a == 0)
        np.fill_diagonal(jump, 0)
        jump /= jump.sum(1, keepdims=True)
        dream = stationary(np.where(degree[:, None] > 0, (1 - JUMP) * p, 0) + np.where(degree[:, None] > 0, JUMP, 1) * jump)
        out["dream law"] = dream + dream.T
        ranks = sum(rankdata(m).reshape(n, n) for m in (out["Adamic–Adar"], cos))
        out["Adamic–Adar + cosine (ranks)"] = np.asarray(ranks)
    return {k: np.where(np.isfinite(v), v, 0) for k, v in out.items()}


def auc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a hidden edge scores above a pair that is none; ties count half."""
    ranks = rankdata(np.concatenate([positive, negative]))
    m = len(positive)
    return float((ranks[:m].sum() - m * (m + 1) / 2) / (m * len(negative)))


def links(name: str, load: Callable[[], tuple[np.ndarray, np.ndarray | None]], seeds: int) -> list[str]:
    """Rows of the table for one graph."""
    w, x = load()
    n = len(w)
    upper = np.argwhere(np.triu(w > 0, 1))
    table: dict[str, list[float]] = {}
    suggested: list[float] = []
    chance: list[float] = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        hidden = upper[rng.permutation(len(upper))[: len(upper) // 10]]
        seen = w.copy()
        seen[hidden[:, 0], hidden[:, 1]] = seen[hidden[:, 1], hidden[:, 0]] = 0
        pairs = rng.integers(0, n, (20 * len(hidden) + 100, 2))
        free = pairs[(pairs[:, 0] != pairs[:, 1]) & (w[pairs[:, 0], pairs[:, 1]] == 0)][: len(hidden)]
        for method, score in scorers(seen, x, rng).items():
            table.setdefault(method, []).append(auc(score[hidden[:, 0], hidden[:, 1]], score[free[:, 0], free[:, 1]]))
        if x is not None:
            hits, total = suggestions(seen, x, hidden, seed)
            suggested.append(hits / max(total, 1))
            chance.append(len(hidden) / (n * (n - 1) / 2 - (np.triu(seen, 1) > 0).sum()))
    rows = [f"| {name} | {n:,} / {len(upper):,} | {m} | {interval(v)} |" for m, v in table.items()]
    if suggested:
        rows.append(
            f"| {name} | {n:,} / {len(upper):,} | *links suggested by 500 dreams that were hidden edges (chance "
            f"{np.mean(chance):.4f})* | {interval(suggested)} |"
        )
    return rows


def engine_of(w: np.ndarray, x: np.ndarray, seed: int) -> DreamEngine:
    """The graph as memories and links."""
    engine = DreamEngine(DreamConfig(probation=1_000_000), seed=seed)
    for i in range(len(w)):
        engine.add_memory_node(MemoryNode(i, x[i]))
    for i, j in np.argwhere(np.triu(w > 0, 1)):
        engine.add_edge(int(i), int(j), float(w[i, j]))
    return engine


def integrated(name: str, load: Callable[[], tuple[np.ndarray, np.ndarray | None]], seeds: int) -> list[str]:
    """Share of 200 dreams whose sub-graph hangs together, for graphs with features."""
    w, x = load()
    if x is None:
        return []
    share = []
    for seed in range(seeds):
        engine = engine_of(w, x, seed)
        share.append(np.mean([PhiEvaluator().evaluate_dream(d, engine) >= 0.3 for d in engine.generate_dreams(200)]))
    return [f"| {name} | {interval([float(v) for v in share])} |"]


def suggestions(w: np.ndarray, x: np.ndarray, hidden: np.ndarray, seed: int) -> tuple[int, int]:
    """Hidden edges among the links that dreams suggest, and the number of links."""
    engine = engine_of(w, x, seed)
    for dream in engine.generate_dreams(500):
        engine.integrate_dream(dream)
    new = {(min(a, b), max(a, b)) for a, b, _, probation in engine.edges() if probation}
    return len(new & {(int(a), int(b)) for a, b in hidden}), len(new)


# --- consolidation ---------------------------------------------------------------------------------------------------


def judged(x: np.ndarray, y: np.ndarray, test: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Recall@10 and accuracy of the nearest memory."""
    index = VectorIndex(x.shape[1], kind="flat")
    index.add(np.arange(len(x)), x)
    near, _ = index.search(test, 10)
    found = y[near] == truth[:, None]
    return float(found.any(1).mean()), float(found[:, 0].mean())


def consolidation(name: str, seeds: int) -> list[str]:
    """Rows of the table for one data set."""
    x, y = labelled(name, "train")
    test, truth = labelled(name, "test")
    table: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(x))
        used, kept = order[: len(x) // 5], order[len(x) // 5 :]
        mem, lab = x[kept], y[kept]
        index = VectorIndex(mem.shape[1], kind="flat")
        index.add(np.arange(len(mem)), mem)
        near, _ = index.search(x[used], 3)
        access = np.bincount(near.ravel(), minlength=len(mem))
        right = np.bincount(near.ravel(), weights=(lab[near] == y[used][:, None]).ravel(), minlength=len(mem))
        importance = (right + 1) / (access + 2)
        half = len(mem) // 2
        budget = half * (4 * mem.shape[1] + 32)
        nodes = [
            MemoryNode(i, v, access_count=int(a), importance=float(p))
            for i, (v, a, p) in enumerate(zip(mem, access, importance, strict=True))
        ]

        def keep(coverage: int | None, nodes=nodes, budget=budget, mem=mem) -> np.ndarray:  # type: ignore[no-untyped-def]
            result = MemoryConsolidator(max_bytes=budget, coverage=coverage).consolidate(nodes, now=0.0)
            assert result.bytes_after <= 0.5 * result.bytes_before
            return np.array([n.id for n in result.nodes])

        full = judged(mem, lab, test, truth)
        ways: dict[str, Callable[[], np.ndarray]] = {
            "value, coverage √K (default)": lambda: keep(None),
            "value, no coverage": lambda: keep(0),
            "value, coverage K/4": lambda h=half: keep(h // 4),  # type: ignore[misc]
            "random": lambda r=rng, m=mem, h=half: r.permutation(len(m))[:h],  # type: ignore[misc]
            "k-means, memory nearest to each centre": lambda m=mem, h=half, s=seed: medoids(m, h, s),  # type: ignore[misc]
        }
        table.setdefault("everything (no budget)", []).append((*full, 0.0))
        for way, chosen in ways.items():
            start = time.perf_counter()
            rows = chosen()
            spent = time.perf_counter() - start
            table.setdefault(way, []).append((*judged(mem[rows], lab[rows], test, truth), spent))
    base = np.array([r[0] for r in table["everything (no budget)"]])
    out = []
    for way, values in table.items():
        recall, accuracy, spent = (np.array(c) for c in zip(*values, strict=True))
        loss = interval(list(100 * (base - recall)))
        out.append(f"| {name} | {way} | {interval(list(recall))} | {loss} | {interval(list(accuracy))} | {spent.mean():.2f} |")
    return out


def medoids(x: np.ndarray, k: int, seed: int) -> np.ndarray:
    """The memory nearest to each k-means centre."""
    start = x[np.random.default_rng(seed).permutation(len(x))[:k]]
    got = kmeans(x, k, init=start, max_iterations=5)
    cosine = np.einsum("ij,ij->i", x, unit(got.centroids + 1e-12)[got.labels])
    order = np.lexsort((-cosine, got.labels))
    return order[np.unique(got.labels[order], return_index=True)[1]]


def main() -> int:
    """Write the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["links", "integration", "consolidation"])
    parser.add_argument("--out", type=Path, default=ROOT / "benches/results", help="directory of the tables")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    data_dir()
    graphs = {
        "Les Misérables": miserables,
        "Cora": cora,
        "Banking77 intents": lambda: intents("banking77"),
        "CLINC150 intents": lambda: intents("clinc150"),
        "SciFact abstracts": scifact,
    }
    tables = {
        "links": (
            "Hidden links: AUC",
            "graph | nodes / edges | method | AUC",
            (links(name, load, options.seeds) for name, load in graphs.items()),
        ),
        "integration": (
            "Dreams with an integration of at least .3",
            "graph | share",
            (integrated(name, load, options.seeds) for name, load in graphs.items()),
        ),
        "consolidation": (
            "Half of the bytes",
            "data | kept by | recall@10 | loss (points) | accuracy of the nearest | seconds",
            (consolidation(name, options.seeds) for name in ("banking77",)),
        ),
    }
    for key, (title, head, parts) in tables.items():
        if options.only not in (None, key):
            continue
        command = f"SONA_DATA=… python benches/research/dreams.py --only {key}"
        lines = [f"# {title}", "", f"Written by `{command}`; mean ± 95 % t interval over {options.seeds} seeds.", ""]
        lines += [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
        for rows in parts:
            print("\n".join(rows), flush=True)
            lines += rows
        (options.out / f"dreams_{key}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
