"""Cost of one durable record: the event log against sqlite3 (WAL) and a plain file, interleaved.

``python benches/python/bench_store.py [--directory DIR]`` writes ``benches/results/store.md``. The directory
should be on the disk that the state will be on; the default is ``target/bench-store`` in the repository.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shutil
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import sona
from sona.store import EmbeddedStore, EventLog, SnapshotStore

ROOT = Path(__file__).resolve().parents[2]
SIZES = (100, 1024, 8192)
Append = Callable[[bytes], object]


class PlainFile:
    """The floor: one unbuffered write, nothing to recover by."""

    def __init__(self, path: Path, *, sync: bool) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.sync = sync

    def append(self, payload: bytes) -> None:
        os.write(self.fd, payload)
        if self.sync:
            os.fdatasync(self.fd)

    def count(self) -> int:
        return -1

    def close(self) -> None:
        os.close(self.fd)


class Sqlite:
    """One INSERT, one transaction; FULL syncs at each commit, NORMAL at checkpoints only."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self.db = sqlite3.connect(path, isolation_level=None)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute(f"PRAGMA synchronous={synchronous}")
        self.db.execute("CREATE TABLE log (seq INTEGER PRIMARY KEY, payload BLOB)")

    def append(self, payload: bytes) -> None:
        self.db.execute("INSERT INTO log (payload) VALUES (?)", (payload,))

    def count(self) -> int:
        return int(self.db.execute("SELECT count(*) FROM log").fetchone()[0])

    def close(self) -> None:
        self.db.close()


class Log:
    """Ours."""

    def __init__(self, path: Path, fsync: str) -> None:
        self.log = EventLog(path, fsync=fsync)  # type: ignore[arg-type]
        self.append: Append = self.log.append

    def count(self) -> int:
        return sum(1 for _ in self.log.replay())

    def close(self) -> None:
        self.log.close()


def contenders(directory: Path, *, synced: bool) -> dict[str, PlainFile | Sqlite | Log]:
    if synced:
        return {
            "sona always": Log(directory / "always", "always"),
            "plain file + fdatasync": PlainFile(directory / "plain", sync=True),
            "sqlite3 WAL FULL": Sqlite(directory / "full.db", "FULL"),
        }
    return {
        "sona none": Log(directory / "none", "none"),
        "sona group": Log(directory / "group", "group"),
        "plain file": PlainFile(directory / "plain", sync=False),
        "sqlite3 WAL NORMAL": Sqlite(directory / "normal.db", "NORMAL"),
    }


def measure_appends(directory: Path, *, synced: bool, rounds: int, calls: int) -> list[tuple[str, int, float, float, float]]:
    rows = []
    for size in SIZES:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        field = contenders(directory, synced=synced)
        payload = os.urandom(size)
        times: dict[str, list[int]] = {name: [] for name in field}
        gc.disable()
        for _ in range(rounds):
            for name, contender in field.items():
                append, clock, out = contender.append, time.perf_counter_ns, times[name]
                for _ in range(calls):
                    start = clock()
                    append(payload)
                    out.append(clock() - start)
        gc.enable()
        for name, contender in field.items():
            assert contender.count() in (-1, rounds * calls), name
            contender.close()
            p10, p50, p99 = np.percentile(times[name], [10, 50, 99]) / 1000
            rows.append((name, size, p10, p50, p99))
    return rows


def median_ms(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter_ns()
        call()
        times.append(time.perf_counter_ns() - start)
    return float(np.median(times)) / 1e6


def measure_rest(directory: Path) -> list[tuple[str, str]]:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    out = []
    n, size = 100_000, 1024
    with EventLog(directory / "log", fsync="none") as log:
        batch = [os.urandom(size)] * 1000
        append = median_ms(lambda: log.append_many(batch), n // 1000)
        out.append(("append_many, 1000 records of 1 KiB, per record", f"{append:.2f} µs"))
        replay = median_ms(lambda: sum(1 for _ in log.replay()), 3)
        out.append(
            (
                f"replay of {n:,} records of 1 KiB in Python",
                f"{replay:.0f} ms, {log.nbytes / replay / 1e6:.2f} GB/s",
            )
        )
        keep = median_ms(lambda: log.checkpoint(log.first_seq + 1), 3)
        out.append((f"checkpoint that keeps {log.nbytes / 1e6:.0f} MB", f"{keep:.0f} ms"))
    opening = median_ms(lambda: EventLog(directory / "log", fsync="none").close(), 3)
    out.append((f"open and check {(directory / 'log').stat().st_size / 1e6:.0f} MB", f"{opening:.0f} ms"))
    snapshots, state = SnapshotStore(directory / "snapshots"), os.urandom(10 << 20)
    out.append(
        (
            "snapshot of 10 MiB: save, durable",
            f"{median_ms(lambda: snapshots.save(state, version=1), 9):.1f} ms",
        )
    )
    out.append(("snapshot of 10 MiB: load, checked", f"{median_ms(lambda: snapshots.load(1), 9):.1f} ms"))
    with EmbeddedStore(directory / "db") as db:
        pairs = [(f"key {i:05}", os.urandom(100)) for i in range(10_000)]
        db.put_many("scope", pairs)
        out.append(
            (
                "embedded store: put, durable",
                f"{median_ms(lambda: db.put('scope', 'key 00500', b'x'), 51):.2f} ms",
            )
        )
        get = median_ms(lambda: [db.get("scope", k) for k, _ in pairs], 5) / len(pairs) * 1000
        out.append(("embedded store: get, of 10,000", f"{get:.2f} µs"))
        out.append(("embedded store: scan of 10,000", f"{median_ms(lambda: db.scan('scope'), 5):.2f} ms"))
    return out


def machine() -> str:
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0] if names else model
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{model}, {os.cpu_count()} logical cores, {platform.system()} {platform.release()}, Python "
        f"{platform.python_version()}, sqlite {sqlite3.sqlite_version}, sona {sona.__version__}, load {load}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=ROOT / "target" / "bench-store")
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    host = machine()
    lines = [
        "# Durable state: measured",
        "",
        "`python benches/python/bench_store.py`; one thread, contenders in interleaved rounds of one process.",
        f"{host}.",
        "A shared virtual machine: compare within a table, do not quote the absolutes.",
        "",
    ]
    for title, synced, calls in (
        ("Append that a killed process keeps (µs)", False, 500),
        ("Append that a power cut keeps (µs)", True, 20),
    ):
        lines += [f"## {title}", "", "| | bytes | p10 | p50 | p99 |", "|---|---|---|---|---|"]
        for name, size, p10, p50, p99 in measure_appends(args.directory, synced=synced, rounds=args.rounds, calls=calls):
            lines.append(f"| {name} | {size} | {p10:.1f} | {p50:.1f} | {p99:.1f} |")
        lines.append("")
    lines += ["## The rest (medians)", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in measure_rest(args.directory)]
    shutil.rmtree(args.directory)
    (ROOT / "benches" / "results" / "store.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
