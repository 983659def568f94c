"""Snapshots, embedded and PostgreSQL stores, tensor files, preference lines."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sona import CapacityError, CorruptStateError, NotFiniteError, StoreError
from sona.store import (
    EmbeddedStore,
    PostgresStore,
    SnapshotStore,
    export_preferences,
    load_safetensors,
    save_safetensors,
)

POSTGRES = os.environ.get("SONA_TEST_POSTGRES", "")


# --- snapshots ------------------------------------------------------------------------------------


def test_snapshots_round_trip_by_version_and_latest(tmp_path):
    store = SnapshotStore(tmp_path / "a" / "b")
    with pytest.raises(StoreError):
        store.load()
    for version, state in [(7, b"seven"), (2, b""), ((1 << 64) - 1, b"last"), (7, b"seven again")]:
        path = store.save(state, version=version)
        assert isinstance(path, Path)
        assert path.parent == store.directory
    assert store.versions == [2, 7, (1 << 64) - 1]
    assert (store.load(7), store.load(2), store.load()) == (b"seven again", b"", b"last")
    again = SnapshotStore(tmp_path / "a" / "b")
    assert again.load(version=7) == b"seven again"
    assert again.metrics()["versions"] == 3
    with pytest.raises(StoreError):
        store.load(3)


def test_snapshot_damage_is_reported_by_number_and_skipped_by_latest(tmp_path):
    store = SnapshotStore(tmp_path)
    store.save(b"old but whole", version=1)
    path = store.save(b"new", version=2)
    good = path.read_bytes()
    for bad in [good[:-1], good + b"x", b"", good[:30], good[:-1] + bytes([good[-1] ^ 1])]:
        path.write_bytes(bad)
        with pytest.raises(CorruptStateError):
            store.load(2)
        assert store.load() == b"old but whole"
    assert store.metrics()["skipped"] == 5
    assert store.versions == [1, 2]
    (tmp_path / store.save(b"x", version=1).name).write_bytes(good)
    with pytest.raises(CorruptStateError, match="version 2"):
        store.load(1)
    with pytest.raises(CorruptStateError):
        store.load()


@pytest.mark.parametrize("bad", [-1, 1 << 64])
def test_snapshot_versions_out_of_range_are_value_errors(tmp_path, bad):
    store = SnapshotStore(tmp_path)
    for call in (lambda: store.save(b"", version=bad), lambda: store.load(bad), lambda: store.prune(bad)):
        with pytest.raises(ValueError):
            call()
    for wrong in ("1", "../../etc/passwd", 1.5, True):
        with pytest.raises(TypeError):
            store.load(wrong)
        with pytest.raises(TypeError):
            store.save(b"", version=wrong)
    assert store.versions == []


def test_snapshot_prune_keeps_the_newest_whole_ones(tmp_path):
    store = SnapshotStore(tmp_path)
    for v in range(5):
        store.save(b"state", version=v)
    store.save(b"", version=4).write_bytes(b"torn")
    with pytest.raises(ValueError, match="keep"):
        store.prune(0)
    assert store.prune(2) == [0, 1]
    assert store.versions == [2, 3, 4]
    assert store.remove(4)
    assert not store.remove(4)
    assert store.prune(1) == [2]
    assert store.load() == b"state"


def test_snapshot_links_are_not_followed(tmp_path):
    store = SnapshotStore(tmp_path / "store")
    path = store.save(b"state", version=1)
    secret = tmp_path / "secret"
    path.rename(secret)
    path.symlink_to(secret)
    assert store.versions == []
    with pytest.raises(CorruptStateError, match="regular"):
        store.load(1)
    before = secret.read_bytes()
    store.save(b"other", version=1)
    assert secret.read_bytes() == before
    assert store.load(1) == b"other"


def test_snapshot_on_a_full_disk_keeps_the_old_one_and_no_leftover(tmp_path):
    store = SnapshotStore(tmp_path)
    store.save(b"old", version=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        for version in (1, 2):
            with pytest.raises(StoreError):
                store.save(bytes(5000), version=version)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.load() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lock", f"snapshot-{1:020}.sona"]


def test_snapshot_killed_while_saving_leaves_a_whole_version(tmp_path):
    code = """
