"""The ``sona`` command: demo, dream, learn, tune, bench, report, info, doctor. ``--json`` everywhere.

Exit status: 0 if all is well, 1 if a check failed or a measured promise was not kept, 2 for wrong usage or unreadable input.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from sona import __version__
from sona.exceptions import SonaError

__all__ = ["main"]

#: Command → (module with ``add_arguments`` and ``run``, one line of help). Imported when used, so that each starts fast.
_COMMANDS = {
    "demo": ("sona.demo", "watch retrieval over Python's own documentation get better from clicks"),
    "dream": ("sona.dream_command", "suggest links between items that users chose for similar requests"),
    "info": ("sona.info", "versions, processor features, extras"),
    "doctor": ("sona.doctor", "check that this installation works, end to end"),
    "learn": ("sona.learn_command", "run a background cycle on a state directory or saved engine"),
    "report": ("sona.report_command", "figures of a state directory or saved engine"),
    "tune": ("sona.tune_command", "search index, adapter rank and bits on the clicks of a saved engine"),
}
_BENCHES = {
    "retrieval": ("sona.bench.retrieval", "learning from clicks on public data sets (SONA_DATA)"),
    "routing": ("sona.bench.routing", "cost and quality of routers on public data sets (SONA_DATA)"),
    "forgetting": ("sona.bench.forgetting", "what is left of the first tasks when the last was learned (SONA_DATA)"),
}


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sona", description="Retrieval that learns from outcomes.")
    parser.add_argument("--version", action="version", version=f"sona {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, line) in _COMMANDS.items():
        sub = commands.add_parser(name, help=line, description=line)
        if name in argv[:1]:
            importlib.import_module(module).add_arguments(sub)
    bench = commands.add_parser("bench", help="benchmarks", description="Benchmarks.")
    benches = bench.add_subparsers(dest="bench", required=True, metavar="NAME")
    for name, (module, line) in _BENCHES.items():
        sub = benches.add_parser(name, help=line, description=line)
        if list(argv[:2]) == ["bench", name]:
            importlib.import_module(module).add_arguments(sub)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    options = _parser(argv).parse_args(argv)
    module = (_BENCHES[options.bench] if options.command == "bench" else _COMMANDS[options.command])[0]
    try:
        return int(importlib.import_module(module).run(options))
    except (SonaError, OSError, ImportError) as error:
        if getattr(options, "json", False):
            print(json.dumps({"error": type(error).__name__, "message": str(error)}))
        else:
            print(f"sona {options.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
