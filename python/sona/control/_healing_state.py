"""What an orchestrator knows, as JSON: everything but its actions and its bus, which are code."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, astuple
from typing import TYPE_CHECKING, Any

from sona._core import Adwin, AnomalyDetector, Cusum, Ewma, PageHinkley, RobustZ

if TYPE_CHECKING:
    from sona.control.healing import HealingOrchestrator

__all__ = ["restore", "tell"]

_DETECTORS = {c.__name__: c for c in (Adwin, AnomalyDetector, Cusum, Ewma, PageHinkley, RobustZ)}


def tell(healer: HealingOrchestrator) -> dict[str, Any]:
    """The state; the orchestrator is locked by the caller.

    Raises
    ------
    TypeError
        If a detector is none of this package.
    """
    watches = {}
    for metric, watch in healer._watches.items():
        kind, state = type(watch.detector).__name__, getattr(watch.detector, "to_bytes", None)
        if kind not in _DETECTORS or state is None:
            raise TypeError(f"metric {metric!r}: a {kind} cannot be saved")
        watches[metric] = {
            "detector": [kind, state().hex()],
            "normal": list(watch.normal),
            "numbers": [watch.tolerance, watch.missing, watch.alarms],
            "open": None if watch.open is None else list(astuple(watch.open)),
            "tried": watch.tried,
            "running": None if watch.running is None else watch.running.name,
            "since": watch.since,
        }
    return {
        "predictive": asdict(healer._predictive),
        "settings": [healer._budget, healer._budget_window, healer._patience, healer._range],
        "watches": watches,
        "spent": list(healer._spent),
        "trend": list(healer._trend),
        "prepared": sorted(healer._prepared),
        "reports": [list(astuple(r)) for r in healer._reports],
        "counts": [healer._observed, healer._refused],
    }


def restore(cls: type[HealingOrchestrator], state: dict[str, Any]) -> HealingOrchestrator:
    """The orchestrator of a state; an action that runs can be undone when it is offered again under its name."""
    from sona.control.healing import ActionReport, Anomaly, PredictiveConfig, running

    budget, window, patience, normal = state["settings"]
    healer = cls(
        predictive=PredictiveConfig(**state["predictive"]),
        budget=budget,
        budget_window_s=window,
        patience=patience,
        normal_range=normal,
    )
    for metric, told in state["watches"].items():
        kind, hexed = told["detector"]
        tolerance, missing, alarms = told["numbers"]
        healer.register(metric, _DETECTORS[kind].from_bytes(bytes.fromhex(hexed)), tolerance=tolerance)
        watch = healer._watches[metric]
        watch.normal = deque((_finite(v) for v in told["normal"]), maxlen=watch.normal.maxlen)
        watch.missing, watch.alarms = int(missing), int(alarms)
        watch.open = None if told["open"] is None else Anomaly(*told["open"])
        watch.tried = [str(name) for name in told["tried"]]
        watch.running = None if told["running"] is None else running(str(told["running"]))
        watch.since = [_finite(v) for v in told["since"]]
    healer._spent.extend((_finite(at), _finite(cost)) for at, cost in state["spent"])
    healer._trend.extend((_finite(at), _finite(tension)) for at, tension in state["trend"])
    healer._prepared = {str(name) for name in state["prepared"]}
    healer._reports.extend(ActionReport(*report) for report in state["reports"])
    healer._observed, healer._refused = (int(n) for n in state["counts"])
    return healer


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return float(value)
