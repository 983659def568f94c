"""How a rejection should be learned: thumbs only, on development splits.

SONA_DATA=... SONA_CACHE=... python benches/research/rejections.py [--sets banking77,clinc150] [--seeds 2]

Users see the first place. "down": they reject it when it is wrong and otherwise say nothing. "both": they also choose it
when it is right, half of the time. ``flip`` is weight * (y - p); ``without`` is y = p without the rejected item. ``recall``:
the rejection also counts against the item's recall. ``changed``: how often one rejection changes the first place.
"""

from __future__ import annotations

import argparse

import numpy as np
from data import load

ETA, H_A, TAU, W, H_R, KAPPA = 0.6, 0.2, 0.1, 0.2, 0.05, 0.001


def simulate(ds, rule: str, recall: bool, both: bool, seed: int) -> tuple[float, float]:
    """(hit@1 or nDCG@10's first place on the held-out requests, share of rejections that change the first place)."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(ds.pool))[: ds.requests]
    q = np.zeros((len(order), ds.items.shape[1]), np.float32)
    g, sign, about, n = np.zeros_like(q), np.zeros(len(order)), np.zeros(len(order), int), 0

    def score(x):
        if n == 0:
            return ds.items @ x
        cos = q[:n] @ x
        u = x + ETA * (np.exp((cos - 1) / H_A) @ g[:n])
        b = np.exp((cos - 1) / H_R) * (sign[:n] if recall else np.maximum(sign[:n], 0))
        net = np.bincount(about[:n], weights=b, minlength=len(ds.items))
        mass = np.where(net >= 0, np.maximum(b, 0).sum(), np.maximum(-b, 0).sum())
        return ds.items @ (u / np.linalg.norm(u)) + W * net / (mass + KAPPA)

    rejected = changed = 0
    for i in order:
        x, relevant = ds.pool[i], ds.pool_rel[i]
        s = score(x)
        first = int(s.argmax())
        right = first in relevant
        if right and not (both and rng.random() < 0.5):
            continue
        if not right and rule == "none":
            continue
        best = np.argsort(-s)[:55]
        p = np.exp((s[best] - s[best].max()) / TAU)
        p /= p.sum()
        y = (best == first).astype(float)
        if right:
            pull = y - p
        elif rule == "flip":
            pull = p - y
        else:
            rest = np.where(y > 0, 0, p)
            pull = rest / rest.sum() - p
        q[n], g[n] = x, pull.astype(np.float32) @ ds.items[best]
        sign[n], about[n] = (1.0 if right else -1.0), first
        n += 1
        if not right:
            rejected += 1
            changed += int(score(x).argmax() != first)
    hits = [score(x).argmax() in r for x, r in zip(ds.test, ds.test_rel, strict=True) if r]
    return float(np.mean(hits)), changed / max(rejected, 1)


def main() -> None:
    """Print one line per set, stream and rule."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sets", default="banking77,clinc150")
    parser.add_argument("--seeds", type=int, default=2)
    a = parser.parse_args()
    for name in a.sets.split(","):
        ds = load(name, "dev")
        for both in (False, True):
            for rule, recall in (("none", False), ("flip", False), ("without", False), ("without", True)):
                hit, changed = np.mean([simulate(ds, rule, recall, both, s) for s in range(a.seeds)], axis=0)
                stream = "both" if both else "down"
                print(f"{name} {stream} {rule} recall={recall}: hit@1 {hit:.3f}, changed {changed:.3f}", flush=True)


if __name__ == "__main__":
    main()
