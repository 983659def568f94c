"""``sona bench routing``: cost and quality of routers on public sets, with every outcome known and with one per request."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sona.bench.routing_curves import (
    BASELINES,
    Curve,
    curve,
    difference,
    history,
    mean_of_folds,
    out_of_fold,
    shuffled_within_tasks,
    single_models,
    two_models,
)
from sona.bench.routing_data import RoutingSet, load_routing_set, resplit
from sona.bench.routing_online import joint_risk, new_model, off_policy, online, spend_error
from sona.evaluate import Interval
from sona.info import collect
from sona.progress import Progress

__all__ = ["Figure", "add_arguments", "bench_set", "run"]

SETS = ("routerbench", "mint")
OURS = "sona (history)"
METHODS = {**BASELINES, OURS: history}
ONLINE = ("hybrid", "linear", "knn", "logistic", "linucb", "thompson")
#: Figures to reach: (set, part, method, measure) → (least or most, value).
TARGETS = {
    ("routerbench", "test", OURS, "AIQ"): (">=", 0.853),
    ("routerbench", "test", OURS, "AIQ over the zero router, lower end"): (">=", 0.02),
    ("routerbench", "5-fold", OURS, "AIQ"): (">=", 0.8475),
    ("routerbench", "5-fold", OURS, "cost at 95 % of the best model"): ("<=", 0.25),
    ("routerbench", "bandit", "hybrid", "AIQ"): (">=", 0.829),
    ("routerbench", "bandit", "hybrid", "regret"): ("<=", 60.0),
    ("routerbench", "bandit, 20 % flipped", "hybrid", "AIQ"): (">=", 0.795),
    ("routerbench", "bandit, delay 50", "hybrid", "AIQ"): (">=", 0.815),
    ("routerbench", "budget", "hybrid", "overspent, worst"): ("<=", 0.05),
    ("routerbench", "budget", "hybrid", "left unspent, worst"): ("<=", 0.05),
    ("routerbench", "off-policy", "doubly robust", "RMSE"): ("<=", 0.022),
    ("mint", "test", OURS, "AIQ"): (">=", 0.720),
    ("mint", "test", OURS, "AIQ over the zero router, lower end"): (">=", 0.02),
    ("mint", "5-fold", OURS, "AIQ"): (">=", 0.710),
    ("mint", "bandit", "hybrid", "AIQ"): (">=", 0.680),
    ("mint", "bandit", "hybrid", "regret"): ("<=", 45.0),
    ("mint", "off-policy", "doubly robust", "RMSE"): ("<=", 0.034),
}


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    set: str
    part: str
    method: str
    measure: str
    value: float
    spread: float | None = None
    interval: Interval | None = None

    @property
    def target(self) -> tuple[str, float] | None:
        """What it must reach."""
        return TARGETS.get((self.set, self.part, self.method, self.measure))

    @property
    def reached(self) -> bool | None:
        """Whether it does; None without a target."""
        if self.target is None:
            return None
        kind, goal = self.target
        return bool(self.value >= goal if kind == ">=" else self.value <= goal)


class _Sheet:
    """Figures of one set as they come."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.figures: list[Figure] = []

    def add(self, part: str, method: str, measure: str, values: Any, interval: Interval | None = None) -> None:
        v = np.atleast_1d(np.asarray(values, dtype=np.float64))
        spread = float(v.std(ddof=1)) if len(v) > 1 else None
        self.figures.append(Figure(self.name, part, method, measure, float(v.mean()), spread, interval))


def _held_out(sheet: _Sheet, data: RoutingSet) -> None:
    """Every outcome of the training requests known; judged on the test requests."""
    zero = single_models(data, data.test)
    sheet.add("test", "zero router", "AIQ", zero.aiq)
    sheet.add("test", "mix of cheapest and best", "AIQ", two_models(data, data.test).aiq)
    curves = {name: curve(data, data.test, *predict(data, data.train, data.test)) for name, predict in METHODS.items()}
    for name, found in curves.items():
        gain = difference(found, zero)
        sheet.add("test", name, "AIQ", found.aiq)
        sheet.add("test", name, "AIQ over the zero router", gain.mean, gain)
        if name == OURS:
            sheet.add("test", name, "AIQ over the zero router, lower end", gain.low)
    gain = difference(curves[OURS], curves["kNN-100"])
    sheet.add("test", OURS, "AIQ over kNN-100", gain.mean, gain)


def _other_splits(sheet: _Sheet, splits: list[RoutingSet]) -> None:
    """The same figure on other random splits: how much of it is the split."""
    part = f"{len(splits)} other splits"
    zero = np.array([single_models(d, d.test).aiq for d in splits])
    sheet.add(part, "zero router", "AIQ", zero)
    found = {n: np.array([curve(d, d.test, *METHODS[n](d, d.train, d.test)).aiq for d in splits]) for n in ("kNN-100", OURS)}
    for name, values in found.items():
        sheet.add(part, name, "AIQ", values)
        sheet.add(part, name, "AIQ over the zero router", values - zero)
    sheet.add(part, OURS, "AIQ over kNN-100", found[OURS] - found["kNN-100"])
    runs = [online(d, seed) for seed, d in enumerate(splits)]
    sheet.add(part, "hybrid, one outcome per request", "AIQ", [r.aiq for r in runs])
    sheet.add(part, "hybrid, one outcome per request", "regret", [r.regret for r in runs])


