"""Sequences of tasks from public sets (``SONA_DATA``), for ``sona bench forgetting``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sona.bench.datasets import RetrievalSet, _columns, _intent_names, _vectors, data_directory, load_set
from sona.bench.learners import Task

__all__ = ["clinc_domains", "scifact_then_banking"]

#: Training requests per intent.
PER_INTENT = 40
#: Held-out requests per task of which the anchors are drawn; they are never judged.
ANCHORS = 20
#: Candidates of a request in an open corpus.
POOL = 100


def clinc_domains(seed: int, *, split: str = "test") -> list[Task]:
    """The 10 domains of CLINC150 in an order drawn by the seed; all share the 150 intents as items.

    ``split="val"`` judges on the validation split, on which settings are chosen.
    """
    folder = data_directory()
    table, x = _columns(folder / "clinc150.parquet"), _vectors(folder / "clinc150_minilm_fp16.npz")
    intents = sorted(set(table["intent"]) - {"oos"})
    position = {intent: i for i, intent in enumerate(intents)}
    items = _intent_names(folder, "clinc150", intents)
    rng = np.random.default_rng([seed, 1])
    domains = sorted(set(table["domain"]) - {"oos"})
    tasks = []
    for d in rng.permutation(len(domains)):
        rows: dict[str, dict[int, list[int]]] = {"train": {}, split: {}}
        for i, (domain, intent, part) in enumerate(zip(table["domain"], table["intent"], table["split"], strict=True)):
            if domain == domains[d] and part in rows:
                rows[part].setdefault(position[intent], []).append(i)
        train: list[tuple[int, int]] = []
        spare: list[tuple[int, int]] = []
        for intent, at in rows["train"].items():
            drawn = rng.permutation(at)
            train += [(int(i), intent) for i in drawn[:PER_INTENT]]
            spare += [(int(i), intent) for i in drawn[PER_INTENT : PER_INTENT + 2]]
        order = rng.permutation(len(train))
        held = [(i, intent) for intent, at in rows[split].items() for i in at]
        spare = [spare[i] for i in rng.permutation(len(spare))[:ANCHORS]]
        tasks.append(
            Task(
                name=domains[d],
                items=items,
                train=x[[train[i][0] for i in order]],
                train_target=np.array([train[i][1] for i in order]),
                test=x[[i for i, _ in held]],
                test_relevant=tuple((r,) for _, r in held),
                anchors=x[[i for i, _ in spare]],
                anchor_target=np.array([r for _, r in spare]),
                candidates=None,
                metric="hit@1",
            )
        )
    return tasks


def _task(data: RetrievalSet, seed: int, split: str, limit: int) -> Task:
    rng = np.random.default_rng([seed, 2])
    # The validation split of these sets is a fixed fifth of the training requests.
    fifth = np.random.default_rng(0).permutation(len(data.train)) % 5 == 0
    pairs = [(i, r) for i in rng.permutation(len(data.train)) for r in data.train_relevant[i] if not fifth[i]]
    train, spare = pairs[:limit], pairs[limit:][:ANCHORS] or pairs[-ANCHORS:]
    train = train[: len(pairs) - ANCHORS]
    if split == "val":
        rows = np.flatnonzero(fifth)
        test, relevant = data.train[rows], tuple(data.train_relevant[i] for i in rows)
    else:
        test, relevant = data.test, data.test_relevant
    candidates = _nearest(data.items, test) if len(data.items) > 2 * POOL else None
    return Task(
        name=data.name,
        items=data.items,
        train=data.train[[i for i, _ in train]],
        train_target=np.array([r for _, r in train]),
        test=test,
        test_relevant=relevant,
        anchors=data.train[[i for i, _ in spare]],
        anchor_target=np.array([r for _, r in spare]),
        candidates=candidates,
        metric=data.metric,
    )


def _nearest(items: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.argsort(-(queries @ items.T), axis=1, kind="stable")[:, :POOL]


def scifact_then_banking(seed: int, *, split: str = "test") -> list[Task]:
    """SciFact's claims, then 40 requests for each of Banking77's intents."""
    return [
        _task(load_set("scifact"), seed, split, 10_000),
        _task(load_set("banking77"), seed, split, 77 * PER_INTENT),
    ]
