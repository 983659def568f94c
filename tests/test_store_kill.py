"""kill -9 in the middle of appends: nothing acknowledged is lost, with sqlite3 as the reference."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from sona.store import EventLog

KILLS = int(os.environ.get("SONA_KILLS", "30"))

# Appends to the log and to a sqlite3 database, and acknowledges each to the parent after both returned.
CHILD = """
import os, random, sqlite3, sys
from sona.store import EventLog
directory, seed, fsync = sys.argv[1:]
rng = random.Random(int(seed))
log = EventLog(os.path.join(directory, "log"), fsync=fsync)
db = sqlite3.connect(os.path.join(directory, "reference.db"), isolation_level=None)
db.execute("PRAGMA journal_mode=WAL")
db.execute("CREATE TABLE IF NOT EXISTS records (seq INTEGER PRIMARY KEY, payload BLOB)")
os.write(1, b"ready\\n")
while True:
    payload = rng.randbytes(rng.choice([0, 10, 100, 3000]))
    seq = log.append(payload)
    db.execute("INSERT OR REPLACE INTO records VALUES (?, ?)", (seq, payload))
    os.write(1, b"%d\\n" % seq)
    if rng.random() < 0.02:
        log.checkpoint(max(log.first_seq, seq - 50))
"""


@pytest.mark.slow
@pytest.mark.timeout(60 + 5 * KILLS)
def test_no_acknowledged_record_is_lost_in_many_kills(tmp_path):
    rng = random.Random(0)
    acknowledged = -1
    for kill in range(KILLS):
        fsync = ("group", "always", "none")[kill % 3]
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path), str(kill), fsync], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(rng.random() * 0.1)
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.stdout.close()
        assert child.wait() == -signal.SIGKILL
        if lines:
            # The last line may be cut short only if the pipe broke; a line is one write.
            acknowledged = int(lines[-1])

        with EventLog(tmp_path / "log") as log:
            records = dict(log.replay())
            assert log.next_seq > acknowledged, f"kill {kill}"
            assert list(records) == list(range(log.first_seq, log.next_seq))
        db = sqlite3.connect(tmp_path / "reference.db")
        with db:
            reference = dict(db.execute("SELECT seq, payload FROM records"))
            # The kill may have come between the log and the reference: that record was never acknowledged.
            extra = {s: p for s, p in records.items() if s > acknowledged and s not in reference}
            assert len(extra) <= 1
            db.executemany("INSERT INTO records VALUES (?, ?)", extra.items())
        db.close()
        assert records == {s: p for s, p in (reference | extra).items() if s in records}, f"kill {kill}"
        acknowledged = max(records, default=acknowledged)
    assert acknowledged > KILLS
