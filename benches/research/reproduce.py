"""Reproduce the published figures: REC, multiplier gate, evidence term; all conditions; published test split.

SONA_DATA=... python benches/research/reproduce.py [--sets scifact,banking77,clinc150] [--seeds 3]
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace

import numpy as np
from data import load
from sim import Condition, Options, boot, simulate

RULES = {
    "rec": Options(),
    "gate": Options(gate="multiplier"),
    "evidence": Options(gate="evidence"),
    "evidence-c": Options(gate="evidence", removed_needs_cases=True),
}
CONDITIONS = {
    "clean": Condition(),
    "noise": Condition(noise=0.2),
    "hidden": Condition(hidden=0.2),
    "both": Condition(noise=0.2, hidden=0.2),
}


def main() -> None:
    """Print one line per set, rule and condition."""
    p = argparse.ArgumentParser()
    p.add_argument("--sets", default="scifact,banking77,clinc150")
    p.add_argument("--rules", default="rec,evidence")
    p.add_argument("--conditions", default="clean,noise,hidden,both")
    p.add_argument("--split", default="test")
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--marks", default="")
    p.add_argument("--kappa", type=float, default=None)
    a = p.parse_args()
    marks = tuple(int(x) for x in a.marks.split(",") if x)
    for name in a.sets.split(","):
        ds = load(name, a.split)
        for rule in a.rules.split(","):
            o = RULES[rule] if a.kappa is None else replace(RULES[rule], kappa=a.kappa)
            for cond in a.conditions.split(","):
                t = time.time()
                runs = [simulate(ds, o, CONDITIONS[cond], s, marks) for s in range(a.seeds)]
                parts = []
                for key in (*marks, "end"):
                    for what in ("all", "seen", "unseen"):
                        got = [r.marks[key][what] for r in runs if key in r.marks and what in r.marks[key]]
                        if got:
                            mean, lo, hi = boot(got)
                            parts.append(f"{key}/{what} {mean:+.3f} [{lo:+.3f}, {hi:+.3f}]")
                fb = np.mean([r.feedbacks for r in runs])
                frozen = np.mean(runs[0].marks["end"]["frozen"])
                print(
                    f"{name} {rule} {cond}: frozen {frozen:.4f} feedbacks {fb:.0f} | " + " | ".join(parts),
                    f"({time.time() - t:.0f} s)", flush=True,
                )  # fmt: skip


if __name__ == "__main__":
    main()
