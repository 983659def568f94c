"""Does another way to fit the history route better? Cross-validation on training requests, every way against the present one.

SONA_DATA=... python benches/research/history_variants.py [--sets mint routerbench] [--only PART ...] [--sizes 150 270 470 900]

Only training requests are read. On ``mint`` there are two figures, for the page's list of models and over 20 lists drawn at
random (the best and eleven of the 29 next best in training); on ``routerbench`` one. A difference is in AIQ, one hull over all
folds, mean over lists and orders of the folds. Its standard error is that of a bootstrap over requests, the same draws for
every list and order, so that they do not count as independent sets; what other training requests would change is not in it.
``--sizes`` fits on so many training requests of ``routerbench``, 16 draws, and judges on its other training requests: whether
what helps on ``mint`` helps because it is small.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from history_parts import Case, Floats, Fold
from mint_lists import load_runs
from scipy.optimize import nnls

from sona.bench.routing_curves import curve, fold_rows
from sona.bench.routing_data import RoutingSet, _assumed_price, load_routing_set
from sona.routing import HistoryModel, aiq, pareto_hull

Variant = Callable[[Case], tuple[Floats, Floats]]
#: Projections of the embeddings to so many components; "pca" takes the mean off first.
EMBEDDINGS = ("pca 64", "pca 96", "pca 128", "pca n/2", "svd n/2", "svd n/3", "svd n/8")
#: Of costs, and draws of the bootstrap.
BASIS, DRAWS = "recorded tokens", 60


def centred(y: Floats) -> Floats:
    """Without the main effect of every request."""
    return np.asarray(y - y.mean(axis=1, keepdims=True) + y.mean())


def stacked(case: Case, shrink: float, *, differences: bool = False) -> Floats:
    """Non-negative least squares of the parts out of fold, drawn to the present shares by so many outcomes."""
    parts, _ = case.held_out
    z, y = parts - case.mean, case.y - case.mean
    if differences:
        z, y = z - z.mean(axis=2, keepdims=True), y - y.mean(axis=1, keepdims=True)
    z, spread = z[:4].reshape(4, -1), np.sqrt((z[0] ** 2).mean())
    pull = np.sqrt(shrink) * spread * np.eye(4)
    share, _ = nnls(np.vstack([z.T, pull]), np.concatenate([y.ravel(), pull @ [0.5, 0.5, 0.0, 0.0]]))
    return np.asarray(case.mean + np.tensordot(share, case.parts[:4] - case.mean, axes=1))


def scaled(case: Case, by_model: bool = False) -> Floats:
    """The present model, its deviations from the models' means scaled by their slope out of fold."""
    z = case.held_out[0][:2].mean(axis=0) - case.mean
    z = z - z.mean(axis=1, keepdims=True)
    y = centred(case.y) - centred(case.y).mean(axis=0)
    over, under = (z * y).sum(axis=0), (z * z).sum(axis=0)
    common = over.sum() / under.sum()
    slope = (over + common * under.mean()) / (under + under.mean()) if by_model else common
    return np.asarray(case.mean + slope * (case.base - case.mean))


def logistic(case: Case, penalty: float) -> Floats:
    """Logistic ridge with kernel residual in place of A."""
    out, left = (np.stack(z, axis=1) for z in zip(*(case.fold.logistic(y.tobytes(), penalty) for y in case.y.T), strict=True))
    return mixed(out + case.fold.local(left), case.b)


def clusters(case: Case, k: int, third: bool = False) -> Floats:
    """Means of clusters, shrunk by their measured spread, with kernel residual: in place of A, or as a third part."""
    own, at = case.fold.clusters(k)
    z, size = case.y - case.mean, np.bincount(own, minlength=k)
    sums = np.stack([z[own == j].sum(axis=0) for j in range(k)])
    means = sums / np.maximum(size, 1)[:, None]
    within = ((z - means[own]) ** 2).sum(axis=0) / (len(z) - k)
    between = np.maximum(((size[:, None] * means**2).sum(axis=0) - k * within) / len(z), 1e-6)
    shrunk = sums / (size[:, None] + within / between)
    without = (sums[own] - z) / (size[own][:, None] - 1.0 + within / between)
    part = case.mean + shrunk[at] + case.fold.local(z - without)
    return mixed(case.a, case.b, part) if third else mixed(part, case.b)


def other_embeddings(case: Case, how: str, only_b: bool = False) -> Floats:
    """Fitted on changed embeddings."""
    changed = case.on(case.fold.other(how))
    return mixed(case.a, changed.b) if only_b else changed.base


def bagged(case: Case) -> Floats:
    """Mean over fits on bootstrap samples."""
    return mixed(*(case.on(fold, rows).base for rows, fold in case.fold.bags))


