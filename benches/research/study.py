"""Run named variants on dev splits (or once on test) and compare them, paired per request, with a base.

    SONA_DATA=... SONA_CACHE=... python benches/research/study.py BASE VARIANT ... [--sets ...] [--seeds 4]

Seed s uses dev fold s. Finished runs are kept in SONA_CACHE/runs and reused. A star marks a difference to
BASE of more than 1.96 standard errors, paired over requests.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from dataclasses import fields

import numpy as np
from data import cache_dir, load
from sim import Condition, simulate
from variants import VARIANTS

CONDITIONS = {
    "clean": Condition(),
    "noise": Condition(noise=0.2),
    "hidden": Condition(hidden=0.2),
    "both": Condition(noise=0.2, hidden=0.2),
}
SHOW = {"clean": ["all"], "noise": ["all"], "hidden": ["seen", "unseen"], "both": ["seen", "unseen"]}


def runs(
    variant: str, name: str, cond: str, split: str, seeds: int, marks: tuple[int, ...], offset: int
) -> dict[str, list[np.ndarray]]:
    """{mark/what: one array per seed}, from the cache where possible."""
    o, engine = VARIANTS[variant]
    out: dict[str, list[np.ndarray]] = {}
    for seed in range(offset, offset + seeds):
        changed = {f.name: getattr(o, f.name) for f in fields(o) if getattr(o, f.name) != f.default}
        what = repr((changed, engine.__name__, name, cond, split, seed, marks))
        key = hashlib.sha1(what.encode()).hexdigest()[:20]
        path = cache_dir() / "runs" / f"{variant}-{name}-{cond}-{seed}-{key}.npz"
        if not path.exists():
            r = simulate(load(name, split, seed), o, CONDITIONS[cond], seed, marks, engine)
            path.parent.mkdir(exist_ok=True)
            np.savez(path, **{f"{m}/{w}": v for m, d in r.marks.items() for w, v in d.items()})
        with np.load(path) as z:
            for k in z.files:
                out.setdefault(k, []).append(z[k])
    return out


def compare(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[float, bool]:
    """Mean lift of a, and whether it differs from b's (paired over requests)."""
    x, y = np.concatenate(a), np.concatenate(b)
    ok = ~(np.isnan(x) | np.isnan(y))
    d = (x - y)[ok]
    return float(np.nanmean(x)), bool(abs(d.mean()) > 1.96 * d.std() / np.sqrt(len(d)) + 1e-12)


def main() -> None:
    """One table per set."""
    p = argparse.ArgumentParser()
    p.add_argument("variants", nargs="+")
    p.add_argument("--sets", default="scifact,banking77,clinc150,hwu64")
    p.add_argument("--conditions", default="clean,noise,hidden,both")
    p.add_argument("--split", default="dev")
    p.add_argument("--seeds", type=int, default=2)
    p.add_argument("--offset", type=int, default=0)
    p.add_argument("--marks", default="")
    a = p.parse_args()
    marks = tuple(int(x) for x in a.marks.split(",") if x)
    for name in a.sets.split(","):
        base: dict[str, dict] = {}
        header = [f"{c[:3]}.{w[:3]}@{m}" for m in [*marks, "end"] for c in a.conditions.split(",") for w in SHOW[c]]
        print(f"{name:22s}" + "".join(f"{h:>13s}" for h in header), flush=True)
        for v in a.variants:
            t = time.time()
            got = {c: runs(v, name, c, a.split, a.seeds, marks, a.offset) for c in a.conditions.split(",")}
            base = base or got
            cells = []
            for m in [*marks, "end"]:
                for c in a.conditions.split(","):
                    for w in SHOW[c]:
                        k = f"{m}/{w}"
                        if k not in got[c] or k not in base[c]:
                            cells.append("-")
                            continue
                        mean, star = compare(got[c][k], base[c][k])
                        cells.append(f"{mean:+.4f}" + ("*" if star else " "))
            print(f"{v:22s}" + "".join(f"{x:>13s}" for x in cells) + f"  {time.time() - t:.0f}s", flush=True)


if __name__ == "__main__":
    main()
