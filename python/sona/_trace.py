"""A request of any kind while it runs. Public as ``sona.engine.Trace``."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from sona.engine import SonaEngine

__all__ = ["Trace"]


class Trace:
    """One request while it runs: steps with rewards, then a final quality. Use as a context manager.

    Nothing is recorded unless ``finish`` is called.
    """

    def __init__(self, engine: SonaEngine, x: Any, scope: str, source: str, user: str, now: float | None) -> None:
        self._engine, self._x, self._scope = engine, x, scope
        self._source, self._user, self._now = source, user, now
        self._steps: list[tuple[Any, Any, float]] = []
        self._finished = False

    def step(self, activations: Any, attention_weights: Any = (), reward: float = 0.0) -> None:
        """Note one step: what was tried, as a (d,) vector beside the query, what it attended to, and its reward."""
        self._check_open()
        self._steps.append((activations, attention_weights, float(reward)))

    def finish(self, quality: float) -> bool:
        """Record the request with its final quality in [0, 1] and learn from it; False if the mode is "off"."""
        self._check_open()
        taken = self._engine._trace(
            self._x, self._steps, quality, scope=self._scope, source=self._source, user=self._user, now=self._now
        )
        self._finished = True
        return taken

    def _check_open(self) -> None:
        if self._finished:
            raise RuntimeError("this trace is finished")

    def __enter__(self) -> Self:
        """Start."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        """Leave; an unfinished trace is dropped."""