import sys
from sona.store import SnapshotStore
store = SnapshotStore(sys.argv[1])
n = 0
while True:
    n += 1
    store.save(bytes([n % 256]) * 300_000, version=n)
    print(n, flush=True)
"""
    last = 0
    for _ in range(5):
        child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
        last = max(last, *(int(line) for line in lines), 1) if lines else max(last, 1)
        store = SnapshotStore(tmp_path)
        state = store.load()
        newest = store.versions[-1]
        assert newest >= last
        assert state == bytes([newest % 256]) * 300_000
        assert not list(tmp_path.glob("*.tmp"))


# --- databases ------------------------------------------------------------------------------------


@pytest.fixture(params=["embedded", "postgres"])
def store(request, tmp_path):
    if request.param == "embedded":
        with EmbeddedStore(tmp_path / "db") as store:
            yield store
    elif not POSTGRES:
        pytest.skip("no PostgreSQL: set SONA_TEST_POSTGRES to a connection string of a scratch database")
    else:
        import psycopg

        with psycopg.connect(POSTGRES, autocommit=True) as c:
            c.execute("DROP TABLE IF EXISTS sona_store")
        with PostgresStore(POSTGRES) as store:
            yield store


def test_store_puts_gets_deletes_and_scans_by_scope(store):
    store.put("acme", "b", b"2")
    store.put("acme", "a", b"")
    store.put("acme", "ä", bytes(range(256)))
    store.put("acme", "Z", b"upper")
    store.put("acme2", "a", b"other tenant")
    store.put("acme", "b", b"two")
    assert store.get("acme", "b") == b"two"
    assert store.get("acme", "a") == b""
    assert store.get("acme", "c") is None
    assert store.get("acm", "b") is None
    assert store.scan("acme") == [("Z", b"upper"), ("a", b""), ("b", b"two"), ("ä", bytes(range(256)))]
    assert store.scan("nobody") == []
    assert store.delete("acme", "b") is True
    assert store.delete("acme", "b") is False
    assert [k for k, _ in store.scan("acme")] == ["Z", "a", "ä"]
    assert store.metrics()["pairs"] == 4


def test_store_put_many_is_all_or_nothing(store):
    store.put_many("s", [("a", b"1"), ("b", b"2")])
    with pytest.raises(ValueError):
        store.put_many("s", [("c", b"3"), ("", b"4")])
    store.put_many("s", [])
    assert [k for k, _ in store.scan("s")] == ["a", "b"]


def test_store_bad_keys_and_values_are_refused(store):
    for scope, key in [("", "k"), ("s", ""), ("s\0", "k"), ("s", "k\0")]:
        with pytest.raises(ValueError):
            store.put(scope, key, b"")
        with pytest.raises(ValueError):
            store.get(scope, key)
    with pytest.raises(CapacityError):
        store.put("s" * 1025, "k", b"")
    with pytest.raises(CapacityError):
        store.get("s", "ü" * 513)
    for scope, key, value in [(1, "k", b""), ("s", None, b""), ("s", "k", "text"), ("s", "k", 5)]:
        with pytest.raises(TypeError):
            store.put(scope, key, value)
    with pytest.raises(ValueError):
        store.put("\ud800", "k", b"")
    assert store.scan("s") == []


def test_store_is_shared_between_threads(store):
    def work(worker: int) -> None:
        for i in range(20):
            store.put(f"t{worker}", f"{i:02}", b"%d" % (worker * 100 + i))
            assert store.get(f"t{worker}", f"{i:02}") == b"%d" % (worker * 100 + i)

    threads = [threading.Thread(target=work, args=(w,)) for w in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for w in range(4):
        assert store.scan(f"t{w}") == [(f"{i:02}", b"%d" % (w * 100 + i)) for i in range(20)]


def test_a_closed_store_refuses(store):
    store.put("s", "k", b"v")
    store.close()
    store.close()
    assert store.closed
    assert "closed" in repr(store)
    for call in (lambda: store.get("s", "k"), lambda: store.put("s", "k", b""), lambda: store.scan("s")):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_embedded_store_is_exclusive_durable_and_warns_if_left_open(tmp_path):
    store = EmbeddedStore(tmp_path / "db")
    store.put("s", "k", b"v")
    with pytest.raises(StoreError, match="open"):
        EmbeddedStore(tmp_path / "db")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del store
        gc.collect()
    assert [w.category for w in caught] == [ResourceWarning]
    with EmbeddedStore(tmp_path / "db") as store:
        assert store.get("s", "k") == b"v"
    (tmp_path / "other").write_bytes(b"SQLite format 3\0" * 1000)
    with pytest.raises(CorruptStateError):
        EmbeddedStore(tmp_path / "other")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_embedded_store_in_a_forked_child_refuses_and_does_not_touch_the_parents(tmp_path):
    store = EmbeddedStore(tmp_path / "db")
    store.put("s", "k", b"v")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            store.get("s", "k")
        except StoreError:
            del store
            gc.collect()
            code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with pytest.raises(StoreError):
        EmbeddedStore(tmp_path / "db")
    store.put("s", "k2", b"v2")
    store.close()
    with EmbeddedStore(tmp_path / "db") as store:
        assert store.scan("s") == [("k", b"v"), ("k2", b"v2")]


def test_embedded_store_killed_while_writing_keeps_what_it_acknowledged(tmp_path):
    code = """
