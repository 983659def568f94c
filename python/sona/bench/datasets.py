"""Public retrieval sets, read from the directory that the environment variable ``SONA_DATA`` names.

A set is a parquet file of texts with an ``.npz`` of embeddings beside it (key ``x``, row i of one is row i of the other). Two
layouts are understood:

- documents, queries and qrels: ``NAME_docs.parquet`` (doc_id, …), ``NAME_queries.parquet`` (query_id, split, …),
  ``NAME_qrels.parquet`` (query_id, doc_id, split), ``NAME_doc_minilm_fp16.npz``, ``NAME_query_minilm_fp16.npz``;
- intents: ``NAME.parquet`` (text, intent, split) and ``NAME_minilm_fp16.npz``; the items are the embedded intent names,
  for which the extra ``minilm`` is needed (or ``NAME_intents_minilm.npz`` with keys ``names`` and ``x``).

A set of your own in either layout works by its name.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona.exceptions import SonaError

__all__ = ["RetrievalSet", "data_directory", "load_set"]

_NOT_AN_INTENT = "oos"


@dataclass(frozen=True)
class RetrievalSet:
    """Items, a stream of training requests, and held-out requests.

    Attributes
    ----------
    items : (n, d) float32, unit rows
    train, test : (m, d) float32, unit rows
    train_relevant, test_relevant
        Positions of the relevant items of each request.
    shown : int
        Places that a user sees.
    metric : {"hit@1", "ndcg@10"}
    requests : int
        Length of the stream.
    closed : bool
        True if every request wants exactly one of the items (intents).
    """

    name: str
    items: NDArray[np.float32]
    train: NDArray[np.float32]
    train_relevant: tuple[tuple[int, ...], ...]
    test: NDArray[np.float32]
    test_relevant: tuple[tuple[int, ...], ...]
    shown: int
    metric: str
    requests: int
    closed: bool


def data_directory() -> Path:
    """The directory named by ``SONA_DATA``; an error that says so if it is not set."""
    name = os.environ.get("SONA_DATA")
    if not name:
        raise SonaError("set the environment variable SONA_DATA to the directory that holds the benchmark data")
    path = Path(name)
    if not path.is_dir():
        raise SonaError(f"SONA_DATA: {name} is not a directory")
    return path


def _unit(x: NDArray[Any]) -> NDArray[np.float32]:
    rows = np.asarray(x, dtype=np.float32)
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _columns(path: Path) -> dict[str, list[Any]]:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("reading parquet needs pyarrow: pip install 'sona[bench]'") from error
    columns: dict[str, list[Any]] = pyarrow.parquet.read_table(path).to_pydict()
    return columns


def _vectors(path: Path) -> NDArray[np.float32]:
    with np.load(path, allow_pickle=False) as z:
        return _unit(z["x"])


def _ranked(folder: Path, name: str) -> RetrievalSet:
    docs, queries, qrels = (_columns(folder / f"{name}_{part}.parquet") for part in ("docs", "queries", "qrels"))
    position = {doc: i for i, doc in enumerate(docs["doc_id"])}
    relevant: dict[tuple[Any, str], list[int]] = {}
    for query, doc, split in zip(qrels["query_id"], qrels["doc_id"], qrels["split"], strict=True):
        relevant.setdefault((query, split), []).append(position[doc])
    labels = [tuple(relevant.get(key, ())) for key in zip(queries["query_id"], queries["split"], strict=True)]
    x = _vectors(folder / f"{name}_query_minilm_fp16.npz")
    rows = {part: [i for i, s in enumerate(queries["split"]) if s == part] for part in ("train", "test")}
    return RetrievalSet(
        name=name,
        items=_vectors(folder / f"{name}_doc_minilm_fp16.npz"),
        train=x[rows["train"]],
        train_relevant=tuple(labels[i] for i in rows["train"]),
        test=x[rows["test"]],
        test_relevant=tuple(labels[i] for i in rows["test"]),
        shown=10,
        metric="ndcg@10",
        requests=len(rows["train"]),
        closed=False,
    )


def _intent_names(folder: Path, name: str, intents: Sequence[str]) -> NDArray[np.float32]:
    ready = folder / f"{name}_intents_minilm.npz"
    if ready.exists():
        with np.load(ready, allow_pickle=False) as z:
            known = {str(n): i for i, n in enumerate(z["names"])}
            return _unit(z["x"][[known[i] for i in intents]])
    from sona.embed import MiniLmEmbedder

    return _unit(MiniLmEmbedder().embed([i.replace("_", " ") for i in intents]))


def _intents(folder: Path, name: str) -> RetrievalSet:
    table = _columns(folder / f"{name}.parquet")
    intents = sorted(set(table["intent"]) - {_NOT_AN_INTENT})
    position = {intent: i for i, intent in enumerate(intents)}
    x = _vectors(folder / f"{name}_minilm_fp16.npz")
    rows: dict[str, list[int]] = {"train": [], "test": []}
    for i, (intent, split) in enumerate(zip(table["intent"], table["split"], strict=True)):
        if intent in position and split in rows:
            rows[split].append(i)
    labels = {part: tuple((position[table["intent"][i]],) for i in rows[part]) for part in rows}
    return RetrievalSet(
        name=name,
        items=_intent_names(folder, name, intents),
        train=x[rows["train"]],
        train_relevant=labels["train"],
        test=x[rows["test"]],
        test_relevant=labels["test"],
        shown=5,
        metric="hit@1",
        requests=3000,
        closed=True,
    )


def load_set(name: str) -> RetrievalSet:
    """Load one set by name.

    Raises
    ------
    SonaError
        If ``SONA_DATA`` is not set or holds no set of this name.
    ImportError
        If an extra is missing; the message carries the command that installs it.
    """
    folder = data_directory()
    if (folder / f"{name}_qrels.parquet").exists():
        return _ranked(folder, name)
    if (folder / f"{name}.parquet").exists():
        return _intents(folder, name)
    raise SonaError(f"no set {name!r} in {folder}: expected {name}_qrels.parquet or {name}.parquet")
