"""Routing sets: what every model made of every request, and what it cost.

Two layouts in the directory that ``SONA_DATA`` names are understood, for any set:

- ``NAME*.parquet`` with columns ``score|MODEL`` and ``cost|MODEL``, optionally ``task`` and ``split`` ("train", "test"), and
  embeddings in ``NAME_query_minilm_fp16.npz`` (or another ``NAME*_minilm_fp16.npz`` with as many rows);
- ``NAME_tasks.parquet`` (task_type, dataset, task_id, prompt) and ``NAME_runs.parquet`` (model, the same keys, success,
  prompt_tokens, completion_tokens), embeddings in ``NAME_task_minilm_fp16.npz``. Costs are tokens times an ASSUMED price.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona.bench.datasets import _columns, _unit, data_directory
from sona.exceptions import SonaError

__all__ = ["RoutingSet", "load_routing_set", "resplit"]

Floats = NDArray[np.float64]

#: Assumed prices in USD per million prompt and completion tokens, of the order of what hosts have charged.
ASSUMED_PRICES = {
    "gpt-4-0613": (30.0, 60.0),
    "gpt-3.5-turbo-16k-0613": (3.0, 4.0),
    "gpt-3.5-turbo-0613": (1.5, 2.0),
    "Meta-Llama-3-70B-Instruct": (0.9, 0.9),
    "deepseek-llm-67b-chat": (0.9, 0.9),
    "Eurus-70B-NCA": (0.9, 0.9),
    "Qwen1.5-72B-Chat": (0.9, 0.9),
    "Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6),
    "deepseek-coder-33b-instruct": (0.8, 0.8),
    "CodeActAgent-Mistral-7b-v0.1": (0.2, 0.2),
    "Meta-Llama-3-8B-Instruct": (0.2, 0.2),
    "Starling-LM-7B-alpha": (0.2, 0.2),
}
#: Models of a set of runs, and the chance of a request to be for training where a set comes without a split.
MODELS, TRAIN_SHARE = 12, 0.6


@dataclass(frozen=True)
class RoutingSet:
    """Requests, models, outcomes.

    Attributes
    ----------
    x : (n, d) float32, unit rows
    quality, cost : (n, m) float64
        In [0, 1]; in USD.
    task : (n,) int64
        Kind of request; for analysis, never an input of a router.
    train, test : int64
        Positions.
    cost_basis : str
        Where costs come from.
    """

    name: str
    models: tuple[str, ...]
    x: NDArray[np.float32]
    quality: Floats
    cost: Floats
    task: NDArray[np.int64]
    train: NDArray[np.int64]
    test: NDArray[np.int64]
    cost_basis: str
    own_split: bool

    @property
    def best(self) -> int:
        """The model of greatest mean quality on the training rows."""
        return int(self.quality[self.train].mean(axis=0).argmax())


def resplit(data: RoutingSet, seed: int) -> RoutingSet:
    """The set with another random split, or as it is if it came with one."""
    if data.own_split:
        return data
    train, test = _split(None, len(data.x), seed)
    return replace(data, train=train, test=test)


def _has_split(labels: list[Any] | None) -> bool:
    return labels is not None and {"train", "test"} <= set(labels)


def _split(labels: list[Any] | None, n: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if labels is not None and _has_split(labels):
        given = np.array(labels)
        return np.flatnonzero(given == "train"), np.flatnonzero(given == "test")
    train = np.random.default_rng(seed).random(n) < TRAIN_SHARE
    return np.flatnonzero(train), np.flatnonzero(~train)


def _embeddings(folder: Path, names: list[str], rows: int) -> NDArray[np.float32]:
    seen = []
    for name in names:
        for path in sorted(folder.glob(f"{name}*_minilm_fp16.npz")):
            with np.load(path, allow_pickle=False) as z:
                x = _unit(z["x"])
            if len(x) == rows:
                return x
            seen.append(f"{path.name} ({len(x)} rows)")
    raise SonaError(f"no embeddings with {rows} rows for {names[0]!r} in {folder}; found {seen or 'none'}")


def _scored(folder: Path, name: str, path: Path) -> RoutingSet:
    table = _columns(path)
    models = tuple(c[6:] for c in table if c.startswith("score|") and f"cost|{c[6:]}" in table)
    quality = np.array([table[f"score|{m}"] for m in models], dtype=np.float64).T
    cost = np.array([table[f"cost|{m}"] for m in models], dtype=np.float64).T
    tasks = table.get("task") or table.get("dataset") or ["all"] * len(quality)
    train, test = _split(table.get("split"), len(quality))
    return RoutingSet(
        name=name,
        models=models,
        x=_embeddings(folder, [name, path.stem], len(quality)),
        quality=np.clip(quality, 0.0, 1.0),
        cost=cost,
        task=np.unique(tasks, return_inverse=True)[1].ravel(),
        train=train,
        test=test,
        cost_basis="recorded costs",
        own_split=_has_split(table.get("split")),
    )


def _assumed_price(model: str) -> tuple[float, float]:
    size = re.search(r"(\d+(?:\.\d+)?)\s*b\b", model.lower())
    billions = float(size.group(1)) if size else 70.0
    price = next(p for limit, p in ((9, 0.2), (15, 0.3), (40, 0.8), (1e9, 0.9)) if billions <= limit)
    return ASSUMED_PRICES.get(model, (price, price))


def _runs(folder: Path, name: str) -> RoutingSet:
    tasks, runs = _columns(folder / f"{name}_tasks.parquet"), _columns(folder / f"{name}_runs.parquet")
    keys = list(zip(tasks["task_type"], tasks["dataset"], tasks["task_id"], strict=True))
    position = {key: i for i, key in enumerate(keys)}
    n = len(keys)
    success: dict[str, Floats] = {}
    spent: dict[str, Floats] = {}
    columns = ("model", "task_type", "dataset", "task_id", "success", "prompt_tokens", "completion_tokens")
    for model, kind, source, task, good, prompt, completion in zip(*(runs[c] for c in columns), strict=True):
        i = position.get((kind, source, task))
        if i is None:
            continue
        success.setdefault(model, np.full(n, np.nan))[i] = float(bool(good))
        dear, cheap = _assumed_price(model)
        tokens = (np.nan if v is None else float(v) for v in (prompt, completion))
        spent.setdefault(model, np.full(n, np.nan))[i] = sum(t * p for t, p in zip(tokens, (dear, cheap), strict=True)) / 1e6
    train, test = _split(None, n)
    whole = [m for m in sorted(success) if not (np.isnan(success[m]).any() or np.isnan(spent[m]).any())]
    models = [m for m in ASSUMED_PRICES if m in whole]
    if len(models) < MODELS:
        models = sorted(whole, key=lambda m: -success[m][train].mean())[:MODELS]
    return RoutingSet(
        name=name,
        models=tuple(models),
        x=_embeddings(folder, [f"{name}_task", name], n),
        quality=np.array([success[m] for m in models]).T,
        cost=np.array([spent[m] for m in models]).T,
        task=np.unique(tasks["dataset"], return_inverse=True)[1].ravel(),
        train=train,
        test=test,
        cost_basis="recorded tokens at assumed prices",
        own_split=False,
    )


def load_routing_set(name: str) -> RoutingSet:
    """Load one set by name.

    Raises
    ------
    SonaError
        If ``SONA_DATA`` is not set or holds no such set.
    """
    folder = data_directory()
    if (folder / f"{name}_runs.parquet").exists() and (folder / f"{name}_tasks.parquet").exists():
        return _runs(folder, name)
    for path in sorted(folder.glob(f"{name}*.parquet")):
        import pyarrow.parquet

        if any(c.startswith("score|") for c in pyarrow.parquet.read_schema(path).names):
            return _scored(folder, name, path)
    raise SonaError(
        f"no routing set {name!r} in {folder}: expected {name}*.parquet with score| columns, or {name}_runs.parquet"
    )