def skilled_cost(case: Case, common: bool) -> Floats:
    """Local costs drawn to the mean by their slope out of fold."""
    c, local = case.c - case.c.mean(axis=0), case.held_out[1] - case.c.mean(axis=0)
    axis = None if common else 0
    unit = 1.0 / case.c.mean(axis=0)
    share = ((c * unit) * (local * unit)).sum(axis=axis) / np.maximum(((local * unit) ** 2).sum(axis=axis), 1e-12)
    return np.asarray(case.c.mean(axis=0) + np.clip(share, 0.0, 1.0) * (case.cost - case.c.mean(axis=0)))


def mixed(*parts: Floats) -> Floats:
    """Their mean."""
    return np.asarray(np.mean(parts, axis=0))


def plain(quality: Callable[[Case], Floats]) -> Variant:
    """With the present costs."""
    return lambda case: (quality(case), case.cost)


def near_hull(case: Case, most: float) -> tuple[Floats, Floats]:
    """Only models whose mean is at most so far below the hull of the means."""
    cost = case.c.mean(axis=0)
    hull = pareto_hull(np.stack([cost, case.mean], axis=1))
    far = np.interp(cost, hull[:, 0], hull[:, 1]) - case.mean > most
    return np.where(far, -1.0, case.base), np.where(far, case.cost + case.cost.max(), case.cost)


def mean_cost(case: Case) -> Floats:
    """Of every model, for every request."""
    return np.repeat(case.c.mean(axis=0)[None], len(case.base), axis=0)


def variants() -> dict[str, Variant]:
    """What is tried, by name."""
    found: dict[str, Variant] = {
        "A alone": plain(lambda c: c.a),
        "B alone": plain(lambda c: c.b),
        "kNN-100": plain(lambda c: c.parts[2]),
        "equal shares of A, B, kNN-100, kNN-40": plain(lambda c: c.parts[:4].mean(axis=0)),
        "deviations scaled by their slope": plain(scaled),
        "deviations scaled by each model's slope": plain(partial(scaled, by_model=True)),
        "bagging": plain(bagged),
        "B: penalties by likelihood": plain(lambda c: mixed(c.a, c.process(rule="likelihood"))),
        "B: one penalty": plain(lambda c: mixed(c.a, c.process(common=True))),
        "B: width by GCV": plain(lambda c: mixed(c.a, c.process(width=c.width("gcv")))),
        "B: width and penalties by likelihood": plain(
            lambda c: mixed(c.a, c.process(width=c.width("likelihood"), rule="likelihood"))
        ),
        # A and kNN are linear in the outcomes with one rule for all models: on differences they choose alike.
        "B: differences between models": plain(lambda c: mixed(c.a, c.process(centred(c.y)))),
        "B: differences, one penalty": plain(lambda c: mixed(c.a, c.process(centred(c.y), common=True))),
        "B: differences, likelihood": plain(lambda c: mixed(c.a, c.process(centred(c.y), rule="likelihood"))),
        "cost: mean": lambda c: (c.base, mean_cost(c)),
        "cost: shrunk by each model's skill": lambda c: (c.base, skilled_cost(c, False)),
        "cost: shrunk by common skill": lambda c: (c.base, skilled_cost(c, True)),
    }
    for shrink in (0.0, 300.0, 3000.0):
        found[f"stacking, drawn to ½ by {shrink:.0f}"] = plain(partial(stacked, shrink=shrink))
        found[f"stacking of differences, drawn to ½ by {shrink:.0f}"] = plain(partial(stacked, shrink=shrink, differences=True))
    for how in ("centred", "without 1", "without 3", "white 1", "white .1", *EMBEDDINGS):
        found[f"embeddings {how}"] = plain(partial(other_embeddings, how=how))
        found[f"embeddings {how} in B"] = plain(partial(other_embeddings, how=how, only_b=True))
    for penalty in (6.0, 12.0, 24.0):
        found[f"A: logistic, penalty {penalty:.0f}"] = plain(partial(logistic, penalty=penalty))
    for k in (8, 16, 32):
        found[f"A: {k} clusters for the ridge"] = plain(partial(clusters, k=k))
        found[f"{k} clusters as a third part"] = plain(partial(clusters, k=k, third=True))
    for most in (0.02, 0.05, 0.1, 0.2):
        found[f"models at most {most:g} below the hull"] = partial(near_hull, most=most)
    return found


def training_part(data: RoutingSet) -> RoutingSet:
    """Nothing of the others."""
    return replace(data, x=data.x[data.train], quality=data.quality[data.train], cost=data.cost[data.train])


