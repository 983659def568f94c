"""Which twelve models and which prices do the published figures on the routing set ``mint`` fit?

SONA_DATA=... python benches/research/mint_definition.py [--top 6] [--random 20000] [--router]

The goals of ``sona bench routing`` on ``mint`` come from reference runs whose models and prices are not published. This script
enumerates plain definitions and scores each by its distance to published figures that depend on nobody's router: best single
model, zero router, oracle, regret of uniform choice, kNN-100 and kNN-40. kNN also depends on the list of λ at which its curve
is drawn; so it is drawn at every plain list of λ that gives the published figure on ``routerbench``, where costs are recorded
and nothing has to be guessed, and the nearest counts. Then lists that differ in one model from the list nearest in sum, and
lists drawn at random: how many of them fit every figure says whether the figures can tell one list from another. ``--router``
prints this package's router on the page's list, on the nearest and on those that fit; it takes no part in any choice.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import product

import numpy as np
from lambda_steps import Steps, steps
from mint_lists import Floats, Rows, Runs, load_runs, model_lists, price_lists

from sona.bench.routing_curves import WEIGHTS, curve, difference, history, mean_of_folds, out_of_fold, single_models
from sona.bench.routing_data import RoutingSet, _assumed_price, load_routing_set, resplit

#: Published figures on mint, and what counts as one unit of distance from them.
ANCHORS = {
    "best": (0.704, 0.0005),
    "zero": (0.6907, 0.0005),
    "oracle": (0.8639, 0.0005),
    "uniform": (86.0, 1.0),
    "kNN-100": (0.7111, 0.0005),
    "kNN-40": (0.7155, 0.0005),
}
#: Published figures on routerbench, by which lists of λ are chosen, to the printed digit.
ROUTERBENCH = {100: 0.8548, 40: 0.8467}
#: Quality that the dearest model's mean cost is worth where regret is counted.
DEAR = 0.1
#: What ``--router`` prints, and the goal for it.
GOALS = {
    "test": 0.72,
    "gain": None,
    "lower end of the gain": 0.02,
    "five other splits": None,
    "5-fold": 0.71,
    "5-fold, mean of the folds' own": 0.71,
}
BASES = ("recorded tokens", "mean per model", "one per request")
PLAIN = (30, 31, 40, 41, 50, 51, 60, 61, 80, 81, 100, 101, 120, 121, 150, 151, 200, 201)


def neighbours(data: RoutingSet, k: int) -> Rows:
    """The k nearest training requests of every test request."""
    near = np.argsort(-(data.x[data.test] @ data.x[data.train].T), axis=1, kind="stable")[:, :k]
    return np.asarray(data.train[near])


def knn(data: RoutingSet, near: Rows) -> Steps:
    """Means over the nearest, judged on the test part."""
    true = data.quality[data.test], data.cost[data.test]
    return steps(data.quality[near].mean(axis=1), data.cost[near].mean(axis=1), *true)


def uniform_regret(data: RoutingSet, rounds: int, dear: float = DEAR) -> float:
    """Expected utility that uniform choice loses to the best single model."""
    quality, cost = data.quality[data.train], data.cost[data.train]
    utility = quality - dear / cost.mean(axis=0).max() * cost
    return rounds * float(utility.mean(axis=0).max() - utility.mean())


def lambda_lists() -> dict[int, list[Floats]]:
    """For every k the plain lists of λ that give kNN its published figure on routerbench."""
    data = load_routing_set("routerbench")
    plainly = uniform_regret(data, 2000, 0.0)
    print(f"routerbench: uniform choice {uniform_regret(data, 2000):.1f} (published 258), on quality alone {plainly:.1f}")
    plain = [np.concatenate([[0.0], np.logspace(a, b, n)]) for a, b, n in product(range(-6, -1), range(1, 7), PLAIN)]
    found = {}
    for k, published in ROUTERBENCH.items():
        drawn = knn(data, neighbours(data, k))
        values = np.array([drawn.aiq(w) for w in plain])
        found[k] = [w for w, v in zip(plain, values, strict=True) if abs(v - published) <= 5e-5]
        exact, ours = drawn.aiq(), drawn.aiq(WEIGHTS)
        print(f"routerbench kNN-{k}: {published} published, {exact:.4f} at every λ, {ours:.4f} at the page's λ;", end=" ")
        reach = f"{values.min():.4f} to {values.max():.4f} at {len(plain)} plain lists"
        print(f"{reach}, of which {len(found[k])} give what is published")
    return found


class Judge:
    """Distances of definitions to the published figures."""

    def __init__(self, base: RoutingSet, lists: dict[int, list[Floats]]) -> None:
        self.lists, self.near = lists, {k: neighbours(base, k) for k in lists}

    def figures(self, data: RoutingSet) -> dict[str, Floats]:
        """Every value that a figure can have."""
        quality, cost = data.quality[data.test], data.cost[data.test]
        out = {
            "best": np.array([quality.mean(axis=0).max()]),
            "zero": np.array([single_models(data, data.test).aiq]),
            "oracle": np.array([steps(quality, cost, quality, cost).aiq()]),
            "uniform": np.array([uniform_regret(data, len(data.train))]),
        }
        for k, lists in self.lists.items():
            drawn = knn(data, self.near[k])
            out[f"kNN-{k}"] = np.array([drawn.aiq(w) for w in lists])
        return out

    def distance(self, figures: dict[str, Floats]) -> dict[str, float]:
        """Units from what is published; 1 is the last digit that counts."""
        return {name: float(np.abs(figures[name] - goal).min() / unit) for name, (goal, unit) in ANCHORS.items()}

    def line(self, data: RoutingSet) -> str:
        """The figures, and which of them fit."""
        figures = self.figures(data)
        far = self.distance(figures)
        shown = []
        for name, values in figures.items():
            low, high = (f"{v:.1f}" if name == "uniform" else f"{v:.4f}" for v in (values.min(), values.max()))
            shown.append(f"{name} {low if low == high else f'{low}..{high}'}{'' if far[name] <= 1 else ' (no)'}")
        return ", ".join(shown)


def fitting(name: str, runs: Runs, judge: Judge, lists: Iterable[list[str]]) -> list[RoutingSet]:
    """Of some lists at the page's prices those that fit every figure."""
    goal, unit = ANCHORS["uniform"]
    hits = dict.fromkeys(ANCHORS, 0)
    tried, fit = 0, []
    for models in lists:
        tried += 1
        data = runs.priced(models, _assumed_price, BASES[0])
        if data is None or abs(uniform_regret(data, len(data.train)) - goal) > unit:
            continue
        far = judge.distance(judge.figures(data))
        for anchor in ANCHORS:
            hits[anchor] += far[anchor] <= 1
        if max(far.values()) <= 1:
            fit.append(data)
    shares = ", ".join(f"{anchor} {n}" for anchor, n in hits.items())
    print(f"{name}: {tried}, of which fit uniform choice and {shares}; {len(fit)} fit every figure")
    return fit


