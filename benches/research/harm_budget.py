"""What the harm budget of live learning costs and saves, on development splits: a fifth of the training requests is held out.

    SONA_DATA=… python benches/research/harm_budget.py

A fifth of the items never gets a click, a fifth of the clicks is stray. Mean lift over the seeds, for each budget; *none* holds
nothing back. The published test requests are not touched.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sona import SonaConfig
from sona.bench.datasets import RetrievalSet, load_set
from sona.bench.simulation import Condition, simulate

BUDGETS = (0.01, 0.02, 0.05, 1e6)
SEEDS = 5


def development(data: RetrievalSet, seed: int) -> RetrievalSet:
    """The training requests alone, a fifth of them as held-out requests."""
    order = np.random.default_rng(100 + seed).permutation(len(data.train))
    held, kept = order[: len(order) // 5], order[len(order) // 5 :]
    return replace(
        data,
        train=data.train[kept],
        train_relevant=[data.train_relevant[i] for i in kept],
        test=data.train[held],
        test_relevant=[data.train_relevant[i] for i in held],
    )


def lifts(data: RetrievalSet, condition: Condition, budget: float, seed: int) -> list[float]:
    run = simulate(development(data, seed), condition, seed, config=SonaConfig(harm_budget=budget))
    end = run.marks[-1]
    return [float(np.nanmean(getattr(end, g)) - np.nanmean(getattr(run.frozen, g))) for g in ("all", "seen", "unseen")]


def main() -> None:
    condition = Condition("hidden items and noise", noise=0.2, hidden=0.2)
    print("| set | budget | all | seen | unseen |\n|---|---|---|---|---|")
    for name in ("banking77", "clinc150", "scifact"):
        data = load_set(name)
        for budget in BUDGETS:
            runs = np.array([lifts(data, condition, budget, seed) for seed in range(SEEDS)])
            cells = [f"{m:+.3f} ± {s:.3f}" for m, s in zip(runs.mean(0), runs.std(0, ddof=1) / SEEDS**0.5, strict=True)]
            print(f"| {name} | {'none' if budget > 1 else budget} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
