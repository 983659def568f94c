"""``sona bench forgetting``: domains one after the other, and what is left of the first when the last was learned.

Two sequences. *CLINC150*: its 10 domains in random order, class-incremental: every request is judged against all 150 intents,
and nobody says which domain it is of. *SciFact then Banking77*: two jobs of different kinds through one learner, each request
against its own 100 nearest documents (or 77 intents). After each task every task so far is judged on held-out requests:
R[t, i].

Accuracy = mean of R[T, i]; learned = mean of R[i, i]; backward transfer = mean of R[T, i] − R[i, i] over i < T; forgetting =
mean of max over t < T of R[t, i] − R[T, i] (Lopez-Paz & Ranzato 2017; Chaudhry et al. 2018). Intervals of 95 %: Student's t
over seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sona.bench.learners import ARMS, Learner, Settings, Task
from sona.bench.sequences import clinc_domains, scifact_then_banking
from sona.evaluate import hit_at, ndcg_at, relevant_ranks
from sona.info import collect
from sona.progress import Progress

__all__ = ["Figure", "Row", "add_arguments", "bench_sequence", "figures", "run"]

SEQUENCES: dict[str, Callable[..., list[Task]]] = {
    "clinc150": clinc_domains,
    "scifact+banking77": scifact_then_banking,
}
#: Two-sided 97.5 % points of Student's t by degrees of freedom, from 1 on; the normal one beyond.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110)


@dataclass(frozen=True)
class Figure:
    """A mean over seeds with its 95 % interval."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Figure:
        """By Student's t; a single value has an infinite interval."""
        n = len(values)
        mean = float(np.mean(values))
        if n < 2:
            return cls(mean, -np.inf, np.inf)
        t = _T[n - 2] if n - 2 < len(_T) else 1.96
        half = t * float(np.std(values, ddof=1)) / n**0.5
        return cls(mean, mean - half, mean + half)

    def __str__(self) -> str:
        """Mean and half width."""
        return f"{self.mean:.3f} ± {self.high - self.mean:.3f}"


@dataclass(frozen=True)
class Row:
    """One way of learning through one sequence."""

    sequence: str
    arm: str
    seeds: int
    accuracy: Figure
    learned: Figure
    backward: Figure
    forgetting: Figure
    first: Figure
    """What is left of the first task, relative to just after it was learned: (R[1, 1] − R[T, 1]) / R[1, 1]."""
    over_replay: Figure | None
    """Accuracy minus that of plain replay, paired by seed."""
    seconds: float


def judge(learner: Learner, task: Task, most: int, seed: int) -> float:
    """Mean metric over at most ``most`` held-out requests of a task, drawn by the seed."""
    rng = np.random.default_rng([seed, 7])
    chosen = rng.permutation(len(task.test))[:most]
    total = 0.0
    for scores, i in zip(learner.scores(task, chosen), chosen, strict=True):
        pool = task.candidates[i] if task.candidates is not None else np.arange(len(task.items))
        wanted = [int(np.flatnonzero(pool == r)[0]) for r in task.test_relevant[i] if (pool == r).any()]
        missing = len(task.test_relevant[i]) - len(wanted)
        ranks = relevant_ranks(scores, wanted) if wanted else np.empty(0, np.int64)
        # A relevant document outside the pool cannot be found: it ranks behind everything.
        ranks = np.concatenate([ranks, np.full(missing, len(pool) + 10_000)])
        total += hit_at(ranks, 1) if task.metric == "hit@1" else ndcg_at(ranks, 10)
    return total / len(chosen)


def figures(R: NDArray[np.float64]) -> dict[str, float]:
    """Summary of one run's lower triangle R[t, i]."""
    last, own = R[-1], np.diag(R)
    best = np.array([R[i:-1, i].max() if i < len(R) - 1 else R[-1, i] for i in range(len(R))])
    earlier = slice(0, len(R) - 1)
    return {
        "accuracy": float(last.mean()),
        "learned": float(own.mean()),
        "backward": float((last - own)[earlier].mean()),
        "forgetting": float((best - last)[earlier].mean()),
        "first": float((own[0] - last[0]) / max(own[0], 1e-12)),
    }


def _one(arm: str, tasks: Sequence[Task], seed: int, most: int, settings: Settings) -> dict[str, float]:
    learner = ARMS[arm](tasks[0].items.shape[1], seed, settings)
    R = np.full((len(tasks), len(tasks)), np.nan)
    for t, task in enumerate(tasks):
        learner.learn(task)
        for i in range(t + 1):
            R[t, i] = judge(learner, tasks[i], most, seed)
    return figures(R)