def _folds(sheet: _Sheet, data: RoutingSet) -> dict[str, Curve]:
    """Every request judged once, by a fit on the other four fifths."""
    rows = np.arange(len(data.x))
    zero = single_models(data, rows)
    best = int(zero.quality.mean(axis=0).argmax())
    quality, cost = float(zero.quality[:, best].mean()), float(zero.cost[:, best].mean())
    curves = {"single models": zero}
    cheapest = int(zero.cost.mean(axis=0).argmin())
    for name, m in (("always the best", best), ("always the cheapest", cheapest)):
        sheet.add("5-fold", name, "quality", float(zero.quality[:, m].mean()))
        sheet.add("5-fold", name, "cost per 1,000", 1000.0 * float(zero.cost[:, m].mean()))
    for name, shown in (("zero router", zero), ("mix of cheapest and best", two_models(data, rows))):
        sheet.add("5-fold", name, "AIQ", shown.aiq)
        sheet.add("5-fold", name, "cost at 95 % of the best model", shown.cost_at(0.95 * quality) / cost)
    for name, predict in METHODS.items():
        predicted = out_of_fold(data, predict)
        found = curve(data, rows, *predicted)
        curves[name] = found
        sheet.add("5-fold", name, "AIQ", found.aiq)
        if name in (OURS, "kNN-100"):
            sheet.add("5-fold", name, "AIQ, mean of the folds' own", mean_of_folds(data, *predicted))
        sheet.add("5-fold", name, "cost at 95 % of the best model", found.cost_at(0.95 * quality) / cost)
        shuffled = [curve(data, rows, *shuffled_within_tasks(data, rows, *predicted, seed)).aiq for seed in range(5)]
        sheet.add("5-fold", name, "AIQ over itself shuffled within tasks", [found.aiq - s for s in shuffled])
        if name == OURS:
            for alpha in (0.05, 0.1):
                r = joint_risk(data, rows, *predicted, alpha=alpha)
                part = f"guarantee, alpha {alpha}"
                sheet.add(part, name, "P(routed away and loss)", r.risk)
                sheet.add(part, name, "share of losses among those routed away, not bounded", r.loss_if_away)
                sheet.add(part, name, "share routed away", r.away)
                sheet.add(part, name, "saving against always the best", r.saving)
            for level in (0.95, 0.99, 1.0):
                savings = _claims(data, predicted, level, best)
                sheet.add("savings, λ from one half", name, f"at {level:.0%} of the best model's quality", savings)
    return curves