import sys
from sona.store import EmbeddedStore
store, start = EmbeddedStore(sys.argv[1]), int(sys.argv[2])
while True:
    store.put("s", f"{start:08}", b"%d" % start)
    print(start, flush=True)
    start += 1
"""
    done = 0
    for _ in range(4):
        command = [sys.executable, "-c", code, str(tmp_path / "db"), str(done)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines()
        child.stdout.close()
        child.wait()
        last = int(lines[-1]) if lines else done
        with EmbeddedStore(tmp_path / "db") as store:
            pairs = store.scan("s")
        assert pairs == [(f"{i:08}", b"%d" % i) for i in range(len(pairs))]
        assert len(pairs) > last
        done = len(pairs)


def test_postgres_without_its_library_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ImportError, match=r"pip install 'sona\[postgres\]'"):
        PostgresStore("postgresql://localhost/x")


def test_postgres_that_cannot_be_reached_is_a_store_error():
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'sona[postgres]'")
    with pytest.raises(StoreError, match="PostgreSQL"):
        PostgresStore("postgresql://127.0.0.1:1/none?connect_timeout=2")


@pytest.mark.skipif(not POSTGRES, reason="no PostgreSQL: set SONA_TEST_POSTGRES to a connection string")
def test_postgres_reconnects_after_the_server_dropped_it():
    import psycopg

    with PostgresStore(POSTGRES) as store:
        store.put("reconnect", "k", b"v")
        assert store._connection is not None
        with psycopg.connect(POSTGRES, autocommit=True) as c:
            c.execute("SELECT pg_terminate_backend(%s)", (store._connection.info.backend_pid,))
        with pytest.raises(StoreError):
            store.get("reconnect", "k")
        assert store.get("reconnect", "k") == b"v"
        assert store.delete("reconnect", "k")


@pytest.mark.skipif(
    not (POSTGRES and hasattr(os, "fork")), reason="no PostgreSQL: set SONA_TEST_POSTGRES to a connection string"
)
def test_postgres_in_a_forked_child_uses_a_connection_of_its_own():
    with PostgresStore(POSTGRES) as store:
        store.put("fork", "k", b"parent")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                store.put("fork", "child", b"child")
                store.close()
                gc.collect()
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert store.scan("fork") == [("child", b"child"), ("k", b"parent")]
        assert store.delete("fork", "k")
        assert store.delete("fork", "child")


# --- tensor files ---------------------------------------------------------------------------------

DTYPES = [
    "bool",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
]


def _same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].shape == b[name].shape
        np.testing.assert_array_equal(a[name], b[name])


_arrays = st.sampled_from(DTYPES).flatmap(
    lambda d: hnp.arrays(
        np.dtype(d),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements=hnp.from_dtype(np.dtype(d), allow_nan=False, allow_infinity=False),
    )
)


@settings(max_examples=60, deadline=None)
@given(tensors=st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda n: n != "__metadata__"), _arrays, max_size=4))
def test_tensors_are_read_by_both_sides(tensors):
    with tempfile.TemporaryDirectory() as directory:
        ours, theirs = Path(directory) / "ours", Path(directory) / "theirs"
        save_safetensors(ours, tensors)
        _same(load_safetensors(ours), tensors)
        _same(safetensors.numpy.load_file(ours), tensors)
        safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, theirs)
        _same(load_safetensors(theirs), safetensors.numpy.load_file(theirs))


def test_tensors_of_any_layout_are_stored_in_row_order(tmp_path):
    a = np.arange(24, dtype=np.float32).reshape(4, 6)
    tensors = {
        "t": a.T,
        "s": a[::2, 1::2],
        "f": np.asfortranarray(a),
        "big": a.astype(">f4"),
        "list": [1.0, 2.0],
    }
    save_safetensors(tmp_path / "t", tensors)
    back = load_safetensors(tmp_path / "t")
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype.byteorder in "=|<"
        assert back[name].flags.writeable


def test_tensors_bf16_comes_as_float32(tmp_path):
    values = np.array([1.0, -2.5, 3.140625], dtype=np.float32)
    bits = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    header = json.dumps({"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}).encode()
    (tmp_path / "t").write_bytes(len(header).to_bytes(8, "little") + header + bits)
    np.testing.assert_array_equal(load_safetensors(tmp_path / "t")["x"], values)


def test_tensors_hostile_files_and_values_are_refused(tmp_path):
    path = tmp_path / "t"
    good = {"a": np.ones(3, dtype=np.float32)}
    save_safetensors(path, good)
    for bad in (np.nan, np.inf, -np.inf):
        for dtype in ("float16", "float32", "float64"):
            with pytest.raises(NotFiniteError, match="index 1"):
                save_safetensors(path, {"a": np.array([0, bad], dtype=dtype)})
    for bad in (np.ones(2, dtype=complex), np.array(["a"]), np.array([object()])):
        with pytest.raises(ValueError, match="tensors"):
            save_safetensors(path, {"a": bad})
    with pytest.raises(ValueError, match="reserved"):
        save_safetensors(path, {"__metadata__": np.ones(1)})
    with pytest.raises(TypeError):
        save_safetensors(path, {3: np.ones(1)})
    with pytest.raises(StoreError):
        save_safetensors("/dev/full/x", good)
    _same(load_safetensors(path), good)
    safetensors.numpy.save_file({"a": np.array([1, np.nan])}, path)
    with pytest.raises(NotFiniteError):
        load_safetensors(path)
    for bad in (b"", b"x" * 7, (1 << 63).to_bytes(8, "little") + b"{}", b"\x02" + bytes(7) + b"[]"):
        path.write_bytes(bad)
        with pytest.raises(CorruptStateError):
            load_safetensors(path)
    with pytest.raises(StoreError):
        load_safetensors(tmp_path / "nothing")


# --- preferences ----------------------------------------------------------------------------------


def test_preferences_are_json_lines_with_a_default_weight(tmp_path):
    rows = [
        {"prompt": "a\nb", "chosen": "ü \u2028", "rejected": "", "weight": 0.25},
        {"prompt": "", "chosen": "x", "rejected": "y"},
    ]
    assert export_preferences(tmp_path / "p.jsonl", iter(rows)) == 2
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").split("\n")
    assert lines.pop() == ""
    assert [json.loads(line) for line in lines] == [rows[0], {**rows[1], "weight": 1.0}]


def test_preferences_bad_rows_leave_the_file_alone(tmp_path):
    path = tmp_path / "p.jsonl"
    good = {"prompt": "p", "chosen": "a", "rejected": "b"}
    export_preferences(path, [good])
    before = path.read_bytes()
    bad_values = [
        {**good, "rejected": "a"},
        {**good, "weight": float("nan")},
        {**good, "weight": -1},
        {**good, "extra": 1},
        {"prompt": "p", "chosen": "a"},
        {**good, "chosen": "\ud800"},
    ]
    for bad in bad_values:
        with pytest.raises(ValueError):
            export_preferences(path, [good, bad])
    for bad in ({**good, "prompt": 1}, {**good, "weight": "x"}, ["p", "a", "b"], None):
        with pytest.raises(TypeError, match="row 1"):
            export_preferences(path, [good, bad])

    def broken():
        yield good
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_preferences(path, broken())
    with pytest.raises(TypeError):
        export_preferences(path, 5)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
    assert export_preferences(path, []) == 0
