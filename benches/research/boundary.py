"""How often the task-boundary detector raises a false alarm, and how soon it sees a change.

``python benches/research/boundary.py`` prints the tables of docs/explanation/forgetting.md; about a minute.

Two kinds of streams. *Made*: gradients are a task's direction plus noise, and a change rotates the direction by an angle; the
noise is given as the mean cosine between a gradient and its task's direction. *Real* (with ``SONA_DATA``): mean minibatch
gradients of a ``BaseLoRA`` that is trained on domains of CLINC150 one after the other.
"""

from __future__ import annotations

import os

import numpy as np

from sona.continual import BoundaryDetector

DIM, QUIET, RUNS = 256, 2000, 40


def stream(rng: np.random.Generator, steps: int, mean: np.ndarray, cosine: float) -> np.ndarray:
    """Unit task direction plus noise of such length that the expected cosine with it is ``cosine``."""
    noise = rng.normal(size=(steps, DIM)) / np.sqrt(DIM) * np.sqrt(1 / cosine**2 - 1)
    return (mean + noise).astype(np.float32)


def rotated(rng: np.random.Generator, mean: np.ndarray, angle: float) -> np.ndarray:
    other = rng.normal(size=DIM)
    other -= (other @ mean) * mean
    return np.cos(angle) * mean + np.sin(angle) * other / np.linalg.norm(other)


def alarms(detector: BoundaryDetector, rows: np.ndarray) -> list[int]:
    return [i for i, g in enumerate(rows) if detector.update(g)]


def made() -> None:
    print(f"{RUNS} streams of {QUIET:,} steps without a change, then one; d = {DIM}, default settings.\n")
    print("| cosine of a gradient with its task | false alarms per 1,000 steps | change of 30° | 60° | 90° | 180° |")
    print("|---|---|---|---|---|---|")
    for cosine in (0.2, 0.3, 0.5, 0.7, 0.9):
        false, cells = 0, []
        for angle in (30, 60, 90, 180):
            delays, missed = [], 0
            for run in range(RUNS):
                rng = np.random.default_rng([run, angle])
                mean = rng.normal(size=DIM)
                mean /= np.linalg.norm(mean)
                detector = BoundaryDetector(DIM)
                false += len(alarms(detector, stream(rng, QUIET, mean, cosine)))
                seen = alarms(detector, stream(rng, 200, rotated(rng, mean, np.radians(angle)), cosine))
                if seen:
                    delays.append(seen[0] + 1)
                else:
                    missed += 1
            share = f"{100 * (1 - missed / RUNS):.0f} % seen"
            cells.append(f"{share}, after {np.median(delays):.0f}" if delays else share)
        print(f"| {cosine} | {1000 * false / (4 * RUNS * QUIET):.3f} | {' | '.join(cells)} |")


def real() -> None:
    from sona.bench.sequences import clinc_domains
    from sona.lora import BaseLoRA

    print("\nCLINC150, 5 orders of its 10 domains, 200 minibatches of one request per intent each, rank 16.\n")
    print("| | boundaries | seen within 50 steps | median delay | false alarms per 1,000 steps |")
    print("|---|---|---|---|---|")
    for rate in (0.0, 0.001, 0.003):
        boundaries = seen = false = steps = 0
        delays: list[int] = []
        for seed in range(5):
            rng = np.random.default_rng(seed)
            tasks = clinc_domains(seed)
            lora = BaseLoRA(tasks[0].items.shape[1], 16, learning_rate=rate, seed=seed)
            detector = BoundaryDetector(2 * 16 * tasks[0].items.shape[1])
            for t, task in enumerate(tasks):
                by_item = [np.flatnonzero(task.train_target == i) for i in np.unique(task.train_target)]
                fired = []
                for step in range(200):
                    rows = [int(rng.choice(at)) for at in by_item]
                    q, p = task.train[rows], task.items[task.train_target[rows]]
                    if detector.update(lora.sample_gradients(0, q, p).mean(axis=0)):
                        fired.append(step)
                    lora.train_step(0, q, p)
                steps += 200
                hits = [f for f in fired if t and f < 50]
                false += len(fired) - min(1, len(hits))
                if t:
                    boundaries += 1
                    seen += bool(hits)
                    delays += [f + 1 for f in hits[:1]]
        delay = f"{np.median(delays):.0f}" if delays else "–"
        name = "adapter at rest" if rate == 0.0 else f"adapter learning, rate {rate}"
        print(f"| {name} | {boundaries} | {seen} | {delay} | {1000 * false / steps:.2f} |")


if __name__ == "__main__":
    made()
    if os.environ.get("SONA_DATA"):
        real()
    else:
        print("SONA_DATA is not set: no real streams")
