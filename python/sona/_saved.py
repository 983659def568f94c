"""Reading a saved state without disturbing the engine that may be writing it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sona.engine import SonaEngine
from sona.exceptions import StoreError

__all__ = ["opened"]


@contextmanager
def opened(path: str | Path) -> Iterator[SonaEngine]:
    """An engine with the state of a directory or of a file that ``save`` wrote; what it does there is not kept.

    A directory is copied first: no lock is taken from a living engine, and its state stays as it is.

    Raises
    ------
    StoreError
        If nothing is there.
    CorruptStateError
    """
    where = Path(path)
    if not where.exists():
        raise StoreError(2, "no such state directory or file", str(where))
    if where.is_file():
        with SonaEngine.load(where) as engine:
            yield engine
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "state"
        shutil.copytree(where, copy, ignore=shutil.ignore_patterns("*.lock", "*.tmp"))
        with SonaEngine.load(copy) as engine:
            yield engine
