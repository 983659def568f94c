"""The fast simulation and the plain reference give the same scores on a stream (evidence gate on).

SONA_DATA=... python benches/research/check_sim.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2] / "tests" / "reference"))
from data import load
from rec_reference import EvidenceGate, Rec
from sim import Engine, Options


def main() -> None:
    """Compare scores, evidence and gains over 250 Banking77 requests (single clicks)."""
    ds = load("banking77", "dev")
    rng = np.random.default_rng(0)
    fast = Engine(Options(gate="evidence"), ds.items, 250, 0)
    rec, gate = Rec(ds.items.shape[1], neighbors=None), EvidenceGate()
    ids = list(range(len(ds.items)))
    worst = 0.0
    for i in rng.permutation(len(ds.pool))[:250]:
        q, clicked = ds.pool[i], ds.pool_rel[i]
        gated, s = fast.rank(q)
        worst = max(worst, np.abs(s - rec.scores(q, ids, ds.items)).max())
        worst = max(worst, np.abs(gated - gate.scores(rec, q, ids, ds.items)).max())
        best = np.argsort(-s, kind="stable")[:50]
        candidates = sorted({*best.tolist(), *clicked})
        gate.observe(rec, q, clicked, ids, ds.items)
        rec.learn(q, clicked, candidates, ds.items[candidates])
        fast.observe(q, clicked, np.array(clicked))
        fast.learn(q, clicked, np.array(clicked))
    (n, s1, _), (n2, t1, _) = fast.stats
    d = 0.8 * s1 / n + 0.2 * t1 / n2
    gap = np.abs(d - gate.gains()).max()
    print(f"largest difference: scores {worst:.2e}, gains {gap:.2e}, arm {gate.arm()}")
    if worst > 1e-4:
        sys.exit("the two implementations disagree")


if __name__ == "__main__":
    main()
