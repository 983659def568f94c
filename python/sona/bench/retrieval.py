"""``sona bench retrieval``: learning from clicks on public data sets, with intervals, harm, and the figures to reach."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sona.bench.datasets import load_set
from sona.bench.simulation import Condition, Judged, Run, simulate
from sona.evaluate import Interval, bootstrap
from sona.info import collect
from sona.progress import Progress

__all__ = ["Line", "add_arguments", "bench_set", "run"]

SETS = ("scifact", "banking77", "clinc150")
CONDITIONS = (
    Condition("clean"),
    Condition("20 % noise", noise=0.2),
    Condition("hidden items", hidden=0.2),
    Condition("hidden items and noise", noise=0.2, hidden=0.2),
)
#: Figures that the defaults must reach: (set, condition, group) → least lift; ``absolute`` for the metric itself.
TARGETS = {
    ("scifact", "clean", "absolute"): 0.730,
    ("banking77", "clean", "absolute"): 0.855,
    ("clinc150", "clean", "absolute"): 0.874,
    ("scifact", "20 % noise", "all"): 0.040,
    ("banking77", "20 % noise", "all"): 0.17,
    ("clinc150", "20 % noise", "all"): 0.115,
    ("scifact", "hidden items", "unseen"): -0.005,
    ("banking77", "hidden items", "unseen"): 0.00,
    ("clinc150", "hidden items", "unseen"): 0.03,
    ("scifact", "hidden items", "seen"): 0.12,
    ("banking77", "hidden items", "seen"): 0.22,
    ("clinc150", "hidden items", "seen"): 0.17,
    ("scifact", "hidden items and noise", "unseen"): -0.02,
    ("banking77", "hidden items and noise", "unseen"): 0.0,
    ("clinc150", "hidden items and noise", "unseen"): 0.0,
}


@dataclass(frozen=True)
class Line:
    """One figure: the lift of a group over the frozen ranking, mean over seeds, 95 % bootstrap interval over requests."""

    set: str
    metric: str
    condition: str
    group: str
    after: int
    seeds: int
    requests: int
    feedbacks: float
    frozen: float
    learned: float
    lift: Interval
    rocchio: float | None
    target: float | None

    @property
    def reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        return None if self.target is None else bool(self.lift.mean >= self.target)


def _mean_over_seeds(rows: Sequence[NDArray[np.float64]]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Mean per request over the seeds in which its group has it, and which requests those are."""
    stacked = np.stack(rows)
    have = ~np.isnan(stacked)
    some: NDArray[np.bool_] = np.asarray(have.any(axis=0))
    total = np.where(have, stacked, 0.0).sum(axis=0)
    return total[some] / have.sum(axis=0)[some], some


def _line(name: str, metric: str, condition: str, runs: Sequence[Run], group: str, after: int, draws: int) -> Line | None:
    def of(judged: Judged) -> NDArray[np.float64]:
        values: NDArray[np.float64] = getattr(judged, group)
        return values

    usable = [r for r in runs if after in r.marks]
    differences = [of(r.marks[after]) - of(r.frozen) for r in usable]
    if not usable or all(np.isnan(d).all() for d in differences):
        return None
    per_request, _ = _mean_over_seeds(differences)
    frozen, _ = _mean_over_seeds([of(r.frozen) for r in usable])
    baseline = None
    if after == -1:
        gains = [of(r.rocchio) - of(r.frozen) for r in usable if r.rocchio is not None]
        baseline = float(_mean_over_seeds(gains)[0].mean()) if gains else None
    lift = bootstrap(per_request, draws=draws)
    target = TARGETS.get((name, condition, group)) if after == -1 else None
    if after == -1 and group == "all" and (name, condition, "absolute") in TARGETS:
        target = TARGETS[(name, condition, "absolute")] - float(frozen.mean())
    return Line(
        set=name,
        metric=metric,
        condition=condition,
        group=group,
        after=after,
        seeds=len(usable),
        requests=len(per_request),
        feedbacks=float(np.mean([r.feedbacks for r in usable])),
        frozen=float(frozen.mean()),
        learned=float(frozen.mean() + per_request.mean()),
        lift=lift,
        rocchio=baseline,
        target=target,
    )


