"""What `case_half_life_days` buys when answers move, and what it costs when they do not, on the published test requests.

    SONA_DATA=… python benches/research/half_life.py [--sets banking77 clinc150] [--seeds 8]

3,000 requests come over 60 days, evenly. From day 30 on the right items of a third of the intents are permuted: whoever
wanted item A now wants item B, as if pages had been replaced. Users see five items and click the right one. Three worlds:

- clicks: where the right item is not shown, nothing is learned;
- named: there one user in five names it;
- named twice: the same, and the third was permuted another way from the first day on, so that the unlearned ranking does
  not stand for the old answers.

"cleared" is an operator who knows the day and takes all that was learned back to nothing (`rollback(0)`). Held-out hit@1
with 95 % t-intervals over the seeds, each with a stream, a third and a permutation of its own; in brackets the difference
to "none", paired by seed. Nothing is chosen here: every setting is printed.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from sona import SonaConfig, SonaEngine
from sona.bench.datasets import RetrievalSet, load_set
from sona.bench.simulation import judge

WORLDS = {"clicks": (0.0, 0), "named": (0.2, 0), "named twice": (0.2, 1)}
DAYS, CHANGE, SOON = 60.0, 30.0, 40.0
START, DAY = 1.7e9, 86_400.0
ARMS: tuple[str | float, ...] = ("frozen", "cleared", "none", 7.0, 15.0, 30.0, 60.0)
COLUMNS = ("changed, day 40", "changed, day 60", "unchanged, day 40", "unchanged, day 60", "no change, day 60")


def moved(items: int, seed: int, times: int) -> NDArray[np.int64]:
    """The right item of each intent after so many changes: a third of them goes around in one cycle, so that none stays."""
    third = np.random.default_rng(1000 + seed).permutation(items)[: items // 3]
    now = np.arange(items)
    now[third] = np.roll(third, times)
    return now


def hits(data: RetrievalSet, engine: SonaEngine | None, right: NDArray[np.int64], intents: NDArray[np.bool_]) -> float:
    """Held-out hit@1 over the requests of some intents; `engine` None: the unlearned ranking."""
    rows = [i for i, r in enumerate(data.test_relevant) if intents[r[0]]]
    wanted = tuple((int(right[data.test_relevant[i][0]]),) for i in rows)
    n = len(data.items)

    def score(q: NDArray[np.float32]) -> NDArray[np.float32]:
        if engine is None:
            return data.items @ q
        decision = engine.rank(q, range(n), k=n, now=START)
        scores = np.empty(n, np.float32)
        scores[decision.ids] = decision.scores
        return scores

    held_out = replace(data, test=data.test[rows], test_relevant=wanted)
    return float(judge(held_out, np.ones(n, bool), score).all.mean())


def stream(data: RetrievalSet, arm: str | float, world: str, changes: bool, seed: int) -> list[float]:
    """One stream through one engine: the figures of `COLUMNS` that it gives."""
    rng = np.random.default_rng(seed)
    n = len(data.items)
    named, times = WORLDS[world]
    before, after = (moved(n, seed, t) for t in (times, times + 1))
    changed = before != after
    right = before
    engine = None
    if arm != "frozen":
        half_life = arm if isinstance(arm, float) else None
        engine = SonaEngine(SonaConfig(hidden_dim=data.items.shape[1], seed=seed, case_half_life_days=half_life))
        engine.rank(data.items[0], range(n), data.items, k=1, now=START)  # from here on the vectors are known
    order = rng.permutation(len(data.train))[: data.requests]
    luck = rng.random(len(order))
    out: list[float] = []
    for step, i in enumerate(order):
        day = DAYS * step / len(order)
        if changes and day >= CHANGE and right is before:
            right = after
            if arm == "cleared" and engine is not None:
                engine.rollback(0)
        if changes and day >= SOON and not out:
            out = [hits(data, engine, right, changed), hits(data, engine, right, ~changed)]
        if engine is None:
            continue
        decision = engine.rank(data.train[i], range(n), k=data.shown, now=START + DAY * day)
        want = int(right[data.train_relevant[i][0]])
        if want in decision.ids or luck[step] < named:
            engine.feedback(decision, chosen=want, source="click", now=START + DAY * day)
    if not changes:
        return [hits(data, engine, right, np.ones(n, bool))]
    soon, late = out, [hits(data, engine, right, changed), hits(data, engine, right, ~changed)]
    return [soon[0], late[0], soon[1], late[1]]


def interval(values: NDArray[np.float64]) -> float:
    """Half the width of the 95 % t-interval of the mean."""
    return float(student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5)


def table(name: str, world: str, seeds: int) -> str:
    """The rows of one set in one world."""
    data = load_set(name)
    rows: dict[str | float, NDArray[np.float64]] = {}
    for arm in ARMS:
        unmoved = "none" if arm == "cleared" else arm  # nobody clears where nothing changes
        runs = [[*stream(data, arm, world, True, s), *stream(data, unmoved, world, False, s)] for s in range(seeds)]
        rows[arm] = np.array(runs)
    out = []
    for arm, runs in rows.items():
        cells = []
        for c in range(len(COLUMNS)):
            cell = f"{runs[:, c].mean():.3f} ± {interval(runs[:, c]):.3f}"
            difference = runs[:, c] - rows["none"][:, c]
            if isinstance(arm, float):
                cell += f" ({difference.mean():+.3f} ± {interval(difference):.3f})"
            cells.append(cell)
        label = f"{arm:g} days" if isinstance(arm, float) else arm
        out.append(f"| {name}, {world} | {label} | {' | '.join(cells)} |")
    return "\n".join(out)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", nargs="+", default=["banking77", "clinc150"])
    parser.add_argument("--seeds", type=int, default=8)
    a = parser.parse_args()
    print(f"| set, world | half-life | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 2)}")
    for name in a.sets:
        for world in WORLDS:
            print(table(name, world, a.seeds), flush=True)


if __name__ == "__main__":
    main()
