"""Nothing acknowledged is lost: event log, snapshots, databases, tensor files, preference data.

What survives a killed process and a power cut is written in ``docs/explanation/durability.md``.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sona._core import (
    EmbeddedStore,
    EventLog,
    EventLogReader,
    EventLogReplay,
    SnapshotStore,
    _check_keys,
    export_preferences,
    load_safetensors,
    save_safetensors,
)
from sona.exceptions import StoreError

if TYPE_CHECKING:
    from types import TracebackType

__all__ = [
    "EmbeddedStore",
    "EventLog",
    "EventLogReader",
    "EventLogReplay",
    "PostgresStore",
    "SnapshotStore",
    "export_preferences",
    "load_safetensors",
    "save_safetensors",
]


class PostgresStore:
    """PostgreSQL table (scope, key) → value: what `EmbeddedStore` does, shared between machines.

    Every call is one transaction, committed when it returns. Safe to share between threads (calls wait for
    each other); a forked child gets a connection of its own, and a connection that broke is replaced at the
    next call.

    Parameters
    ----------
    dsn : str
        Connection string or URL, as libpq reads it. The table ``sona_store`` is created if it is not there.

    Raises
    ------
    ImportError
        If psycopg is not installed.
    StoreError
        If the server cannot be reached or refuses.

    Examples
    --------
    >>> from sona.store import PostgresStore
    >>> with PostgresStore("postgresql://localhost/app") as store:  # doctest: +SKIP
    ...     store.put("acme", "greeting", b"hello")
    ...     store.get("acme", "greeting")
    b'hello'
    """

    def __init__(self, dsn: str) -> None:
        try:
            import psycopg
        except ImportError as e:
            message = "PostgresStore needs psycopg 3: pip install 'sona[postgres]'"
            raise ImportError(message, name="psycopg") from e
        self._psycopg = psycopg
        self._dsn = dsn
        self._closed = False
        self._connection: Any = None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        # COLLATE "C" orders the keys by their bytes, as the embedded store does. Two first callers may race
        # to create the table, which PostgreSQL answers with an error: the lock lets one go first.
        self._run(
            lambda c: c.execute(
                "SELECT pg_advisory_xact_lock(7370617);"
                'CREATE TABLE IF NOT EXISTS sona_store (scope text COLLATE "C", key text COLLATE "C",'
                " value bytea NOT NULL, PRIMARY KEY (scope, key))"
            )
        )

    def put(self, scope: str, key: str, value: bytes) -> None:
        """Store a value; what was there is replaced.

        Parameters
        ----------
        scope, key : str
            Not empty, at most 1024 bytes of UTF-8 each, without NUL.
        value : bytes
            At most 1 GB, the server's limit.
        """
        self.put_many(scope, [(key, value)])

    def put_many(self, scope: str, pairs: Iterable[tuple[str, bytes]]) -> None:
        """Store all pairs or none of them, in one transaction."""
        rows = [(scope, key, bytes(memoryview(value))) for key, value in pairs]
        _check_keys(scope, [key for _, key, _ in rows])
        statement = (
            "INSERT INTO sona_store (scope, key, value) VALUES (%s, %s, %s)"
            " ON CONFLICT (scope, key) DO UPDATE SET value = excluded.value"
        )
        self._run(lambda c: c.cursor().executemany(statement, rows))

    def get(self, scope: str, key: str) -> bytes | None:
        """Return the value, or None if the key is not there."""
        _check_keys(scope, [key])
        query = "SELECT value FROM sona_store WHERE scope = %s AND key = %s"
        row = self._run(lambda c: c.execute(query, (scope, key)).fetchone())
        return None if row is None else bytes(row[0])

    def delete(self, scope: str, key: str) -> bool:
        """Remove a key and return whether it was there."""
        _check_keys(scope, [key])
        statement = "DELETE FROM sona_store WHERE scope = %s AND key = %s"
        return bool(self._run(lambda c: c.execute(statement, (scope, key)).rowcount))

    def scan(self, scope: str) -> list[tuple[str, bytes]]:
        """Return all pairs of a scope, ascending by the bytes of the key: one consistent view."""
        _check_keys(scope, [])
        query = "SELECT key, value FROM sona_store WHERE scope = %s ORDER BY key"
        rows = self._run(lambda c: c.execute(query, (scope,)).fetchall())
        return [(str(key), bytes(value)) for key, value in rows]

    def metrics(self) -> dict[str, int | float]:
        """Return the number of pairs and the size of the table on the server, in bytes."""
        query = "SELECT count(*), pg_total_relation_size('sona_store') FROM sona_store"
        row = self._run(lambda c: c.execute(query).fetchone())
        return {"pairs": int(row[0]), "nbytes": int(row[1])}

    @property
    def closed(self) -> bool:
        """Whether the store was closed."""
        return self._closed

    def close(self) -> None:
        """Close the connection; a second call does nothing."""
        self._closed = True
        if self._pid == os.getpid():
            with self._lock:
                connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def __enter__(self) -> PostgresStore:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        # The connection string may hold a password.
        return "<PostgresStore: closed>" if self._closed else "<PostgresStore>"

    def _run(self, call: Callable[[Any], Any]) -> Any:
        """Run one transaction; a connection that does not survive it is dropped."""
        if self._closed:
            raise ValueError("store: expected an open store, got a closed one")
        if self._pid != os.getpid():
            # The parent's lock may be held by a thread that does not exist here, and its socket is not ours.
            self._lock, self._connection, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._psycopg.connect(self._dsn)
                with self._connection.transaction():
                    return call(self._connection)
            except self._psycopg.Error as e:
                if self._connection is not None and self._connection.closed:
                    self._connection = None
                raise StoreError(errno.EIO, f"PostgreSQL: {e}") from e
