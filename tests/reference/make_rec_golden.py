"""Write tests/golden/flagship/rec.npz: fixed streams and what ``rec_reference`` makes of them, in float64.

    python tests/reference/make_rec_golden.py

Keys are ``<case>/<name>``. Every case holds its parameters, the item vectors (item ids are the row
numbers), and one row per feedback t: request ``q[t]``, ``clicked[t]`` and ``candidates[t]`` (padded with
-1) and ``weight[t]``. Feedback t is replayed as

    s = rec.scores(q[t], all items);  evidence.observe(...);  multiplier.observe(...)
    c = candidates[t];  rec.learn(q[t], clicked[t], c, items[c], scores=s[c], weight=weight[t])

After feedback number ``marks[i]`` (i = 0 is the empty state, mark 0): for the fixed ``probes`` ``adapt[i]``,
``recall[i]``, ``scores[i]``, and the state of the gates: ``evidence[i]`` (E per item), ``gains[i]`` (D per
arm), ``standard_errors[i]``, ``arm[i]`` with ``beta[i]``, ``lambda[i]``, ``evidence_scores[i]``,
``multiplier_arm[i]``, ``multiplier_scores[i]``.  ``removed[t]`` is the item that the evidence gate removed.

The case "credible" has eta .8, the gate's soft evidence, start (.1, .5), z 2, nu .3 and full_coverage .5, every
fifth click a stray, and ``weight[t]`` = rho of `StrayClicks` over the shown items ``shown[t]``: the engine's rule.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rec_reference import (
    EVIDENCE_ARMS,
    EvidenceGate,
    MultiplierGate,
    Rec,
    StrayClicks,
    splitmix64,
    top_candidates,
)

OUT = Path(__file__).parents[1] / "golden" / "flagship" / "rec.npz"
#: name: (seed, dim, items, feedbacks, shown, top, neighbors, marks, also several clicks and other weights)
CASES = {
    "small": (1, 8, 12, 40, 4, 6, 128, (0, 1, 2, 5, 10, 20, 40), False),
    "many": (2, 16, 30, 240, 5, 10, 128, (0, 20, 60, 128, 129, 160, 200, 240), False),
    "mixed": (3, 12, 20, 60, 6, 8, 5, (0, 1, 3, 6, 12, 25, 60), True),
    "credible": (4, 16, 24, 110, 5, 10, 64, (0, 1, 5, 20, 60, 110), False, True),
}


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length one."""
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def run(
    seed: int, dim: int, items: int, feedbacks: int, shown: int, top: int, neighbors: int,
    marks: tuple[int, ...], mixed: bool, credible: bool = False,
) -> dict[str, np.ndarray]:  # fmt: skip
    """One stream: requests scatter around a hidden, rotated copy of the items, so there is much to learn."""
    rng = np.random.default_rng(seed)
    vectors = unit(rng.standard_normal((items, dim)))
    centres = unit(0.9 * vectors + unit(rng.standard_normal((items, dim))))
    probes = unit(centres[rng.integers(0, items, 5)] + 0.3 * rng.standard_normal((5, dim)) / np.sqrt(dim) * 3)
    rec, evidence, multiplier = Rec(dim, neighbors=neighbors), EvidenceGate(), MultiplierGate()
    strays = StrayClicks()
    if credible:
        rec.eta, evidence.soft, evidence.start, evidence.z = 0.8, True, (0.1, 0.5), 2.0
        evidence.nu, evidence.full_coverage = 0.3, 0.5
    ids = list(range(items))
    log: dict[str, list] = {k: [] for k in ("q", "clicked", "shown", "candidates", "weight", "removed")}
    state: dict[str, list] = {}

    def mark() -> None:
        row = {
            "adapt": [rec.adapt(p) for p in probes],
            "recall": [rec.recall(p, ids) for p in probes],
            "scores": [rec.scores(p, ids, vectors) for p in probes],
            "evidence": [evidence.evidence.get(d, 0.0) for d in ids],
            "gains": evidence.gains(),
            "standard_errors": evidence.standard_errors(),
            "arm": evidence.arm(),
            "beta": EVIDENCE_ARMS[evidence.arm()][0],
            "lambda": EVIDENCE_ARMS[evidence.arm()][1],
            "evidence_scores": [evidence.scores(rec, p, ids, vectors) for p in probes],
            "multiplier_arm": multiplier.arm(),
            "multiplier_scores": [multiplier.scores(rec, p, ids, vectors) for p in probes],
        }
        for key, value in row.items():
            state.setdefault(key, []).append(np.asarray(value))

    mark()
    for t in range(1, feedbacks + 1):
        want = int(rng.integers(0, items)) if rng.random() < 0.2 else int(rng.integers(0, items // 2))
        q = unit(centres[want] + 0.1 * rng.standard_normal(dim))
        s = rec.scores(q, ids, vectors)
        by = evidence.scores(rec, q, ids, vectors)
        top_shown = [int(j) for j in np.argsort(-by, kind="stable")[:shown]]
        clicked = [want]
        if want not in top_shown:
            top_shown[-1] = want
        if mixed and rng.random() < 0.4:
            clicked.append(next(j for j in top_shown if j != want))
        if credible and t % 5 == 0:
            clicked = [top_shown[int(rng.integers(0, shown))]]
        weight = float(rng.choice([1.0, 0.5, -0.5])) if mixed else 1.0
        if credible:
            weight = strays.observe(s[top_shown], [top_shown.index(a) for a in clicked])
        candidates = top_candidates(top_shown, s, top)
        evidence.observe(rec, q, clicked, ids, vectors, weight=weight if credible else 1.0, shown_ids=top_shown)
        multiplier.observe(rec, q, clicked, ids, vectors)
        rec.learn(q, clicked, candidates, vectors[candidates], scores=s[candidates], weight=weight)
        pick = clicked[splitmix64(evidence.seed + evidence.count) % len(clicked)]
        log["q"].append(q)
        log["clicked"].append(clicked + [-1] * (2 - len(clicked)))
        log["shown"].append(top_shown)
        log["candidates"].append(candidates + [-1] * (shown + top - len(candidates)))
        log["weight"].append(weight)
        log["removed"].append(pick if evidence.count >= evidence.score_from else -1)
        if t in marks:
            mark()
    params = {k: getattr(rec, k) for k in ("eta", "h_a", "tau", "w", "h_r", "kappa", "neighbors")}
    gate = {k: getattr(evidence, k) for k in ("nu", "z", "decay", "h_q", "score_from", "warmup", "seed")}
    gate |= {k: getattr(evidence, k) for k in ("soft", "start", "full_coverage")}
    out = {"items": vectors, "probes": probes, "marks": np.array(marks)}
    out |= {k: np.array(v) for k, v in log.items()} | {k: np.stack(v) for k, v in state.items()}
    return out | {f"param_{k}": np.array(v) for k, v in (params | gate).items()}


def make() -> dict[str, np.ndarray]:
    """All cases."""
    return {f"{name}/{key}": value for name, args in CASES.items() for key, value in run(*args).items()}


if __name__ == "__main__":
    OUT.parent.mkdir(parents=True, exist_ok=True)
    golden = make()
    np.savez_compressed(OUT, **golden)
    for case in CASES:
        print(case, "arms in use", golden[f"{case}/arm"], "multiplier", golden[f"{case}/multiplier_arm"])
    print(OUT.name, OUT.stat().st_size, "bytes")
