"""``sona info``: versions, processor features, extras."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys

from sona import _core

__all__ = ["add_arguments", "collect", "run", "show_versions"]

_EXTRAS = {
    "demo": ("matplotlib", "tqdm"),
    "minilm": ("onnxruntime", "tokenizers"),
    "postgres": ("psycopg",),
    "bench": ("pyarrow", "faiss-cpu", "hnswlib", "scikit-learn"),
}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def collect() -> dict[str, object]:
    """Versions, the SIMD tier in use and those available, and which extras are installed.

    >>> collect()["simd"] in ("scalar", "avx2", "avx512", "amx")
    True
    """
    return {
        "sona": _core.__version__,
        "python": sys.version.split()[0],
        "numpy": _version("numpy"),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "simd": _core.simd_tier(),
        "simd_available": _core.simd_tiers(),
        "extras": {extra: {p: _version(p) for p in packages} for extra, packages in _EXTRAS.items()},
    }


def show_versions() -> None:
    """Print what ``collect`` gives, for a bug report."""
    print(_table(collect()))


def _table(values: dict[str, object]) -> str:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            for extra, packages in value.items():
                shown = ", ".join(f"{p} {v or 'missing'}" for p, v in packages.items())
                lines.append(f"{'[' + extra + ']':<16}{shown}")
        else:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            lines.append(f"{name:<16}{shown}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    values = collect()
    print(json.dumps(values, indent=2) if options.json else _table(values))
    return 0
