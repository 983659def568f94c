"""See failure early, act on it, and undo what did not help."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sona._core import AnomalyDetector, theil_sen
from sona._sealed import Told
from sona.control._healing_state import restore, tell
from sona.control.coherence import GatePacket
from sona.control.events import Event, EventBus, EventKind, seconds
from sona.exceptions import ConfigError

__all__ = ["ActionReport", "Anomaly", "Detects", "HealingOrchestrator", "PredictiveConfig"]


class Detects(Protocol):
    """What a detector is: one value in, alarm or none out."""

    def update(self, x: float) -> bool:
        """Let one value in."""
        ...


@dataclass(frozen=True, kw_only=True)
class PredictiveConfig:
    """When to act before the limit is reached.

    Parameters
    ----------
    limit : float, default 0.7
        Tension that must not be reached.
    horizon_s : float, default 600.0
        How far ahead the trend is followed.
    min_points : int, default 8
        Packets before a trend is one.
    window : int, default 64
        Packets that the trend is taken from.
    """

    limit: float = 0.7
    horizon_s: float = 600.0
    min_points: int = 8
    window: int = 64

    def __post_init__(self) -> None:
        """Check the ranges."""
        if not (0.0 < self.limit <= 1.0 and 0.0 < self.horizon_s < math.inf and 3 <= self.min_points <= self.window):
            raise ConfigError(f"expected 0 < limit <= 1, horizon_s > 0 and 3 <= min_points <= window, got {self}")


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One alarm."""

    metric: str
    value: float
    at: float
    """Seconds."""
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ActionReport:
    """What an action did."""

    action: str
    metric: str
    at: float
    outcome: str
    """``"started"``, ``"helped"``, ``"undone"``, ``"kept"`` (no help, nothing to undo) or ``"failed"`` (it raised)."""
    detail: str = ""


@dataclass(slots=True)
class _Action:
    name: str
    fn: Callable[[], object]
    cost: float
    undo: Callable[[], object] | None
    metrics: frozenset[str] | None

    def suits(self, metric: str) -> bool:
        return self.metrics is None or metric in self.metrics


_WAIT = _Action("", lambda: None, 0.0, None, None)


def running(name: str) -> _Action:
    """Stands for an action of a saved state until it is offered again."""
    return _Action(name, lambda: None, 0.0, None, None) if name else _WAIT


@dataclass(slots=True)
class _Watch:
    detector: Detects
    #: Values of the normal state: what an action must bring back.
    normal: deque[float]
    tolerance: float = 0.0
    missing: int = 0
    alarms: int = 0
    open: Anomaly | None = None
    tried: list[str] = field(default_factory=list)
    running: _Action | None = None
    since: list[float] = field(default_factory=list)


