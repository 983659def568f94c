"""What sona takes of a machine: memory of an engine, time to import, size of the wheel, time to load a state.

``python benches/python/bench_footprint.py [--wheel dist/sona-….whl]`` writes ``benches/results/footprint.md``; ``--quick``
prints only. Every figure of memory or import time comes from processes that do nothing else.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from machine import machine
from sona import SonaConfig, SonaEngine

ROOT = Path(__file__).resolve().parents[2]
MB = 1 << 20
ITEMS, CANDIDATES = 500, 50


def resident() -> int:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def unit(x: np.ndarray) -> np.ndarray:
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def feed(engine: SonaEngine, d: int, feedbacks: int) -> None:
    """Decisions over 50 of 500 items, each with its feedback."""
    rng = np.random.default_rng(0)
    items, ids = unit(rng.standard_normal((ITEMS, d))), [f"document {i}" for i in range(ITEMS)]
    for i in range(feedbacks):
        first = i * 13 % (ITEMS - CANDIDATES)
        query = rng.standard_normal(d).astype(np.float32)
        at = slice(first, first + CANDIDATES)
        decision = engine.rank(query=query, ids=ids[at], vectors=items[at], k=10)
        engine.feedback(decision.id, chosen=decision.ids[i % 3], user=f"user {i % 1000}")


def memory(preset: str, feedbacks: int, stored: bool) -> dict[str, float]:
    """Growth of the resident set of this process by one engine and its work."""
    config: SonaConfig = getattr(SonaConfig, preset)() if preset != "default" else SonaConfig()
    config = config.replace(user_cap_per_minute=0)
    feed(SonaEngine(config), config.hidden_dim, 3)  # code, static tables, allocator
    before = resident()
    with tempfile.TemporaryDirectory() as folder:
        engine = SonaEngine(config, store=folder if stored else None)
        feed(engine, config.hidden_dim, feedbacks)
        after, m = resident(), engine.metrics()
        engine.close()
    parts = {k: m[k] / MB for k in ("case_bytes", "item_bytes", "pending_bytes", "journal_bytes")}
    if stored:
        parts["journal_bytes"] = 0.0  # on the disk
    return {"grown": (after - before) / MB, "cases": m["cases"], **parts}


def load(path: str) -> dict[str, float]:
    start = time.perf_counter()
    engine = SonaEngine.load(path)
    seconds = time.perf_counter() - start
    return {"ms": seconds * 1e3, "cases": engine.metrics()["cases"]}


PARTS: dict[str, Callable[..., dict[str, float]]] = {"memory": memory, "load": load}


def in_fresh_process(part: str, *args: Any) -> dict[str, float]:
    command = [sys.executable, __file__, "--part", json.dumps([part, *args])]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(out)
    return result


def import_ms(modules: str, bytecode: str) -> float:
    """Wall time of a fresh interpreter that imports ``modules``, compiled as an installer leaves them."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": bytecode}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {modules}"], check=True, env=env)
    return (time.perf_counter() - start) * 1e3


def imports(rounds: int) -> list[str]:
    with tempfile.TemporaryDirectory() as bytecode:
        import_ms("numpy, sona", bytecode)
        pairs = [(import_ms("numpy", bytecode), import_ms("numpy, sona", bytecode)) for _ in range(rounds)]
    extra = np.array([b - a for a, b in pairs])
    p10, p50, p90 = np.percentile(extra, [10, 50, 90])
    return [f"| `import sona`, beyond numpy | {p50:.1f} ms (p10 {p10:.1f}, p90 {p90:.1f}; {rounds} pairs of processes) |"]


def memory_table(quick: bool) -> list[str]:
    n = 2_000 if quick else 10_000
    runs = (
        ("edge_deployment", n, False),
        ("edge_deployment", 5 * n, False),
        ("default", n, True),
        ("default", n, False),
    )
    lines = ["| preset | feedbacks | cases kept | process grew by | cases | items | waiting decisions | journal |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for preset, feedbacks, stored in runs:
        r = in_fresh_process("memory", preset, feedbacks, stored)
        parts = " | ".join(f"{r[k]:.1f}" for k in ("case_bytes", "item_bytes", "pending_bytes", "journal_bytes"))
        where = "state directory" if stored else "in memory"
        lines.append(f"| {preset}, {where} | {feedbacks:,} | {r['cases']:,.0f} | **{r['grown']:.1f}** | {parts} |")
        sys.stderr.write(lines[-1] + "\n")
    return lines


def load_rows(quick: bool) -> list[str]:
    """A state of about 100 MB, d 384, in one file and in a state directory."""
    cases = 2_500 if quick else 25_000
    config = SonaConfig(hidden_dim=384, case_bytes=None, trajectory_capacity=500, journal_bytes=MB, user_cap_per_minute=0)
    lines = []
    with tempfile.TemporaryDirectory(dir=ROOT / "target") as folder:
        path = Path(folder) / "engine.sona"
        engine = SonaEngine(config)
        feed(engine, 384, cases)
        engine.save(path)
        size = path.stat().st_size
        times = [in_fresh_process("load", str(path))["ms"] for _ in range(3 if quick else 9)]
        start = time.perf_counter()
        path.read_bytes()
        read = (time.perf_counter() - start) * 1e3
        lines.append(
            f"| `SonaEngine.load`, {size / 1e6:.0f} MB, {cases:,} cases × 384, file in the page cache | "
            f"{np.median(times):.0f} ms (least {min(times):.0f}; reading the file alone {read:.0f}) |"
        )
        sys.stderr.write(lines[-1] + "\n")
    return lines


def wheel_rows(wheel: str | None) -> list[str]:
    if wheel is None:
        return []
    return [f"| wheel, `{Path(wheel).name}` | {Path(wheel).stat().st_size / 1e6:.2f} MB |"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small part, printed and not written")
    parser.add_argument("--wheel", help="a built wheel to weigh")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        name, *values = json.loads(args.part)
        print(json.dumps(PARTS[name](*values)))
        return
    (ROOT / "target").mkdir(exist_ok=True)
    lines = [
        "# Footprint",
        "",
        "`python benches/python/bench_footprint.py`; each figure from processes that do nothing else.",
        machine(numpy=np.__version__) + ".",
        "",
        "| | |",
        "|---|---|",
        *imports(7 if args.quick else 25),
        *wheel_rows(args.wheel),
        *load_rows(args.quick),
        "",
        "## Memory",
        "",
        "MiB, d 256, 50 candidates of 500 items per decision, every decision with feedback. *Process grew by* is the resident",
        "set after minus before; the parts are the engine's own counts.",
        "",
        *memory_table(args.quick),
    ]
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if not args.quick:
        (ROOT / "benches/results/footprint.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
