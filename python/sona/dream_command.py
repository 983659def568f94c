"""``sona dream STATE``: a deep cycle over what the users of a saved engine chose. Suggests links, changes nothing."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sona._saved import opened
from sona.deep import dream, memory_graph
from sona.dreams import Dream
from sona.progress import Progress

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("state", help="state directory, or a file written by save()")
    parser.add_argument("--scope", default="default", help="scope to dream about (default: %(default)s)")
    parser.add_argument("--dreams", type=int, default=50, help="dreams (default: %(default)s)")
    parser.add_argument("--phi", type=float, default=0.3, help="least integration of a dream (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: %(default)s)")
    parser.add_argument("--top", type=int, default=10, help="suggestions to show (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Dream, and print what came of it."""
    with opened(options.state) as engine:
        graph, ids = memory_graph(engine, scope=options.scope, seed=options.seed)
    before = {"memories": graph.node_count, "edges": graph.edge_count}
    with Progress("dreams", options.dreams, show=not options.json) as progress:

        def dreamt(dream: Dream, phi: float, added: int) -> None:
            progress.advance()

        result, suggested = dream(graph, ids, dreams=options.dreams, phi_threshold=options.phi, on_dream=dreamt)
    if options.json:
        links = [{"a": _plain(x.a), "b": _plain(x.b), "weight": x.weight} for x in suggested]
        row = {
            "scope": options.scope,
            **before,
            "dreams": result.dreams_generated,
            "integrated": result.dreams_integrated,
            "merged_or_dropped": result.patterns_pruned,
            "strengthened": result.patterns_strengthened,
            "elapsed_s": round(result.elapsed_s, 6),
            "status": result.status,
            "suggestions": links,
        }
        print(json.dumps(row, indent=2))
        return 0
    for name, value in [
        ("memories", before["memories"]),
        ("links", before["edges"]),
        ("dreams", result.dreams_generated),
        ("integrated", result.dreams_integrated),
        ("merged or dropped", result.patterns_pruned),
        ("strengthened", result.patterns_strengthened),
        ("suggested links", len(suggested)),
        ("seconds", f"{result.elapsed_s:.3f}"),
        ("status", result.status),
    ]:
        print(f"{name:<20}{value}")
    for x in suggested[: options.top]:
        print(f"  {x.weight:.4f}  {_plain(x.a)}  {_plain(x.b)}")
    return 0


def _plain(key: Any) -> Any:
    if isinstance(key, bytes):
        return key.hex()
    return [_plain(part) for part in key] if isinstance(key, tuple) else key