class HealingOrchestrator(Told):
    """Watches metrics, and runs the cheapest action that may help until one does.

    An alarm opens an anomaly. The actions that suit its metric run one at a time, cheapest first, while the budget lasts. After
    each, `patience` values are watched: if their median is back within the normal range the anomaly is closed; otherwise the
    action is undone and the next one runs. An action is not repeated for the same anomaly.

    Parameters
    ----------
    bus : EventBus, optional
        Gets HEAL for every new anomaly.
    predictive : PredictiveConfig
        For :meth:`predict_and_prepare`.
    budget : float, default inf
        Cost of the actions that may start within `budget_window_s`.
    budget_window_s : float, default 3600.0
    patience : int, default 5
        Values after an action that decide whether it helped.
    normal_range : float, default 6.0
        Robust deviations from the median of the normal state that still are normal.

    Raises
    ------
    ConfigError
        If a setting is out of range.

    Examples
    --------
    >>> from sona.control import HealingOrchestrator
    >>> healer = HealingOrchestrator()
    >>> healer.register("latency_ms")
    >>> slow = [False]
    >>> healer.add_action("restart cache", lambda: slow.__setitem__(0, False), cost=1.0, metrics=["latency_ms"])
    >>> for t in range(200):
    ...     slow[0] = slow[0] or t == 150
    ...     found = healer.observe("latency_ms", 90.0 if slow[0] else 5.0 + 0.1 * (t % 3), now=float(t))
    >>> [(r.action, r.outcome) for r in healer.reports]
    [('restart cache', 'started'), ('restart cache', 'helped')]
    """

    def __init__(
        self,
        *,
        bus: EventBus | None = None,
        predictive: PredictiveConfig | None = None,
        budget: float = math.inf,
        budget_window_s: float = 3600.0,
        patience: int = 5,
        normal_range: float = 6.0,
    ) -> None:
        if not budget >= 0.0 or not 0.0 < budget_window_s < math.inf:
            raise ConfigError("budget: expected a number of at least 0, and budget_window_s above 0")
        if patience < 1 or not normal_range > 0.0:
            raise ConfigError("patience, normal_range: expected numbers of at least 1 and above 0")
        self._bus = bus
        self._predictive = PredictiveConfig() if predictive is None else predictive
        self._budget = budget
        self._budget_window = budget_window_s
        self._patience = patience
        self._range = normal_range
        self._lock = threading.RLock()
        self._watches: dict[str, _Watch] = {}
        self._actions: dict[str, _Action] = {}
        self._spent: deque[tuple[float, float]] = deque()
        self._trend: deque[tuple[float, float]] = deque(maxlen=self._predictive.window)
        self._prepared: set[str] = set()
        self._reports: deque[ActionReport] = deque(maxlen=1000)
        self._observed = 0
        self._refused = 0

    def register(self, metric: str, detector: Detects | None = None, *, tolerance: float = 0.0) -> None:
        """Watch a metric.

        Parameters
        ----------
        metric : str
            Registering it again starts it anew.
        detector : optional
            Anything with ``update(x) -> bool``; by default an :class:`sona.control.AnomalyDetector`.
        tolerance : float, default 0.0
            Distance from the normal median, in the metric's unit, that is always normal.
        """
        if detector is not None and not callable(getattr(detector, "update", None)):
            raise TypeError(f"detector: expected something with an update method, got {type(detector).__name__}")
        if not 0.0 <= tolerance < math.inf:
            raise ValueError(f"tolerance: expected a number of at least 0, got {tolerance}")
        with self._lock:
            self._watches[metric] = _Watch(detector or AnomalyDetector(), deque(maxlen=200), tolerance)

    def add_action(
        self,
        name: str,
        fn: Callable[[], object],
        *,
        cost: float,
        undo: Callable[[], object] | None = None,
        metrics: Iterable[str] | None = None,
    ) -> None:
        """Offer an action.

        Parameters
        ----------
        name : str
        fn : callable
            Runs on the thread that observes. Must be harmless when run twice.
        cost : float
            In the unit of the budget; cheaper actions are tried first.
        undo : callable, optional
            Takes the action back if it did not help.
        metrics : iterable of str, optional
            Metrics that it can help; all by default.
        """
        if not callable(fn) or not (undo is None or callable(undo)):
            raise TypeError(f"fn, undo: expected callables, got {type(fn).__name__} and {type(undo).__name__}")
        if not 0.0 <= cost < math.inf:
            raise ValueError(f"cost: expected a number of at least 0, got {cost}")
        if not name:
            raise ValueError("name: expected a name, got an empty one")
        action = _Action(name, fn, cost, undo, None if metrics is None else frozenset(metrics))
        with self._lock:
            self._actions[name] = action
            for watch in self._watches.values():
                if watch.running is not None and watch.running.name == name:
                    watch.running = action

    def observe(self, metric: str, value: float, now: float | None = None) -> list[Anomaly]:
        """Let one value in.

        Parameters
        ----------
        metric : str
            Registered; an unknown one raises ``KeyError``.
        value : float
            NaN and infinity are counted as missing.
        now : float, optional
            Seconds.

        Returns
        -------
        list of Anomaly
            The new one, if this value opened one.

        Notes
        -----
        Detection costs about a microsecond; an action what it costs.
        """
        now = seconds(now)
        opened: list[Anomaly] = []
        with self._lock:
            watch = self._watches[metric]
            self._observed += 1
            if not math.isfinite(value):
                watch.missing += 1
                return opened
            alarm = watch.detector.update(value)
            if watch.running is not None:
                self._judge(metric, watch, value, now)
            if watch.open is None:
                if alarm:
                    watch.alarms += 1
                    scores = dict(getattr(watch.detector, "scores", {}))
                    watch.open = Anomaly(metric, float(value), now, scores)
                    opened.append(watch.open)
                else:
                    watch.normal.append(float(value))
            if watch.open is not None and watch.running is None:
                self._next_action(metric, watch, now)
        if opened and self._bus is not None:
            self._bus.publish(Event(EventKind.HEAL, {"anomaly": opened[0]}), now)
        return opened

    def _is_normal(self, watch: _Watch, values: list[float]) -> bool:
        normal = sorted(watch.normal)
        if not normal:
            return True
        center = normal[len(normal) // 2]
        spread = sorted(abs(v - center) for v in normal)[len(normal) // 2]
        middle = sorted(values)[len(values) // 2]
        allowed = self._range * (1.4826 * spread + 1e-3 * abs(center) + 1e-9)
        return abs(middle - center) <= max(allowed, watch.tolerance)

    def _judge(self, metric: str, watch: _Watch, value: float, now: float) -> None:
        watch.since.append(float(value))
        if len(watch.since) < self._patience:
            return
        action = watch.running
        assert action is not None
        watch.running = None
        if self._is_normal(watch, watch.since):
            self._report(action, metric, now, "helped")
            self._close(watch)
        elif action.undo is None:
            self._report(action, metric, now, "kept")
        else:
            self._run(action.undo, action, metric, now, "undone")

    def _close(self, watch: _Watch) -> None:
        watch.open = None
        watch.tried.clear()
        watch.since.clear()

    def _next_action(self, metric: str, watch: _Watch, now: float) -> None:
        watch.since.clear()
        choices = [a for a in self._actions.values() if a.suits(metric) and a.name not in watch.tried]
        for action in sorted(choices, key=lambda a: (a.cost, a.name)):
            if not self._affords(action.cost, now):
                self._refused += 1
                break
            watch.tried.append(action.name)
            if self._run(action.fn, action, metric, now, "started"):
                self._spent.append((now, action.cost))
                watch.running = action
                return
        # Nothing is left to try, or to spend: look again after as many values. The metric may recover by itself.
        watch.running = _WAIT

    def _affords(self, cost: float, now: float) -> bool:
        while self._spent and now - self._spent[0][0] >= self._budget_window:
            self._spent.popleft()
        return sum(c for _, c in self._spent) + cost <= self._budget

    def _run(self, fn: Callable[[], object], action: _Action, metric: str, now: float, outcome: str) -> bool:
        try:
            fn()
        except Exception as error:  # noqa: BLE001 (a broken repair must not break what it repairs; it is reported)
            self._report(action, metric, now, "failed", f"{type(error).__name__}: {error}")
            return False
        self._report(action, metric, now, outcome)
        return True

    def _report(self, action: _Action, metric: str, now: float, outcome: str, detail: str = "") -> None:
        if action is not _WAIT:
            self._reports.append(ActionReport(action.name, metric, now, outcome, detail))

    def detect_anomalies(self) -> list[Anomaly]:
        """Anomalies that are open, the oldest first."""
        with self._lock:
            return sorted((w.open for w in self._watches.values() if w.open), key=lambda a: a.at)

    def predict_and_prepare(self, packet: GatePacket, now: float | None = None) -> list[str]:
        """Act before the tension of a graph reaches its limit.

        The trend is the median slope of the latest packets (Theil & Sen). If it crosses the limit within the horizon, the
        actions that suit the metric ``"tension"`` run, cheapest first, each once until the trend turns.

        Returns
        -------
        list of str
            Actions that ran.
        """
        now = seconds(now)
        ran: list[str] = []
        with self._lock:
            self._trend.append((now, packet.tension))
            if len(self._trend) < self._predictive.min_points or self._trend[0][0] == now:
                return ran
            times = [t - now for t, _ in self._trend]
            slope, intercept = theil_sen(times, [x for _, x in self._trend])
            if slope <= 0.0 or intercept + slope * self._predictive.horizon_s < self._predictive.limit:
                self._prepared.clear()
                return ran
            for action in sorted(self._actions.values(), key=lambda a: (a.cost, a.name)):
                if not action.suits("tension") or action.name in self._prepared:
                    continue
                if not self._affords(action.cost, now):
                    self._refused += 1
                    break
                self._prepared.add(action.name)
                if self._run(action.fn, action, "tension", now, "started"):
                    self._spent.append((now, action.cost))
                    ran.append(action.name)
        return ran

    @property
    def reports(self) -> list[ActionReport]:
        """What actions did, the latest thousand."""
        with self._lock:
            return list(self._reports)

    def metrics(self) -> dict[str, int | float]:
        """Values, alarms, actions by outcome, and what the budget refused."""
        with self._lock:
            outcomes = [r.outcome for r in self._reports]
            return {
                "observed": self._observed,
                "missing": sum(w.missing for w in self._watches.values()),
                "alarms": sum(w.alarms for w in self._watches.values()),
                "open": sum(w.open is not None for w in self._watches.values()),
                "over_budget": self._refused,
                **{o: outcomes.count(o) for o in ("started", "helped", "undone", "kept", "failed")},
            }

    def _tell(self) -> dict[str, Any]:
        with self._lock:
            return tell(self)

    @classmethod
    def _told(cls, state: dict[str, Any]) -> HealingOrchestrator:
        return restore(cls, state)

    def __repr__(self) -> str:
        return f"HealingOrchestrator(metrics={list(self._watches)}, actions={list(self._actions)})"
