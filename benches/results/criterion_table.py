"""Prints what criterion measured as a Markdown table, with the machine it ran on.

cargo bench -p sona-bench --bench kernels
python benches/results/criterion_table.py kernels > benches/results/kernels.md
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def machine() -> str:
    """Processor, instruction tier, cores, load and compiler: what a number depends on."""
    cpu, flags = platform.processor(), ""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        cpu = value.strip() if key.strip() == "model name" else cpu
        flags = value if key.strip() == "flags" else flags
    best = "amx" if "amx_bf16" in flags else "avx512" if "avx512_vnni" in flags else "avx2" if " avx2" in flags else "scalar"
    rustc = subprocess.run(["rustc", "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    return (
        f"{cpu}, {os.cpu_count()} cores, SIMD tier {os.environ.get('SONA_SIMD', best)}, one thread, "
        f"load {os.getloadavg()[1]:.1f}, rustc {rustc}, {platform.system()} {platform.release().split('-')[0]}"
    )


def pretty(ns: float) -> str:
    """A time with three significant digits."""
    for unit, size in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if ns < 1000 * size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns / 1e9:.3g} s"


def samples(folder: Path) -> list[float]:
    """Nanoseconds per iteration of each sample, sorted."""
    data = json.loads((folder / "sample.json").read_text(encoding="utf-8"))
    return sorted(t / n for t, n in zip(data["times"], data["iters"], strict=True))


def compared(rows: dict[str, dict[str, list[float]]]) -> None:
    """One row per case: ours, then the others beside it."""
    others = sorted({who for row in rows.values() for who in row} - {"sona"})
    print("| case | sona | p10 |" + "".join(f" {o} (p10) | ratio |" for o in others))
    print("|---|---|---|" + "---|---|" * len(others))
    for key, row in rows.items():
        own = row["sona"]
        p10 = own[len(own) // 10]
        line = f"| {key} | {pretty(own[len(own) // 2])} | {pretty(p10)} |"
        for o in others:
            if o in row:
                other = row[o][len(row[o]) // 10]
                line += f" {pretty(other)} | {other / p10:.2f} |"
            else:
                line += " | |"
        print(line)


def listed(rows: dict[str, dict[str, list[float]]]) -> None:
    """One row per figure."""
    print("| what | median | p10 |\n|---|---|---|")
    for key, row in rows.items():
        for who, t in row.items():
            print(f"| {' '.join(filter(None, (who, key)))} | {pretty(t[len(t) // 2])} | {pretty(t[len(t) // 10])} |")


def main(prefixes: list[str]) -> None:
    """Writes the tables of all groups whose names begin with one of `prefixes`."""
    times: dict[str, dict[str, dict[str, list[float]]]] = {}
    for path in sorted(ROOT.glob("target/criterion/**/new/benchmark.json")):
        b = json.loads(path.read_text(encoding="utf-8"))
        if b["group_id"].startswith(tuple(prefixes)):
            row, _, who = (b["function_id"] or "").rpartition("/")
            key = f"{row} {b['value_str'] or ''}".strip()
            times.setdefault(b["group_id"], {}).setdefault(key, {})[who] = samples(path.parent)
    names = " ".join(f'"{p}"' if " " in p else p for p in prefixes)
    print(f"# {', '.join(prefixes)}\n")
    print(f"Written by `benches/results/criterion_table.py {names}` from `cargo bench -p sona-bench`.\n")
    print(f"{machine()}.\n")
    print("Median of the samples, and their fastest tenth, which other load on the machine disturbs least.")
    alone = {}
    for group, rows in times.items():
        rows = dict(sorted(rows.items(), key=lambda r: [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in r[0].split()]))
        if [*rows] == [""]:
            alone[group] = rows[""]
            continue
        print(f"\n## {group}\n")
        (compared if all("sona" in row for row in rows.values()) else listed)(rows)
    if alone:
        print("\n## Single figures\n")
        listed(alone)


if __name__ == "__main__":
    main(sys.argv[1:] or [""])