def random_lists(runs: Runs, draws: int) -> Iterator[list[str]]:
    """The best model and eleven of the next best 29."""
    best, *pool = runs.recorded()[:30]
    rng = np.random.default_rng(0)
    for _ in range(draws):
        yield [best, *(pool[i] for i in rng.permutation(len(pool))[:11])]


def swapped(runs: Runs, models: Sequence[str]) -> Iterator[list[str]]:
    """Every list with one other model."""
    for i, new in product(range(len(models)), runs.recorded()):
        if new not in models:
            yield [*models[:i], new, *models[i + 1 :]]


def router(name: str, data: RoutingSet) -> list[float]:
    """This package's router on a definition: the published split, five others, and 5-fold in five orders."""
    zero, mine = single_models(data, data.test), curve(data, data.test, *history(data, data.train, data.test))
    gain = difference(mine, zero)
    other = [resplit(data, seed) for seed in range(1, 6)]
    values = np.array([curve(d, d.test, *history(d, d.train, d.test)).aiq for d in other])
    gains = values - np.array([single_models(d, d.test).aiq for d in other])
    rows = np.arange(len(data.x))
    predicted = [out_of_fold(data, history, seed=seed) for seed in range(5)]
    folds = np.array([curve(data, rows, *p).aiq for p in predicted])
    own = np.array([mean_of_folds(data, *p, seed=seed) for seed, p in enumerate(predicted)])
    print(
        f"{name}: router {mine.aiq:.4f}, {gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f}) over the zero router;"
        f" five other splits {values.mean():.4f} ± {values.std(ddof=1):.4f}, {gains.mean():+.4f} ± {gains.std(ddof=1):.4f};"
        f" 5-fold {folds.min():.4f} to {folds.max():.4f}, mean {folds.mean():.4f},"
        f" of the folds' own {own.min():.4f} to {own.max():.4f}, mean {own.mean():.4f}"
    )
    return [mine.aiq, gain.mean, gain.low, values.mean(), folds.mean(), own.mean()]