def bench_sequence(
    name: str,
    *,
    arms: Sequence[str] = tuple(ARMS),
    seeds: int = 5,
    most: int = 60,
    split: str = "test",
    first_seed: int = 0,
    settings: Settings | None = None,
    show: bool = False,
) -> list[Row]:
    """All arms on one sequence; a seed sets the order of the domains, the requests, the judged sample and the learner."""
    settings = Settings() if settings is None else settings
    made = {seed: SEQUENCES[name](seed, split=split) for seed in range(first_seed, first_seed + seeds)}
    rows: list[Row] = []
    accuracies: dict[str, list[float]] = {}
    with Progress(name, len(arms) * seeds, show=show) as bar:
        for arm in arms:
            started, runs = time.perf_counter(), []
            for seed, tasks in made.items():
                runs.append(_one(arm, tasks, seed, most, settings))
                bar.advance()
            accuracies[arm] = [r["accuracy"] for r in runs]
            against = accuracies.get("replay")
            pairs = (
                None if against is None or arm == "replay" else [a - b for a, b in zip(accuracies[arm], against, strict=True)]
            )
            rows.append(
                Row(
                    sequence=name,
                    arm=arm,
                    seeds=seeds,
                    over_replay=None if pairs is None else Figure.of(pairs),
                    seconds=(time.perf_counter() - started) / seeds,
                    **{key: Figure.of([r[key] for r in runs]) for key in runs[0]},
                )
            )
    return rows


def table(rows: Sequence[Row]) -> str:
    """The figures as Markdown tables, one per sequence."""
    out: list[str] = []
    for name in dict.fromkeys(r.sequence for r in rows):
        some = [r for r in rows if r.sequence == name]
        out += [
            f"**{name}**, {some[0].seeds} seeds",
            "",
            "| arm | accuracy | learned | backward transfer | forgetting | first task loses | over replay | s a run |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for r in some:
            gain = "" if r.over_replay is None else f"{r.over_replay.mean:+.3f} ± {r.over_replay.high - r.over_replay.mean:.3f}"
            out.append(
                f"| {r.arm} | {r.accuracy} | {r.learned} | {r.backward} | {r.forgetting} "
                f"| {100 * r.first.mean:.1f} % | {gain} | {r.seconds:.1f} |"
            )
        out.append("")
    return "\n".join(out).rstrip()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--sequences", nargs="+", choices=list(SEQUENCES), default=list(SEQUENCES))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), metavar="ARM", help="default: all")
    parser.add_argument("--seeds", type=int, default=5, help="runs per arm (default: %(default)s)")
    parser.add_argument("--most", type=int, default=60, help="held-out requests judged per task (default: %(default)s)")
    parser.add_argument("--split", choices=["test", "val"], default="test", help="val: what the settings were chosen on")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--ewc-lambda", type=float, nargs=2, help="EWC++ alone, and beside replay (default: chosen on val)")
    parser.add_argument("--learning-rate", type=float, help="of the trained adapter (default: chosen on val)")
    parser.add_argument("--passes", type=int, help="over each task (default: chosen on val)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="also write the tables to this file")


def run(options: argparse.Namespace) -> int:
    """Print the tables."""
    started = time.perf_counter()
    given = {
        "ewc_lambda": options.ewc_lambda and tuple(options.ewc_lambda),
        "learning_rate": options.learning_rate,
        "passes": options.passes,
    }
    settings = Settings(**{key: value for key, value in given.items() if value is not None})
    rows: list[Row] = []
    for name in options.sequences:
        rows += bench_sequence(
            name,
            arms=options.arms,
            seeds=options.seeds,
            most=options.most,
            split=options.split,
            first_seed=options.first_seed,
            settings=settings,
            show=sys.stderr.isatty(),
        )
    info = collect()
    machine = f"sona {info['sona']}, {info['simd']}, {info['cpus']} cores, numpy {info['numpy']}, Python {info['python']}"
    text = f"{table(rows)}\n\n{machine}; {time.perf_counter() - started:.0f} s"
    if options.json:
        print(json.dumps({"machine": machine, "rows": [asdict(r) for r in rows]}, indent=2))
    else:
        print(text)
    if options.output is not None:
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0
