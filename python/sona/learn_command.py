"""``sona learn STATE``: one background cycle on a state directory or saved engine, with what it did in each scope."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

from sona.background import LearningResult, ScopeLearning
from sona.engine import SonaEngine
from sona.exceptions import StoreError
from sona.progress import Progress

__all__ = ["add_arguments", "learn", "run"]


def learn(path: str | Path, *, deadline_s: float | None = None, show: bool = False) -> LearningResult:
    """Run one background cycle in every scope of a state, and save what it found.

    Parameters
    ----------
    path : path
        State directory (other processes may go on using it), or a file that ``save`` wrote, which is replaced whole.
    deadline_s : float, optional
        Seconds after which no scope and no training step is begun.
    show : bool, default False
        Show progress on a terminal.

    Raises
    ------
    StoreError, CorruptStateError
    """
    where = Path(path)
    if not where.exists():
        raise StoreError(2, "no such state directory or file", str(where))
    end = None if deadline_s is None else time.monotonic() + deadline_s
    done: list[ScopeLearning] = []
    with SonaEngine.load(where) as engine:
        with Progress("scopes", len(engine.scopes), show=show) as bar:
            for scope in engine.scopes:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0.0:
                    break
                done += engine.background_learn(scope=scope, deadline_s=left).scopes
                bar.advance()
        if where.is_file():
            engine.save(where)
    return LearningResult.of(tuple(done))


def table(result: LearningResult) -> str:
    """What happened in each scope, in columns."""
    head = ("scope", "trajectories", "patterns", "trained on", "adapter", "gain in DCG [95 %]", "s", "why")
    rows = [head]
    for s in result.scopes:
        gain = f"{s.gain:+.4f} [{s.low:+.4f}, {s.high:+.4f}]" if s.trained_on else ""
        kept = "published" if s.accepted else "as before"
        counts = (f"{s.trajectories:,}", f"{s.patterns:,}", f"{s.trained_on:,}")
        rows.append((s.scope, *counts, kept, gain, f"{s.elapsed_s:.2f}", s.reason))
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    return "\n".join("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("state", help="state directory, or a file written by save()")
    parser.add_argument("--deadline", type=float, metavar="S", help="begin nothing more after so many seconds")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Learn, then print the table."""
    result = learn(options.state, deadline_s=options.deadline, show=not options.json)
    if options.json:
        print(json.dumps(asdict(result), indent=2))
    elif result.scopes:
        print(table(result))
        counts = f"{result.trajectories_processed:,} trajectories, {result.patterns_extracted:,} patterns"
        print(f"\n{counts}, {result.elapsed_s:.2f} s")
    else:
        print("nothing to learn from yet")
    return 0
