"""What a clock that learns the load saves, on real load: taxi rides in New York, and servers of a cloud provider (from NAB).

The first week is for learning; after it the clock goes on learning. Every interval asks whether optional work may run.
Compared by the load under which optional work ran, relative to the mean load (below 1: in quiet times), and by the share that
was left out: always, a fixed window from 1 to 7 o'clock, the clock's duty cycle, and the clock's consolidation phases.

    SONA_DATA=... python benches/research/circadian.py
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from sona.control import CircadianController

SERIES = (
    "realKnownCause/nyc_taxi.csv",
    "realAWSCloudwatch/elb_request_count_8c0756.csv",
    "realAWSCloudwatch/ec2_cpu_utilization_5f5533.csv",
    "realKnownCause/cpu_utilization_asg_misconfiguration.csv",
)


def main() -> None:
    table = pq.read_table(Path(os.environ["SONA_DATA"]) / "nab.parquet").to_pandas()
    print("| load | days | policy | left out | load while it ran / mean load |")
    print("|---|---|---|---|---|")
    for name in SERIES:
        g = table[table.series == name].sort_values("timestamp")
        t = g.timestamp.to_numpy().astype("datetime64[s]").astype(np.int64).astype(float)
        load = g.value.to_numpy()
        clock, rng = CircadianController(), np.random.default_rng(0)
        start = t[0] + 7 * 86_400
        ran: dict[str, list[bool]] = {"always": [], "1 to 7 o'clock": [], "duty cycle": [], "consolidation": []}
        seen = []
        for now, x in zip(t, load, strict=True):
            if now >= start:
                seen.append(x)
                ran["always"].append(True)
                ran["1 to 7 o'clock"].append(1 <= now / 3600 % 24 < 7)
                # Values come every five or thirty minutes, a slot lasts one minute: each of its seconds is as likely.
                ran["duty cycle"].append(clock.should_compute(now + int(rng.integers(60))))
                ran["consolidation"].append(clock.should_consolidate(now))
            clock.observe_load(max(float(x), 0.0), now=now)
        mean = np.mean(seen)
        for policy, yes in ran.items():
            share = np.mean(yes)
            print(
                f"| {Path(name).stem} | {(t[-1] - t[0]) / 86_400:.0f} | {policy} | {1 - share:.2f} | "
                f"{np.array(seen)[np.array(yes)].mean() / mean:.2f} |"
            )


if __name__ == "__main__":
    main()
