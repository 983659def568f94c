"""Event log: golden file, list model, torn and flipped files, threads, processes, forks, full disks."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from sona import CapacityError, ConfigError, CorruptStateError, StoreError
from sona.store import EventLog, EventLogReader

GOLDEN = Path(__file__).parent / "golden" / "learning" / "store_loops.npz"
HEADER = 28


def payloads(log: EventLog, from_seq: int = 0) -> list[bytes]:
    return [payload for _, payload in log.replay(from_seq)]


def golden() -> dict[str, list]:
    case = json.loads(str(np.load(GOLDEN)["meta"]))["cases"]["wal"]["params"]
    return {**case, "records": [bytes.fromhex(r) for r in case["records"]]}


def written(path: Path, records: list[bytes]) -> bytes:
    with EventLog(path, fsync="none") as log:
        assert [log.append(r) for r in records] == list(range(len(records)))
    return path.read_bytes()


@pytest.mark.parametrize("fsync", ["always", "group", "none"])
def test_golden_records_come_back(tmp_path, fsync):
    records = golden()["records"]
    with EventLog(tmp_path / "log", fsync=fsync) as log:
        for i, r in enumerate(records):
            assert log.append(r) == i
        assert list(log.replay()) == list(enumerate(records))
    with EventLog(tmp_path / "log", fsync=fsync) as log:
        assert log.truncated_bytes == 0
        assert list(log.replay(from_seq=5)) == list(enumerate(records))[5:]


def test_golden_cuts_and_flips_recover_a_prefix(tmp_path):
    case = golden()
    records, path = case["records"], tmp_path / "log"
    whole = written(path, records)
    for cut in case["cuts"]:
        torn = whole[: int(len(whole) * cut)]
        path.write_bytes(torn)
        with EventLog(path) as log:
            kept = payloads(log)
            assert kept == records[: len(kept)]
            assert len(kept) < len(records)
            assert log.nbytes + log.truncated_bytes == len(torn)
    for flip in case["flips"]:
        at = int(len(whole) * flip)
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x40]) + whole[at + 1 :])
        with EventLog(path) as log:
            kept = payloads(log)
            assert 0 < len(kept) < len(records)
            assert kept == records[: len(kept)]
            assert log.truncated_bytes > 0


def test_every_truncation_and_sampled_flips_of_the_golden_file(tmp_path):
    records, path = golden()["records"], tmp_path / "log"
    whole = written(path, records)
    ends = HEADER + np.cumsum([0, *(16 + len(r) for r in records)])
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with EventLog(path, fsync="none") as log:
            kept = max(0, int(np.sum(ends <= cut)) - 1)
            assert payloads(log) == records[:kept]
            assert log.append(b"goes on") == kept
    for bit in range(0, len(whole) * 8, 7):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        if bit // 8 < HEADER:
            with pytest.raises(CorruptStateError):
                EventLog(path, fsync="none")
            assert path.read_bytes() == flipped
        else:
            with EventLog(path, fsync="none") as log:
                assert payloads(log) == records[: int(np.sum(ends <= bit // 8)) - 1]


class LogMachine(RuleBasedStateMachine):
    """The log behaves as a list that can forget its beginning."""

    @initialize()
    def start(self):
        import tempfile

        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "log"
        self.log = EventLog(self.path, fsync="none")
        self.reader = EventLogReader(self.path)
        self.model: list[bytes] = []
        self.first = self.read = self.missed = 0

    @rule(payload=st.binary(max_size=40))
    def append(self, payload):
        assert self.log.append(payload) == len(self.model)
        self.model.append(payload)

    @rule(batch=st.lists(st.binary(max_size=20), max_size=4))
    def append_many(self, batch):
        n = len(self.model)
        assert self.log.append_many(batch) == range(n, n + len(batch))
        self.model += batch

    @rule(data=st.data())
    def checkpoint(self, data):
        seq = data.draw(st.integers(0, len(self.model)))
        self.log.checkpoint(seq)
        self.first = max(self.first, seq)

    @rule(fsync=st.sampled_from(["always", "group", "none"]))
    def reopen(self, fsync):
        self.log.close()
        self.log = EventLog(self.path, fsync=fsync)
        assert self.log.truncated_bytes == 0

    @rule(tail=st.binary(min_size=1, max_size=30))
    def crash_with_a_torn_tail(self, tail):
        self.log.close()
        with self.path.open("ab") as f:
            f.write(tail)
        self.log = EventLog(self.path, fsync="none")
        assert self.log.truncated_bytes == len(tail)

    @rule()
    def poll(self):
        got = self.reader.poll()
        self.missed += max(0, self.first - self.read)
        self.read = max(self.read, self.first)
        assert got == list(enumerate(self.model))[self.read :]
        self.read = len(self.model)
        assert (self.reader.next_seq, self.reader.missed) == (self.read, self.missed)

    @invariant()
    def equals_the_model(self):
        assert list(self.log.replay()) == list(enumerate(self.model))[self.first :]
        assert (self.log.first_seq, self.log.next_seq) == (self.first, len(self.model))
        assert self.log.nbytes == self.path.stat().st_size
        assert self.log.metrics()["records"] == len(self.model) - self.first

    def teardown(self):
        if hasattr(self, "log"):
            self.log.close()
            self.directory.cleanup()


TestLogMachine = LogMachine.TestCase
TestLogMachine.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)


def test_bad_arguments_and_foreign_files(tmp_path):
    path = tmp_path / "log"
    with pytest.raises(ConfigError, match="fsync"):
        EventLog(path, fsync="sometimes")
    with EventLog(path) as log:
        log.append(b"a")
        for bad in ("text", 3, None, [1]):
            with pytest.raises(TypeError):
                log.append(bad)
        with pytest.raises(ValueError, match="seq"):
            log.checkpoint(2)
        for bad in (-1, 1 << 64):
            with pytest.raises(ValueError, match="from_seq"):
                log.replay(bad)
        with pytest.raises(TypeError):
            log.replay(True)
        with pytest.raises(TypeError):
            log.append_many([b"b", "c"])
        assert payloads(log) == [b"a"]
    path.write_bytes(b"%PDF-1.7 not a log at all ............")
    with pytest.raises(CorruptStateError, match="magic"):
        EventLog(path)
    assert path.read_bytes().startswith(b"%PDF")
    with pytest.raises(StoreError):
        EventLog(tmp_path / "no" / "log")
    with pytest.raises(StoreError):
        EventLogReader(tmp_path / "nothing")
    with pytest.raises(CorruptStateError, match="regular"):
        EventLog(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and /dev/full")
def test_devices_and_pipes_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/full", "/dev/null"):
        with pytest.raises(CorruptStateError, match="regular"):
            EventLog(path)
        with pytest.raises(CorruptStateError, match="regular"):
            EventLogReader(path)


def test_a_payload_above_the_limit_is_refused(tmp_path):
    with EventLog(tmp_path / "log", fsync="none") as log:
        with pytest.raises(CapacityError, match="payload"):
            log.append(bytes((1 << 28) + 1))
        assert log.append(bytes(1 << 24)) == 0
        assert len(payloads(log)[0]) == 1 << 24


def test_a_closed_log_refuses_and_closing_twice_is_fine(tmp_path):
    log = EventLog(tmp_path / "log")
    log.append(b"a")
    log.close()
    log.close()
    assert log.closed
    for call in (lambda: log.append(b"b"), log.replay, log.flush, lambda: log.checkpoint(0)):
        with pytest.raises(ValueError, match="closed"):
            call()
    assert "closed" in repr(log)
    assert log.metrics()["appends"] == 1


def test_a_log_that_was_not_closed_warns_and_keeps_its_records(tmp_path):
    log = EventLog(tmp_path / "log")
    log.append(b"a")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del log
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    assert "unclosed event log" in str(caught[0].message)
    with EventLog(tmp_path / "log") as log:
        assert payloads(log) == [b"a"]


def test_a_second_writer_is_refused_in_this_and_in_another_process(tmp_path):
    code = "import sys; from sona.store import EventLog; EventLog(sys.argv[1]).close()"
    with EventLog(tmp_path / "log") as log:
        with pytest.raises(StoreError, match="another writer"):
            EventLog(tmp_path / "log")
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True, check=False)
        assert "another writer" in other.stderr
        log.append(b"a")
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "log")], check=True)


def test_replay_is_lazy_fixed_at_its_start_and_outlives_a_checkpoint(tmp_path):
    with EventLog(tmp_path / "log", fsync="none") as log:
        log.append_many([bytes([i]) for i in range(100)])
        replay = log.replay(10)
        assert next(replay) == (10, b"\x0a")
        log.checkpoint(90)
        log.append(b"later")
        assert len(list(replay)) == 89
        assert len(payloads(log)) == 11


def test_threads_append_and_every_record_is_there_once(tmp_path):
    with EventLog(tmp_path / "log") as log:
        acknowledged: list[tuple[int, bytes]] = []

        def work(worker: int) -> None:
            mine = [(log.append(p), p) for p in (f"{worker}:{i}".encode() for i in range(500))]
            acknowledged.extend(mine)

        threads = [threading.Thread(target=work, args=(w,)) for w in range(8)]
        for t in threads:
            t.start()
        while any(t.is_alive() for t in threads):
            seen = list(log.replay(log.next_seq // 2))
            assert [s for s, _ in seen] == list(range(seen[0][0], seen[-1][0] + 1)) if seen else True
        for t in threads:
            t.join()
        assert sorted(acknowledged) == list(log.replay())


def test_a_reader_in_another_process_follows_a_live_writer(tmp_path):
    code = """
