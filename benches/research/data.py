"""Data sets of the retrieval experiments: published split, or a dev split carved from the training queries.

Reads the directory SONA_DATA. Intent names are embedded by ``embed_items.py`` into SONA_CACHE (default
``.cache`` beside this file), which may also hold further sets; a set that is absent is skipped, loudly.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

F32 = NDArray[np.float32]


@dataclass
class DataSet:
    """Items, a pool of training requests to stream from, and test requests."""

    name: str
    items: F32
    pool: F32
    pool_rel: list[list[int]]
    test: F32
    test_rel: list[list[int]]
    shown: int
    metric: str  # "hit" (hit@1) or "ndcg" (nDCG@10)
    requests: int


def data_dir() -> Path:
    """SONA_DATA, or stop with a message."""
    if "SONA_DATA" not in os.environ:
        sys.exit("SKIPPED: set SONA_DATA to the directory that holds the benchmark data")
    return Path(os.environ["SONA_DATA"])


def cache_dir() -> Path:
    """Where derived vectors live."""
    return Path(os.environ.get("SONA_CACHE", Path(__file__).parent / ".cache"))


def unit(x: np.ndarray) -> F32:
    """Rows as float32 of unit length."""
    x = np.asarray(x, np.float32)
    return np.ascontiguousarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def carve(groups: np.ndarray, share: float, fold: int) -> np.ndarray:
    """A mask that takes `share` of every group; folds 0, 1, … 1/share − 1 are disjoint."""
    rng = np.random.default_rng(12345)
    folds = round(1 / share)
    mask = np.zeros(len(groups), bool)
    for g in np.unique(groups):
        rows = rng.permutation(np.flatnonzero(groups == g))
        mask[rows[fold % folds :: folds]] = True
    return mask


def intents(name: str, split: str, fold: int = 0) -> DataSet:
    """Banking77 or CLINC150 (without out-of-scope): the items are the intent names."""
    d = data_dir()
    frame = pd.read_parquet(d / f"{name}.parquet")
    x = unit(np.load(d / f"{name}_minilm_fp16.npz")["x"])
    names = np.load(cache_dir() / f"{name}_names.npz")
    index = {n: i for i, n in enumerate(names["names"])}
    y = np.array([index.get(i, -1) for i in frame.intent])
    train = (frame.split == "train").to_numpy() & (y >= 0)
    test = (frame.split == "test").to_numpy() & (y >= 0)
    return intent_set(name, x, y, train, test, unit(names["x"]), split, fold)


def intent_set(
    name: str,
    x: F32,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    items: F32,
    split: str,
    fold: int = 0,
) -> DataSet:
    """Requests x with one relevant item y each; split "dev" holds out 20 % of the training requests."""
    if split == "dev":
        rows = np.flatnonzero(train)
        held = carve(y[rows], 0.2, fold)
        train, test = np.zeros(len(y), bool), np.zeros(len(y), bool)
        train[rows[~held]], test[rows[held]] = True, True
    rel = [[int(i)] for i in y]
    pool_rel = [rel[i] for i in np.flatnonzero(train)]
    test_rel = [rel[i] for i in np.flatnonzero(test)]
    return DataSet(name, items, x[train], pool_rel, x[test], test_rel, 5, "hit", 3000)


def extra_intents(name: str, split: str, fold: int = 0) -> DataSet:
    """A further intent set from the cache: x, y, split, v (item vectors)."""
    z = np.load(cache_dir() / f"{name}.npz")
    part = z["split"]
    x, items = unit(z["x"]), unit(z["v"])
    return intent_set(name, x, z["y"], part == "train", part == "test", items, split, fold)


def scifact(split: str, fold: int = 0) -> DataSet:
    """SciFact claims over 5,183 abstracts; split "dev" holds out a quarter of the training claims."""
    d = data_dir()
    docs = pd.read_parquet(d / "scifact_docs.parquet")
    queries = pd.read_parquet(d / "scifact_queries.parquet")
    qrels = pd.read_parquet(d / "scifact_qrels.parquet")
    items = unit(np.load(d / "scifact_doc_minilm_fp16.npz")["x"])
    x = unit(np.load(d / "scifact_query_minilm_fp16.npz")["x"])
    index = {k: i for i, k in enumerate(docs.doc_id)}
    rel: dict[object, list[int]] = {}
    for row in qrels.itertuples():
        rel.setdefault((row.query_id, row.split), []).append(index[row.doc_id])
    labels = [rel.get((q, s), []) for q, s in zip(queries.query_id, queries.split, strict=True)]
    train = (queries.split == "train").to_numpy()
    test = (queries.split == "test").to_numpy()
    if split == "dev":
        rows = np.flatnonzero(train)
        held = carve(np.zeros(len(rows)), 0.25, fold)
        train, test = np.zeros(len(x), bool), np.zeros(len(x), bool)
        train[rows[~held]], test[rows[held]] = True, True

    def pick(m: np.ndarray) -> list[list[int]]:
        return [labels[i] for i in np.flatnonzero(m)]

    return DataSet("scifact", items, x[train], pick(train), x[test], pick(test), 10, "ndcg", int(train.sum()))


def domains(split: str, fold: int = 0) -> list[DataSet]:
    """CLINC150 cut into its ten domains, each a small item set of its own (15 intents)."""
    full = intents("clinc150", split, fold)
    frame = pd.read_parquet(data_dir() / "clinc150.parquet")
    names = list(np.load(cache_dir() / "clinc150_names.npz")["names"])
    domain_of = dict(zip(frame.intent, frame.domain, strict=True))
    out = []
    for dom in sorted({domain_of[n] for n in names}):
        ids = [i for i, n in enumerate(names) if domain_of[n] == dom]
        new = {i: j for j, i in enumerate(ids)}
        p = [i for i, r in enumerate(full.pool_rel) if r[0] in new]
        t = [i for i, r in enumerate(full.test_rel) if r[0] in new]
        out.append(
            DataSet(
                f"clinc-{dom}", full.items[ids], full.pool[p], [[new[full.pool_rel[i][0]]] for i in p],
                full.test[t], [[new[full.test_rel[i][0]]] for i in t], 5, "hit", 600,
            )
        )  # fmt: skip
    return out


def utterances(split: str, fold: int = 0) -> DataSet:
    """A retrieval set from CLINC150: the items are 1,200 stored requests, relevant is the same intent."""
    full = intents("clinc150", "dev", fold)
    rng = np.random.default_rng(7)
    y = np.array([r[0] for r in full.pool_rel])
    stored = np.concatenate([rng.permutation(np.flatnonzero(y == c))[:8] for c in range(150)])
    rest = np.setdiff1d(np.arange(len(y)), stored)
    rel = [[int(j) for j in np.flatnonzero(y[stored] == c)] for c in range(150)]
    pool_rel, test_rel = [rel[y[i]] for i in rest], [rel[r[0]] for r in full.test_rel]
    items = full.pool[stored]
    return DataSet("utterances", items, full.pool[rest], pool_rel, full.test, test_rel, 10, "ndcg", 1500)


def load(name: str, split: str, fold: int = 0) -> DataSet:
    """One set by name; any name in the cache beyond the known ones works as a further intent set."""
    if name == "scifact":
        return scifact(split, fold)
    if name in ("banking77", "clinc150"):
        return intents(name, split, fold)
    if name == "utterances":
        return utterances(split, fold)
    if name.startswith("clinc-"):
        return next(s for s in domains(split, fold) if s.name == name)
    return extra_intents(name, split, fold)
