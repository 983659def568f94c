"""A progress bar for long commands: tqdm, or a plain line, or nothing where nobody looks."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Any, Self

__all__ = ["Progress"]


class Progress:
    """Shows how far a command has come, on stderr, only if that is a terminal.

    Parameters
    ----------
    label
        What is counted.
    total
        How many there are.
    show
        False keeps it silent in any case.

    Examples
    --------
    >>> with Progress("requests", 3, show=False) as progress:
    ...     for _ in range(3):
    ...         progress.advance()
    >>> progress.done
    3
    """

    def __init__(self, label: str, total: int, *, show: bool = True) -> None:
        self.label = label
        self.total = total
        self.done = 0
        self._bar: Any = None
        self._plain = False
        self._next = 0.0
        if show and sys.stderr.isatty():
            try:
                from tqdm import tqdm
            except ImportError:
                self._plain = True
                self._draw()
            else:
                # On a terminal that reports 0 columns and rows tqdm would draw nothing; here the fallback
                # is 80 by 24.
                size = shutil.get_terminal_size()
                width, height = min(size.columns, 100), size.lines
                self._bar = tqdm(total=total, desc=label, file=sys.stderr, leave=False, ncols=width, nrows=height)

    def advance(self, count: int = 1) -> None:
        """Count ``count`` more as done."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._plain and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.2
            self._draw()

    def _draw(self) -> None:
        share = self.done / self.total if self.total else 1.0
        bar = "#" * int(30 * share)
        print(f"\r{self.label} [{bar:<30}] {share:4.0%}", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._plain:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
