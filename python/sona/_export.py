"""Preference pairs as lines of JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sona.lines import write_lines
from sona.store import export_preferences


def write_preferences(
    path: str | os.PathLike[str],
    rows: Iterable[dict[str, Any]],
    queries: Mapping[str, str] | None,
    items: Mapping[Any, str] | None,
    include_users: bool,
) -> int:
    """See ``SonaEngine.export_dataset``; returns the number of rows."""
    if queries is None and items is None:
        return write_lines(Path(path), [_plain(row, include_users) for row in rows])
    if queries is None or items is None:
        raise ValueError("queries, items: expected both or neither")
    return export_preferences(
        os.fspath(path),
        [
            {
                "prompt": queries[r["decision"]],
                "chosen": items[r["chosen"]],
                "rejected": items[r["rejected"]],
                "weight": r["weight"],
            }
            for r in rows
            if r["decision"] in queries and r["chosen"] in items and r["rejected"] in items
        ],
    )


def _plain(row: dict[str, Any], include_users: bool) -> dict[str, Any]:
    out = {**row, "query": row["query"].tolist()}
    if not include_users:
        del out["user"]
    return out
