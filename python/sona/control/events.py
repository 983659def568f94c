"""Typed events between the parts that see trouble and the parts that act on it."""

from __future__ import annotations

import math
import operator
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from sona._sealed import Told
from sona.exceptions import ConfigError, NotFiniteError

__all__ = ["Event", "EventBus", "EventKind"]


def seconds(now: float | None) -> float:
    """The time that was given, or the present."""
    at = time.time() if now is None else float(now)
    if not math.isfinite(at):
        raise NotFiniteError(f"now: expected seconds, got {now}")
    return at


class EventKind(StrEnum):
    """What an event asks for."""

    ATTENTION_SWITCH = "attention_switch"
    """Attend to where the graph comes apart."""
    LR_BOOST = "lr_boost"
    """Learn faster for a while."""
    HEAL = "heal"
    """Repair."""
    CACHE_INVALIDATE = "cache_invalidate"
    """Forget what was derived from the old state."""
    REALLOCATE = "reallocate"
    """Share resources anew."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened.

    Parameters
    ----------
    kind : EventKind
    payload : mapping, default empty
        Whatever the subscribers of this kind expect.
    """

    kind: EventKind
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Subscriber:
    kind: EventKind
    callback: Callable[[Event], object]
    cooldown_s: float
    last: float | None = None


class EventBus(Told):
    """Calls subscribers on the publisher's thread, each at most once per cooldown.

    An event that is published while another is being delivered, from a callback or from another thread, waits and is delivered
    by the one who delivers; at most `capacity` wait, later ones are dropped and counted.

    Parameters
    ----------
    capacity : int, default 1024
        Events that may wait.

    Raises
    ------
    ConfigError
        If `capacity` is below 1.

    Notes
    -----
    A delivery costs O(subscribers of the kind). Callbacks that raise do not keep others from being called; what they raised
    comes out of ``publish``, as an ``ExceptionGroup``.

    Examples
    --------
    >>> from sona.control import Event, EventBus, EventKind
    >>> bus = EventBus()
    >>> subscription = bus.subscribe(EventKind.HEAL, lambda e: print("healing", e.payload["metric"]), cooldown_s=60.0)
    >>> bus.publish(Event(EventKind.HEAL, {"metric": "p99"}), now=0.0)
    healing p99
    1
    >>> bus.publish(Event(EventKind.HEAL, {"metric": "p99"}), now=30.0)
    0
    """

    def __init__(self, capacity: int = 1024) -> None:
        self._capacity = operator.index(capacity)
        if self._capacity < 1:
            raise ConfigError(f"capacity: expected an integer of at least 1, got {capacity}")
        self._lock = threading.Lock()
        self._subscribers: dict[int, _Subscriber] = {}
        self._waiting: deque[tuple[Event, float]] = deque()
        self._delivering = False
        self._next_id = 0
        self._dropped = 0
        self._published = 0
        self._called = 0
        self._cooled = 0

    def subscribe(self, kind: EventKind, callback: Callable[[Event], object], *, cooldown_s: float = 0.0) -> int:
        """Call `callback` for events of `kind`, at most once in `cooldown_s` seconds.

        Returns
        -------
        int
            For :meth:`unsubscribe`.
        """
        kind = EventKind(kind)
        if not callable(callback):
            raise TypeError(f"callback: expected a callable, got {type(callback).__name__}")
        if not 0.0 <= cooldown_s < float("inf"):
            raise ValueError(f"cooldown_s: expected seconds of at least 0, got {cooldown_s}")
        with self._lock:
            number = self._next_id
            self._next_id += 1
            self._subscribers[number] = _Subscriber(kind, callback, cooldown_s)
        return number

    def unsubscribe(self, id: int) -> None:
        """End a subscription; an unknown one raises ``KeyError``."""
        with self._lock:
            del self._subscribers[id]

    def publish(self, event: Event, now: float | None = None) -> int:
        """Deliver an event.

        Parameters
        ----------
        event : Event
        now : float, optional
            Seconds; the present time by default. Cooldowns go by it.

        Returns
        -------
        int
            Callbacks that were called, for this event and those that were published meanwhile; 0 if the event waits for
            another delivery.

        Raises
        ------
        ExceptionGroup
            What callbacks raised, after all were called.
        NotFiniteError
            If `now` is.
        """
        if not isinstance(event, Event):
            raise TypeError(f"event: expected an Event, got {type(event).__name__}")
        now = seconds(now)
        with self._lock:
            self._published += 1
            if self._delivering:
                if len(self._waiting) >= self._capacity:
                    self._dropped += 1
                else:
                    self._waiting.append((event, now))
                return 0
            self._delivering = True
            self._waiting.append((event, now))
        called = 0
        errors: list[Exception] = []
        finished = False
        try:
            while (item := self._take()) is not None:
                for callback in self._due(*item):
                    called += 1
                    try:
                        callback(item[0])
                    except Exception as error:  # noqa: BLE001 (raised together below)
                        errors.append(error)
            finished = True
        finally:
            if not finished:
                # Something that is no Exception, an interrupt: the rest waits for the next delivery.
                with self._lock:
                    self._delivering = False
            self._called += called
        if errors:
            raise ExceptionGroup("callbacks of the event bus", errors)
        return called

    def _take(self) -> tuple[Event, float] | None:
        with self._lock:
            if self._waiting:
                return self._waiting.popleft()
            self._delivering = False
            return None

    def _due(self, event: Event, now: float) -> list[Callable[[Event], object]]:
        due = []
        with self._lock:
            for subscriber in self._subscribers.values():
                if subscriber.kind != event.kind:
                    continue
                # A clock that was set back must not silence a subscriber for longer than its cooldown.
                if subscriber.last is not None and 0.0 <= now - subscriber.last < subscriber.cooldown_s:
                    self._cooled += 1
                    continue
                subscriber.last = now
                due.append(subscriber.callback)
        return due

    @property
    def dropped_count(self) -> int:
        """Events that found `capacity` others waiting."""
        return self._dropped

    def metrics(self) -> dict[str, int | float]:
        """Events, calls, and what a cooldown or the capacity held back."""
        with self._lock:
            return {
                "published": self._published,
                "called": self._called,
                "cooled": self._cooled,
                "dropped": self._dropped,
                "waiting": len(self._waiting),
                "subscribers": len(self._subscribers),
            }

    def _tell(self) -> dict[str, Any]:
        """Capacity and counts; subscriptions are code and are made anew, waiting events belong to the delivery under way."""
        with self._lock:
            return {"capacity": self._capacity, "counts": [self._dropped, self._published, self._called, self._cooled]}

    @classmethod
    def _told(cls, state: dict[str, Any]) -> Self:
        self = cls(state["capacity"])
        self._dropped, self._published, self._called, self._cooled = map(operator.index, state["counts"])
        return self

    def __repr__(self) -> str:
        return f"EventBus(capacity={self._capacity}, subscribers={len(self._subscribers)}, published={self._published})"