def bench_set(
    name: str,
    *,
    seeds: int = 5,
    conditions: Sequence[Condition] = CONDITIONS,
    marks: Sequence[int] = (100, 300, 1000),
    draws: int = 2000,
    show: bool = False,
) -> list[Line]:
    """All conditions on one set; hidden-item and noise streams use at most 3 seeds when more are asked for clean ones."""
    data = load_set(name)
    lines = []
    for condition in conditions:
        count = seeds if condition.name == "clean" else min(seeds, 3)
        runs = []
        with Progress(f"{name}, {condition.name}", count, show=show) as bar:
            for seed in range(count):
                runs.append(simulate(data, condition, seed, marks=marks))
                bar.advance()
        groups = ["all", "seen", "unseen"] if condition.hidden or not data.closed else ["all"]
        for after in (*marks, -1):
            for group in groups:
                line = _line(name, data.metric, condition.name, runs, group, after, draws)
                if line is not None:
                    lines.append(line)
    return lines


def table(lines: Sequence[Line]) -> str:
    """The figures at the end of the streams as a Markdown table, then how lift grows."""
    head = "| set | condition | group | requests | frozen | learned | lift [95 %] | Rocchio's lift | to reach | |"
    out = [head, "|---|---|---|---|---|---|---|---|---|---|"]
    for x in (x for x in lines if x.after == -1):
        base = "" if x.rocchio is None else f"{x.rocchio:+.3f}"
        goal = "" if x.target is None else f"{x.target:+.3f}"
        verdict = {None: "", True: "reached", False: "NOT REACHED"}[x.reached]
        lift = f"{x.lift.mean:+.3f} [{x.lift.low:+.3f}, {x.lift.high:+.3f}]"
        out.append(
            f"| {x.set} ({x.metric}, {x.seeds} seeds) | {x.condition} | {x.group} | {x.requests} | {x.frozen:.3f} "
            f"| {x.learned:.3f} | {lift} | {base} | {goal} | {verdict} |"
        )
    growth = [x for x in lines if x.after != -1]
    if growth:
        out += ["", "| set | condition | group | after | lift [95 %] |", "|---|---|---|---|---|"]
        out += [
            f"| {x.set} | {x.condition} | {x.group} | {x.after} | {x.lift.mean:+.3f} [{x.lift.low:+.3f}, {x.lift.high:+.3f}] |"
            for x in growth
        ]
    return "\n".join(out)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="names of sets in SONA_DATA (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="streams of the clean condition (default: %(default)s)")
    parser.add_argument("--marks", type=int, nargs="*", default=[100, 300, 1000], help="also judge after so many feedbacks")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="also write the table to this file")


def run(options: argparse.Namespace) -> int:
    """Print the table; 1 if a figure to reach is not reached."""
    started = time.perf_counter()
    lines: list[Line] = []
    for name in options.sets:
        lines += bench_set(name, seeds=options.seeds, marks=options.marks, show=sys.stderr.isatty())
    info = collect()
    machine = f"sona {info['sona']}, {info['simd']}, {info['cpus']} cores, numpy {info['numpy']}, Python {info['python']}"
    elapsed = time.perf_counter() - started
    if options.json:
        rows = [{**asdict(x), "reached": x.reached} for x in lines]
        print(json.dumps({"machine": machine, "seconds": elapsed, "lines": rows}, indent=2))
    else:
        print(table(lines))
        print(f"\n{machine}; {elapsed:.0f} s")
    if options.output is not None:
        options.output.write_text(table(lines) + f"\n\n{machine}; {elapsed:.0f} s\n", encoding="utf-8")
    return 0 if all(x.reached is not False for x in lines) else 1