def _claims(data: RoutingSet, predicted: tuple[Any, Any], level: float, best: int) -> list[float]:
    """Cost saved against always the best, with λ chosen on one half for the quality and judged on the other."""
    n = len(data.x)
    out = []
    for seed in range(10):
        half = np.random.default_rng(seed).permutation(n)
        found = []
        for part in (half[: n // 2], half[n // 2 :]):
            found.append((part, curve(data, part, predicted[0][part], predicted[1][part])))
        (fit_rows, fit), (test_rows, test) = found
        points = fit.points()
        good = np.flatnonzero(points[:, 1] >= level * data.quality[fit_rows, best].mean())
        # Both curves were drawn at the same multiples of λ; none reaches the level: the best model itself.
        if len(good):
            k = good[points[good, 0].argmin()]
            out.append(1.0 - float(test.points()[k, 0]) / float(data.cost[test_rows, best].mean()))
        else:
            out.append(0.0)
    return out


def _bandit(sheet: _Sheet, data: RoutingSet, seeds: int, bar: Progress) -> None:
    """Only the chosen model's outcome is known."""
    jobs: list[tuple[str, str, dict[str, Any]]] = [("bandit", p, {"predictor": p}) for p in ONLINE]
    jobs += [("bandit, 20 % flipped", "hybrid", {"flip": 0.2}), ("bandit, delay 50", "hybrid", {"delay": 50})]
    for part, method, options in jobs:
        runs = [online(data, seed, **options) for seed in range(seeds)]
        sheet.add(part, method, "AIQ", [r.aiq for r in runs])
        sheet.add(part, method, "regret", [r.regret for r in runs])
        if part == "bandit" and method == "hybrid":
            sheet.add(part, "uniform", "regret", [r.regret_uniform for r in runs])
            sheet.add(part, method, "rounds", runs[0].rounds)
        bar.advance()


def bench_set(name: str, *, seeds: int = 5, show: bool = False) -> tuple[list[Figure], dict[str, Curve], RoutingSet]:
    """All figures of one set, and its cost/quality curves."""
    data = load_routing_set(name)
    sheet = _Sheet(name)
    with Progress(name, 13, show=show) as bar:
        _held_out(sheet, data)
        if not data.own_split:
            _other_splits(sheet, [resplit(data, seed) for seed in range(1, seeds + 1)])
        bar.advance()
        curves = _folds(sheet, data)
        bar.advance()
        _bandit(sheet, data, seeds, bar)
        errors = np.array([e for s in range(seeds) for by in (False, True) for e in spend_error(data, s, by_task=by)])
        sheet.add("budget", "hybrid", "spend error, mean", float(np.abs(errors).mean()))
        sheet.add("budget", "hybrid", "overspent, worst", float(np.maximum(errors, 0.0).max()))
        # Money is left where no dearer model is expected to answer better.
        sheet.add("budget", "hybrid", "left unspent, worst", float(np.maximum(-errors, 0.0).max()))
        bar.advance()
        judged = off_policy(data)
        for measure, value in (
            ("bias", judged.bias),
            ("RMSE", judged.rmse),
            ("coverage of 95 % intervals", judged.coverage),
            ("effective sample size", judged.ess),
        ):
            sheet.add("off-policy", "doubly robust", measure, value)
        bar.advance()
        good = [new_model(data, seed, good=True) for seed in range(seeds)]
        bad = [new_model(data, seed, good=False) for seed in range(seeds)]
        sheet.add("new model", "good", "requests until it answers half of ten", float(np.median([g[0] for g in good])))
        sheet.add("new model", "bad", "utility lost in 300 requests", [b[1] for b in bad])
        bar.advance()
    return sheet.figures, curves, data


def table(figures: list[Figure]) -> str:
    """The figures as a Markdown table."""
    out = ["| set | part | method | measure | value | to reach | |", "|---|---|---|---|---|---|---|"]
    for f in figures:
        value = f"{f.value:.4f}" if abs(f.value) < 10 else f"{f.value:.1f}"
        value += f" ± {f.spread:.4f}" if f.spread is not None else ""
        value += f" [{f.interval.low:+.4f}, {f.interval.high:+.4f}]" if f.interval is not None else ""
        goal = "" if f.target is None else f"{f.target[0]} {f.target[1]}"
        verdict = {None: "", True: "reached", False: "NOT REACHED"}[f.reached]
        out.append(f"| {f.set} | {f.part} | {f.method} | {f.measure} | {value} | {goal} | {verdict} |")
    return "\n".join(out)


def save_plot(curves: dict[str, dict[str, Curve]], path: Path) -> None:
    """Draw the hulls of cost and quality, one panel per set."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise ImportError("the plot needs matplotlib: pip install 'sona[bench]'") from error
    from sona.routing import pareto_hull

    figure = Canvas(figsize=(6.0 * len(curves), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (name, drawn) in enumerate(curves.items()):
        ax = figure.add_subplot(1, len(curves), i + 1)
        for method, found in drawn.items():
            if method == "oracle":
                continue
            hull = pareto_hull(found.points())
            hull = np.vstack([hull, [found.high, hull[-1, 1]]])
            ax.plot(1000 * hull[:, 0], hull[:, 1], label=method, linewidth=2.5 if method == OURS else 1.2)
        ax.scatter(1000 * drawn["single models"].cost.mean(axis=0), drawn["single models"].quality.mean(axis=0), s=14, c="k")
        ax.set(xscale="log", xlabel="mean cost per 1,000 requests (USD)", ylabel="mean quality", title=f"{name}, 5-fold")
        ax.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="names of sets in SONA_DATA (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="streams and splits (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parser.add_argument("--plot", type=Path, help="write the cost/quality curves to this picture")


def run(options: argparse.Namespace) -> int:
    """Print the table; 1 if a figure to reach is not reached."""
    started = time.perf_counter()
    figures: list[Figure] = []
    curves = {}
    notes = []
    for name in options.sets:
        found, drawn, data = bench_set(name, seeds=options.seeds, show=sys.stderr.isatty())
        figures += found
        curves[name] = drawn
        notes.append(f"{name}: {len(data.x)} requests, {len(data.models)} models, {data.cost_basis}")
    info = collect()
    machine = f"sona {info['sona']}, {info['simd']}, {info['cpus']} cores, numpy {info['numpy']}, Python {info['python']}"
    elapsed = time.perf_counter() - started
    foot = "\n".join([*notes, f"{options.seeds} seeds; {machine}; {elapsed:.0f} s"])
    if options.json:
        rows = [{**asdict(f), "target": f.target, "reached": f.reached} for f in figures]
        print(json.dumps({"machine": machine, "seconds": elapsed, "sets": notes, "figures": rows}, indent=2))
    else:
        print(f"{table(figures)}\n\n{foot}")
    if options.output is not None:
        options.output.write_text(f"{table(figures)}\n\n{foot}\n", encoding="utf-8")
    if options.plot is not None:
        save_plot(curves, options.plot)
    return 0 if all(f.reached is not False for f in figures) else 1
