"""``sona report STATE``: figures of a state directory or saved engine, without changing it."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from sona.engine import SonaEngine
from sona.exceptions import StoreError
from sona.report import Report

__all__ = ["add_arguments", "read_report", "run"]


def read_report(path: str | Path) -> Report:
    """Report of a state directory or of a file that ``save`` wrote.

    The directory is copied first: a report takes no lock from a living engine and never writes to its state.
    """
    where = Path(path)
    if not where.exists():
        raise StoreError(2, "no such state directory or file", str(where))
    if where.is_file():
        return SonaEngine.load(where).report()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "state"
        shutil.copytree(where, copy, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
        with SonaEngine.load(copy) as engine:
            return engine.report()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("state", help="state directory, or a file written by save()")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the report."""
    report = read_report(options.state)
    print(json.dumps(report.to_dict(), indent=2) if options.json else report)
    return 0