import sys
from sona.store import EventLogReader
reader, n = EventLogReader(sys.argv[1]), int(sys.argv[2])
seen = []
while len(seen) < n:
    seen += reader.poll(4096)
assert [s for s, _ in seen] == list(range(n)), seen
assert all(p == b"%d" % s * (s % 50) for s, p in seen)
"""
    n = 3000
    with EventLog(tmp_path / "log", fsync="none") as log:
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "log"), str(n)])
        for i in range(n):
            assert log.append(b"%d" % i * (i % 50)) == i
        assert child.wait(timeout=120) == 0


def test_checkpoint_after_which_nothing_is_left_keeps_counting(tmp_path):
    with EventLog(tmp_path / "log") as log:
        log.append_many([b"a", b"b"])
        log.checkpoint(2)
        assert payloads(log) == []
    with EventLog(tmp_path / "log") as log:
        assert (log.first_seq, log.append(b"c")) == (2, 2)
        log.checkpoint(1)
        assert list(log.replay(0)) == [(2, b"c")]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log", "log.lock"]


def test_the_leftover_of_an_interrupted_checkpoint_is_removed(tmp_path):
    whole = written(tmp_path / "log", [b"a", b"b"])
    (tmp_path / "log.tmp").write_bytes(whole[:-3])
    with EventLog(tmp_path / "log") as log:
        assert payloads(log) == [b"a", b"b"]
    assert not (tmp_path / "log.tmp").exists()


def _limit_file_size(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("fsync", ["always", "group", "none"])
def test_a_full_disk_undoes_the_append_and_the_log_goes_on(tmp_path, fsync):
    # Python ignores SIGXFSZ, so a write beyond the limit is cut short and then fails, as on a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EventLog(tmp_path / "log", fsync=fsync) as log:
        try:
            _limit_file_size(HEADER + 1000)
            for i in range(3):
                assert log.append(bytes(200)) == i
            for _ in range(2):
                with pytest.raises(StoreError) as caught:
                    log.append(bytes(500))
                assert caught.value.errno is not None
                with pytest.raises(StoreError):
                    log.append_many([b"fits", bytes(2000)])
                assert log.nbytes == (tmp_path / "log").stat().st_size
            assert len(payloads(log)) == 3
            assert log.append(b"small enough") == 3
            with pytest.raises(StoreError):
                log.append(bytes(400))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert log.append(bytes(500)) == 4
        assert log.metrics()["failed_appends"] == 5
    with EventLog(tmp_path / "log") as log:
        assert log.truncated_bytes == 0
        assert [len(p) for p in payloads(log)] == [200, 200, 200, 12, 500]


def test_a_checkpoint_on_a_full_disk_leaves_the_log_as_it_was(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with EventLog(tmp_path / "log") as log:
        log.append_many([bytes(500)] * 4)
        try:
            _limit_file_size(1000)
            with pytest.raises(StoreError):
                log.checkpoint(1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert (log.first_seq, log.append(b"x")) == (0, 4)
        assert len(payloads(log)) == 5
        assert not (tmp_path / "log.tmp").exists()
        log.checkpoint(4)
        assert payloads(log) == [b"x"]


def _forked(call) -> str:
    """What the call returns or raises in a forked child."""
    receive, send = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads: exactly what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        try:
            send.send(repr(call()))
        except BaseException as e:  # noqa: BLE001 - the parent judges
            send.send(f"{type(e).__name__}: {e}")
        os._exit(0)
    assert receive.poll(60), "the child hangs"
    answer = receive.recv()
    os.waitpid(pid, 0)
    return answer


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_is_refused_and_opens_its_own(tmp_path):
    with EventLog(tmp_path / "log") as log:
        log.append(b"parent")  # the flusher runs from here on

        def own() -> list[bytes]:
            with EventLog(tmp_path / "child") as mine:
                mine.append(b"child")
                return payloads(mine)

        refused = _forked(lambda: log.append(b"child"))
        assert refused.startswith("StoreError")
        assert "forked" in refused
        assert _forked(log.replay) == refused.replace("append to", "read")
        assert _forked(own) == "[b'child']"
        assert "records" in _forked(lambda: repr(log))
        assert _forked(lambda: log.metrics()["records"]) == "1"
        assert _forked(log.close) == "None"
        assert log.append(b"parent again") == 1
        with pytest.raises(StoreError, match="another writer"):
            EventLog(tmp_path / "log")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_drops_its_copy_does_not_keep_the_lock(tmp_path):
    log = EventLog(tmp_path / "log")
    log.append(b"a")
    ready, go = multiprocessing.Pipe(duplex=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        del log
        go.send("dropped")
        import time

        time.sleep(60)
        os._exit(0)
    try:
        assert ready.poll(60)
        log.close()
        with EventLog(tmp_path / "log") as again:
            assert payloads(again) == [b"a"]
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)


def test_erased_records_leave_their_numbers(tmp_path):
    path = tmp_path / "log"
    records = [b"first", b"secret one", b"", b"fourth", b"secret two"]
    written(path, records)
    with EventLog(path) as log:
        log.checkpoint(1)
        # What is not there, and what is empty, is passed over.
        assert log.erase({0, 1, 2, 4, 99}) == 2
        assert log.erase({1, 4}) == 0
        assert list(log.replay()) == [(1, b""), (2, b""), (3, b"fourth"), (4, b"")]
        assert log.append(b"sixth") == 5
        assert b"secret" not in path.read_bytes()
    with EventLog(path) as log:
        assert payloads(log, 3) == [b"fourth", b"", b"sixth"]
        with pytest.raises(OverflowError):
            log.erase({-1})
    with pytest.raises(ValueError, match="closed"):
        log.erase({1})
