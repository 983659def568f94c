"""What to forget under a byte budget: `CaseMemory(max_bytes=)` against dropping the oldest, on development splits.

SONA_DATA=... SONA_CACHE=... python benches/research/eviction.py [--sets banking77,clinc150] [--seeds 2]

Traffic is skewed (Zipf over the intents). "traffic": hit@1 weighted as the traffic; "uniform": mean over intents.
"""

from __future__ import annotations

import argparse

import numpy as np
from data import load

from sona.patterns import CaseMemory


def simulate(ds, policy: str, room: int, seed: int) -> tuple[float, float]:
    """(hit@1 weighted as the traffic, mean over intents)."""
    rng = np.random.default_rng(seed)
    n, d = ds.items.shape
    share = (1.0 / np.arange(1, n + 1))[rng.permutation(n)]
    weight = np.array([share[r[0]] for r in ds.pool_rel])
    order = rng.choice(len(ds.pool), min(ds.requests, len(ds.pool)), replace=False, p=weight / weight.sum())
    ids = list(range(n))
    probe = CaseMemory(d)
    probe.learn(ds.items[0], [0], ids, ds.items)
    memory = CaseMemory(d, max_bytes=room * probe.nbytes if policy == "worth" else None)
    for i in order:
        s = memory.scores(ds.pool[i], ids, ds.items)
        want = ds.pool_rel[i][0]
        if want not in np.argsort(-s)[: ds.shown]:
            continue
        best = np.argsort(-s)[:55]
        case = memory.learn(ds.pool[i], [want], best, ds.items[best], scores=s[best])
        if policy == "oldest" and len(memory) > room:
            memory.remove([case - room])
    hit = np.zeros(n)
    count = np.zeros(n)
    for x, r in zip(ds.test, ds.test_rel, strict=True):
        hit[r[0]] += memory.scores(x, ids, ds.items).argmax() == r[0]
        count[r[0]] += 1
    per = hit / np.maximum(count, 1)
    return float((per * share).sum() / share.sum()), float(per.mean())


def main() -> None:
    """Print one line per set, room and policy."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", default="banking77,clinc150")
    parser.add_argument("--seeds", type=int, default=2)
    a = parser.parse_args()
    for name in a.sets.split(","):
        ds = load(name, "dev")
        for room in (300, 800, 1_000_000):
            for policy in ("oldest", "worth") if room < 1_000_000 else ("none",):
                traffic, uniform = np.mean([simulate(ds, policy, room, s) for s in range(a.seeds)], axis=0)
                print(f"{name} room {room} {policy}: traffic {traffic:.3f}, uniform {uniform:.3f}", flush=True)


if __name__ == "__main__":
    main()
