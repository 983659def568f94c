"""Engines and ``fork``: a child goes on with free locks and an event log of its own."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sona.engine import SonaEngine

#: Every engine that lives in this process.
ENGINES: weakref.WeakSet[SonaEngine] = weakref.WeakSet()


def _before() -> None:
    for engine in list(ENGINES):
        engine._before_fork()


def _after(*, child: bool) -> None:
    for engine in list(ENGINES):
        engine._after_fork(child=child)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=lambda: _after(child=False), after_in_child=lambda: _after(child=True))