def main() -> None:
    """Print the nearest definitions, how many random lists fit, and, if asked, the router on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--top", type=int, default=6, help="definitions to print (default: %(default)s)")
    parser.add_argument("--random", type=int, default=20_000, help="random lists to try (default: %(default)s)")
    parser.add_argument("--router", action="store_true", help="also print this package's router")
    asked = parser.parse_args()
    runs = load_runs()
    judge = Judge(runs.base, lambda_lists())
    plainly = uniform_regret(runs.base, len(runs.base.train), 0.0)
    print(f"split {len(runs.base.train)} / {len(runs.base.test)}")
    print(f"the page's list: {judge.line(runs.base)}; uniform choice on quality alone {plainly:.1f}")
    found: list[tuple[float, float, str, str, RoutingSet]] = []
    every = list(product(model_lists(runs).items(), price_lists().items(), BASES))
    for (models, chosen), (prices, price), basis in every:
        data = runs.priced(chosen, price, basis)
        if data is not None:
            far = judge.distance(judge.figures(data))
            found.append((max(far.values()), sum(far.values()), models, f"{prices} | {basis}", data))
    found.sort(key=lambda f: f[:2])
    fits = sum(f[0] <= 1 for f in found)
    print(f"{len(every)} definitions, {len(found)} with every cost known, {fits} fit every figure; the nearest of every list:")
    nearest = {f[2]: f for f in reversed(found)}
    for worst, total, chosen_by, name, data in sorted(nearest.values(), key=lambda f: f[:2])[: asked.top]:
        print(f"  worst {worst:.1f}, sum {total:.1f}: {chosen_by} | {name}: {judge.line(data)}")
    loose = min(found, key=lambda f: max(v for k, v in judge.distance(judge.figures(f[-1])).items() if k != "uniform"))
    print(f"nearest without the regret: {loose[2]} | {loose[3]}: {judge.line(loose[-1])}")
    close = min(found, key=lambda f: f[1])
    print(f"nearest in sum ({close[1]:.1f}): {close[2]} | {close[3]}: {judge.line(close[-1])}")
    fit = fitting("one model swapped in the nearest in sum", runs, judge, swapped(runs, close[-1].models))
    for data in fit:
        (new,), (old,) = set(data.models) - set(close[-1].models), set(close[-1].models) - set(data.models)
        print(f"  {new} for {old}: {judge.line(data)}")
    drawn = fitting("random lists", runs, judge, random_lists(runs, asked.random))
    if asked.router:
        router("the page's list", runs.base)
        router(f"nearest, {found[0][2]} | {found[0][3]}", found[0][-1])
        router(f"nearest without the regret, {loose[2]} | {loose[3]}", loose[-1])
        rows = np.array([router(f"{i}, fits every figure", data) for i, data in enumerate([*fit, *drawn])])
        for (name, goal), column in zip(GOALS.items(), rows.T, strict=True):
            reached = "" if goal is None else f"; {(column >= goal).sum()} reach {goal}"
            spread = f"{column.mean():.4f} ({column.min():.4f} to {column.max():.4f})"
            print(f"over the {len(rows)} that fit, {name}: {spread}{reached}")


if __name__ == "__main__":
    main()
