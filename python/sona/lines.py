"""JSON lines, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_lines"]


def _text(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    r"""Write one JSON object per line and return their number; a file that is there is replaced at the end, atomically.

    Bytes are written in hexadecimal.

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as d:
    ...     path = Path(d) / "x.jsonl"
    ...     write_lines(path, [{"id": bytes(1)}, {"id": "b"}])
    ...     path.read_text().splitlines()
    2
    ['{"id": "00"}', '{"id": "b"}']
    """
    # Few programs export anything, and these two take longer to import than the rest of the package.
    import json
    import tempfile

    count = 0
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as f:
            for row in rows:
                f.write(json.dumps(row, default=_text, ensure_ascii=False) + "\n")
                count += 1
            f.flush()
            os.fsync(f.fileno())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return count
