"""Peak memory of attention beyond its operands and its result, each mechanism in a fresh process.

``python benches/python/bench_attention_memory.py`` writes ``benches/results/attention_memory.md``. The operands are float32 of
width 64; a dense (n, n) array of logits would take 4n² bytes. The peak is the resident set that the kernel reports.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SIZES = (4_096, 16_384)
NAMES = ("flash", "local-global", "block-sparse", "linear", "linear, causal", "differential", "hyperbolic")


def peak() -> float:
    """Largest resident set so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, n: int) -> float:
    """MB that one call adds to the peak."""
    from sona import attention as sa

    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((n, 64), dtype=np.float32) * 0.1 for _ in range(3))
    layout = rng.random((n // 64, n // 64)) < 0.05
    calls = {
        "flash": lambda q, k, v: sa.flash_attention(q, k, v),
        "local-global": lambda q, k, v: sa.local_global_attention(q, k, v, window=128, global_idx=4),
        "block-sparse": lambda q, k, v: sa.block_sparse_attention(q, k, v, layout[: len(q) // 64, : len(q) // 64]),
        "linear": lambda q, k, v: sa.linear_attention(q, k, v, features=128),
        "linear, causal": lambda q, k, v: sa.linear_attention(q, k, v, features=128, causal=True),
        "differential": lambda q, k, v: sa.differential_attention(q, k, k, q, v, 0.5),
        "hyperbolic": lambda q, k, v: sa.hyperbolic_attention(q, k, v),
    }
    sa.set_num_threads(1)
    call = calls[name]
    # What the first call loads does not count.
    call(q[:128], k[:128], v[:128])
    before = peak()
    call(q, k, v)
    return peak() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", nargs=2, metavar=("NAME", "N"), help="one measurement, printed")
    parser.add_argument("--output", type=Path, default=ROOT / "benches" / "results" / "attention_memory.md")
    args = parser.parse_args()
    if args.measure:
        sys.stdout.write(f"{measure(args.measure[0], int(args.measure[1]))}\n")
        return
    from machine import machine

    lines = ["| mechanism | " + " | ".join(f"n {n:,} (MB)" for n in SIZES) + " | growth |", "|---|---|---|---|"]
    for name in NAMES:
        found = []
        for n in SIZES:
            command = [sys.executable, __file__, "--measure", name, str(n)]
            found.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        lines.append(f"| {name} | {found[0]:.1f} | {found[1]:.1f} | {found[1] / max(found[0], 0.1):.1f} × |")
    operand, square = (SIZES[1] * 64 * 4 / 2**20), SIZES[1] ** 2 * 4 / 2**20
    text = [
        "# Attention: peak memory",
        "",
        "Written by `python benches/python/bench_attention_memory.py`, a fresh process each, one thread.",
        machine(numpy=np.__version__) + ".",
        f"What a call adds to the peak, result and copies included. At n {SIZES[1]:,} one operand has {operand:.0f} MB,",
        f"an (n, n) array of logits would have {square:,.0f} MB. Memory is linear in n where the growth is about 4.",
        "",
        *lines,
        "",
    ]
    args.output.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
