"""Detectors on the labelled server metrics of NAB, by NAB's own score (Lavin & Ahmad 2015, §III).

A series begins with a probation of 15 % (at most 750 values) that is not scored. The first alarm in a window earns up to 1,
more the earlier it comes; a window without an alarm costs 1; an alarm outside costs .11, less just behind a window. 0 is what
silence gets and 100 the perfect detector. Detectors with a score are swept over thresholds and the best threshold for all
series together is taken, as NAB does; "as shipped" takes the default one.

    SONA_DATA=... python benches/research/nab.py
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import norm

from sona.control import Adwin, AnomalyDetector, Ewma, RobustZ


def probation(n: int) -> int:
    """Values at the start that are not scored."""
    return int(min(0.15 * n, 0.15 * 5000))


def sigmoid(y: float) -> float:
    """Weight of an alarm at position `y` relative to the end of a window; −1 is its start."""
    return 2.0 / (1.0 + math.exp(5.0 * y)) - 1.0


def windows(ids: np.ndarray) -> list[tuple[int, int]]:
    """First and last position of every window."""
    return [
        (int(np.flatnonzero(ids == i)[0]), int(np.flatnonzero(ids == i)[-1])) for i in range(1, int(ids.max(initial=0)) + 1)
    ]


def score(alarms: np.ndarray, spans: list[tuple[int, int]], n: int, cost: dict[str, float]) -> float:
    """Raw score of the positions of alarms on one series."""
    best = dict.fromkeys(range(len(spans)), -cost["fnWeight"])
    total = 0.0
    for i in alarms[alarms >= probation(n)]:
        inside = [w for w, (a, b) in enumerate(spans) if a <= i <= b]
        if inside:
            a, b = spans[inside[0]]
            value = sigmoid(-(b - i + 1) / (b - a + 1)) / sigmoid(-1.0) * cost["tpWeight"]
            best[inside[0]] = max(best[inside[0]], value)
            continue
        before = [(a, b) for a, b in spans if b < i]
        if before:
            a, b = before[-1]
            total += sigmoid(min((i - b) / (b - a), 100.0)) * cost["fpWeight"]
        else:
            total -= cost["fpWeight"]
    return total + sum(best.values())


def windowed_gaussian(x: np.ndarray, window: int = 6400, step: int = 100) -> np.ndarray:
    """NAB's baseline: 1 − tail probability under the mean and deviation of the last window, renewed every `step` values."""
    out = np.zeros(len(x))
    mean, std = x[0], 1.0
    for i, v in enumerate(x):
        if i >= 2 and (i < 200 or i % step == 0):
            part = x[max(0, i - window) : i]
            mean, std = part.mean(), max(part.std(), 1e-6)
        out[i] = 1 - norm.sf(abs(v - mean) / std) if i else 0.0
    return out


def running(make, read):
    """Scores of a detector, value by value."""

    def run(x: np.ndarray) -> np.ndarray:
        detector = make()
        out = np.empty(len(x))
        for i, v in enumerate(x):
            alarm = detector.update(v)
            out[i] = read(detector, alarm)
        return out

    return run


DETECTORS = {
    "random": (lambda x: np.random.default_rng(len(x)).random(len(x)), None),
    "windowed Gaussian": (windowed_gaussian, None),
    "Ewma": (running(lambda: Ewma(), lambda d, a: d.score), 6.0),
    "RobustZ": (running(lambda: RobustZ(), lambda d, a: d.score), 6.0),
    "Adwin": (running(lambda: Adwin(), lambda d, a: float(a)), 0.5),
    "AnomalyDetector, 1 of 3": (running(lambda: AnomalyDetector(agree=1), lambda d, a: float(a)), 0.5),
    "AnomalyDetector, 2 of 3": (running(lambda: AnomalyDetector(), lambda d, a: float(a)), 0.5),
    "AnomalyDetector, 2 of 3, cooldown 100": (running(lambda: AnomalyDetector(cooldown=100), lambda d, a: float(a)), 0.5),
    "AnomalyDetector, 3 of 3": (running(lambda: AnomalyDetector(agree=3), lambda d, a: float(a)), 0.5),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="standard")
    args = parser.parse_args()
    data = Path(os.environ["SONA_DATA"])
    cost = json.loads((data / "nab_profiles.json").read_text())[args.profile]["CostMatrix"]
    table = pq.read_table(data / "nab.parquet").to_pandas()
    series = []
    for _, g in table.groupby("series", observed=True):
        g = g.sort_values("timestamp")
        series.append((g.value.to_numpy(), windows(g.window_id.to_numpy())))
    count = sum(len(spans) for _, spans in series)
    null, perfect = -cost["fnWeight"] * count, cost["tpWeight"] * count
    print(f"{len(series)} series, {count} windows, {sum(len(x) for x, _ in series):,} values, profile {args.profile}\n")
    print(
        "| detector | NAB score, best threshold | threshold | as shipped | windows found | "
        "false alarms per 1,000 | µs per value |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (detect, shipped) in DETECTORS.items():
        start = time.perf_counter()
        scores = [detect(x) for x, _ in series]
        us = (time.perf_counter() - start) / sum(len(x) for x, _ in series) * 1e6

        def judge(threshold: float, scores=scores) -> tuple[float, float, float]:
            raw = found = wrong = scored = 0.0
            for s, (x, spans) in zip(scores, series, strict=True):
                alarms = np.flatnonzero(s > threshold)
                raw += score(alarms, spans, len(x), cost)
                alarms = alarms[alarms >= probation(len(x))]
                inside = np.zeros(len(x), dtype=bool)
                for a, b in spans:
                    inside[a : b + 1] = True
                    found += ((alarms >= a) & (alarms <= b)).any()
                wrong += (~inside[alarms]).sum()
                scored += len(x) - probation(len(x))
            return 100 * (raw - null) / (perfect - null), found, 1000 * wrong / scored

        pool = np.concatenate(scores)
        tries = np.unique(np.quantile(pool, 1 - np.geomspace(1e-5, 0.2, 60)))
        if len(np.unique(pool)) <= 2:
            tries = np.array([0.5])
        best = max(tries, key=lambda t: judge(t)[0])
        value, found, wrong = judge(best if shipped is None else shipped)
        as_shipped = "–" if shipped is None else f"{value:.1f}"
        print(f"| {name} | {judge(best)[0]:.1f} | {best:.3g} | {as_shipped} | {found:.0f}/{count} | {wrong:.2f} | {us:.2f} |")


if __name__ == "__main__":
    main()
