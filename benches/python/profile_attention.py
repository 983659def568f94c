"""Where the time of attention calls goes, by Linux ``perf``: shares of the samples of one call, over and over.

``SONA_DATA=DIR python benches/python/profile_attention.py`` writes ``benches/results/attention_profile.md``. It needs ``perf``
and an extension whose symbols are not stripped (``cargo build --profile fast -p sona-python``). Shares, not times: sampling
slows calls.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import bench_attention
import bench_graph
import sona.attention as sa
from machine import machine

ROOT = Path(__file__).resolve().parents[2]

KINDS = {
    "tiles and what is beside them": r"split_tiles::(multiply_absorb|multiply_left)|bit_tiles",
    "tiles alone": r"split_tiles::multiply$",
    "cutting": r"split_parts::",
    "float32 products": r"(avx512|avx2|scalar)\w*::(multiply|project|weighted|dot)$|hamming",
    "exponentials, distances": r"::(absorb|decays|distances|apart|largest|exp\w*)$|expf",
    "copies, zeros": r"__mem(move|cpy|set)|SpecFill|::fill$|::nonzero$",
    "system": r"\[k\]",
    "Python, numpy": r"libpython|umath|ld-linux|libc\.so|\[vdso\]|math\.cpython",
}
"""Columns, by name of the library and symbol; the first that fits counts."""

ROWS = {
    "softmax, 8 heads, n 100": ("softmax", "softmax, 8 heads, n 100", 1),
    "softmax, 8 heads, n 512": ("softmax", "softmax, 8 heads, n 512", 1),
    "the same, two threads": ("softmax", "softmax, 8 heads, n 512", 2),
    "one query, 8,192 keys": ("softmax", "one query, 8,192 keys", 1),
    "differential, n 2,048": ("derived", "differential, n 2,048", 1),
    "block-sparse, n 2,048": ("derived", "block-sparse, density 0.25, n 2,048", 1),
    "Poincaré, n 512": ("derived", "Poincaré, n 512", 1),
    "mixture of heads, n 512": ("derived", "MoE, 4 experts, top 2, width 64, n 512", 1),
    "hypervectors, 100 × 100": ("others", "hypervectors, 100 × 100 similarities, 10,000 bits", 1),
}


def shares(call: Callable[[], object], threads: int, seconds: float) -> dict[str, float]:
    """Percent of the samples by kind."""
    sa.set_num_threads(threads)
    for _ in range(20):
        call()
    with tempfile.TemporaryDirectory() as folder:
        data = f"{folder}/perf.data"
        perf = subprocess.Popen(["perf", "record", "-q", "-F", "5000", "-o", data, "-p", str(os.getpid())])
        time.sleep(0.3)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            call()
        perf.send_signal(signal.SIGINT)
        perf.wait()
        report = ["perf", "report", "-i", data, "--no-children", "--stdio", "-F", "overhead,dso,symbol"]
        lines = subprocess.run(report, capture_output=True, text=True, check=True).stdout.splitlines()
    sa.set_num_threads(1)
    out = dict.fromkeys([*KINDS, "rest"], 0.0)
    for line in lines:
        found = re.match(r"\s*([\d.]+)%\s+(.*\S)", line)
        if found:
            kind = next((k for k, pattern in KINDS.items() if re.search(pattern, found[2])), "rest")
            out[kind] += float(found[1])
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    seconds = parser.parse_args().seconds
    built = {group: {row.name: row for row in bench_attention.GROUPS[group]()} for group, _, _ in ROWS.values()}
    calls = {name: (built[group][row].calls["sona"], threads) for name, (group, row, threads) in ROWS.items()}
    graph, x, edges = bench_graph.graph()
    peers = bench_graph.Peers(x, edges)
    calls[f"GraphSAGE, {graph}"] = (lambda: sa.sage_conv(x, edges, peers.w, None, peers.v), 1)
    lines = [f"| call | {' | '.join([*KINDS, 'rest'])} |", "|---" * (len(KINDS) + 2) + "|"]
    for name, (call, threads) in calls.items():
        cells = [f"{x:.0f}" for x in shares(call, threads, seconds).values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], file=sys.stderr)
    text = [
        "# Attention: profiles",
        "",
        "Written by `python benches/python/profile_attention.py`: percent of the samples of `perf record`, one thread where",
        "nothing else is said. The rest is the core's own code around the kernels.",
        machine(numpy=np.__version__) + ".",
        "",
        *lines,
        "",
    ]
    (ROOT / "benches" / "results" / "attention_profile.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