def training_sets(name: str, lists: int) -> list[RoutingSet]:
    """The set's list of models, and on ``mint`` lists drawn at random."""
    if name != "mint":
        return [training_part(load_routing_set(name))]
    runs = load_runs()
    best, *pool = runs.ranked(runs.recorded(), runs.base.train)[:30]
    rng = np.random.default_rng(1)
    drawn = [runs.priced([best, *(pool[i] for i in rng.permutation(29)[:11])], _assumed_price, BASIS) for _ in range(lists)]
    return [training_part(d) for d in (runs.base, *drawn) if d is not None]


def check(data: RoutingSet) -> None:
    """The parts here make up the package's model."""
    train, test = np.arange(0, len(data.x), 2), np.arange(1, len(data.x), 2)
    case = Case(Fold(data.x[train], data.x[test]), data.quality[train], data.cost[train])
    quality, cost = HistoryModel.fit(data.x[train], data.quality[train], data.cost[train]).predict(data.x[test])
    assert cost is not None
    np.testing.assert_allclose(case.base, quality, atol=1e-5)
    np.testing.assert_allclose(case.cost, cost, rtol=1e-5)


def validated(name: str, every: dict[str, Variant], lists: int, repeats: int, first: int) -> None:
    """Print one line for every variant."""
    sets = training_sets(name, lists)
    check(sets[0])
    n = len(sets[0].x)
    rows = np.arange(n)
    draws = np.vstack([np.ones(n), np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS)]) / n
    found = np.zeros((len(every), len(sets), repeats, len(draws)))
    for r in range(repeats):
        out = np.zeros((len(every), len(sets), 2, *sets[0].quality.shape))
        for test in fold_rows(n, 5, first + r):
            train = np.setdiff1d(rows, test)
            fold = Fold(sets[0].x[train], sets[0].x[test])
            for j, d in enumerate(sets):
                case = Case(fold, d.quality[train], d.cost[train])
                for i, variant in enumerate(every.values()):
                    out[i, j, 0, test], out[i, j, 1, test] = variant(case)
        for (i, j), at in zip(np.ndindex(found.shape[:2]), out.reshape(-1, *out.shape[2:]), strict=True):
            drawn = curve(sets[j], rows, at[0], at[1])
            points = np.stack([draws @ drawn.cost, draws @ drawn.quality], axis=2)
            found[i, j, r] = [aiq(p, drawn.low, drawn.high) for p in points]
    delta = found - found[0]
    for i, variant_name in enumerate(every):
        line = f"{name:12s}{variant_name:46s}"
        for part in (slice(0, 1), slice(1, None))[: len(sets)]:
            f, d = found[i, part, :, 0].mean(), delta[i, part].mean(axis=(0, 1))
            line += f" {f:.4f} {d[0]:+.4f} ± {d[1:].std(ddof=1):.4f} "
        better = (delta[i, 1:, :, 0].mean(axis=1) > 0).sum()
        print(line + (f" better on {better} of {len(sets) - 1} lists" if len(sets) > 1 else ""), flush=True)


def by_size(every: dict[str, Variant], sizes: list[int], repeats: int = 16) -> None:
    """The same on few training requests of ``routerbench``, judged on its other ones."""
    (d,) = training_sets("routerbench", 0)
    for n in sizes:
        found = np.zeros((repeats, len(every)))
        for r in range(repeats):
            order = np.random.default_rng(r).permutation(len(d.x))
            train, test = order[:n], np.sort(order[n:])
            case = Case(Fold(d.x[train], d.x[test]), d.quality[train], d.cost[train])
            found[r] = [curve(d, test, *variant(case)).aiq for variant in every.values()]
        delta = found - found[:, :1]
        for i, name in enumerate(every):
            print(f"{n:5d} requests  {name:46s} {found[:, i].mean():.4f} {delta[:, i].mean():+.4f}", end=" ")
            print(f"± {delta[:, i].std(ddof=1) / repeats**0.5:.4f}", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["mint", "routerbench"], help="(default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=[""], help="only variants with one of these in their name")
    parser.add_argument("--repeats", type=int, default=4, help="orders of the folds (default: %(default)s)")
    parser.add_argument("--first", type=int, default=100, help="seed of the first order (default: %(default)s)")
    parser.add_argument("--lists", type=int, default=20, help="random lists of models (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", help="training requests of routerbench, instead of the sets")
    asked = parser.parse_args()
    chosen = {name: v for name, v in variants().items() if any(part in name for part in asked.only)}
    every = {"present": plain(lambda c: c.base)} | chosen
    if asked.sizes:
        by_size(every, asked.sizes)
        return
    for name in asked.sets:
        validated(name, every, asked.lists, asked.repeats, asked.first)


if __name__ == "__main__":
    main()
