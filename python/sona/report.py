"""What an engine tells about itself: report, explanation, promotion, receipt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["ExplainedItem", "Explanation", "Promotion", "Receipt", "Report"]


@dataclass(frozen=True)
class ExplainedItem:
    """Parts of one shown item's score; ``score = base + adapter + recall + gate``."""

    id: Any
    base: float
    adapter: float
    recall: float
    gate: float
    score: float


@dataclass(frozen=True)
class Explanation:
    """Why a decision looks as it does.

    ``version`` decided; ``explained_by`` is the live version that the parts were computed with. ``cases`` are the nearest
    remembered cases as (id, cosine); ``beta`` and ``lambda_`` are the item gate's arm.
    """

    scope: str
    version: int
    explained_by: int
    acted: bool
    items: tuple[ExplainedItem, ...]
    cases: tuple[tuple[int, float], ...]
    beta: float
    lambda_: float

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Explanation:
        """Build from the core's plain values."""
        v = dict(values)
        v["items"] = tuple(ExplainedItem(**i) for i in v["items"])
        v["cases"] = tuple((int(i), float(c)) for i, c in v["cases"])
        return cls(**v)

    def __str__(self) -> str:
        """Table of the shown items."""
        head = f"scope {self.scope!r}, decided by version {self.version}, explained by version {self.explained_by}"
        lines = [head, f"{'item':<28}{'base':>9}{'adapter':>9}{'recall':>9}{'gate':>9}{'score':>9}"]
        lines += [
            f"{str(i.id)[:27]:<28}{i.base:>9.4f}{i.adapter:>+9.4f}{i.recall:>+9.4f}{i.gate:>+9.4f}{i.score:>9.4f}"
            for i in self.items
        ]
        near = ", ".join(f"#{case} ({cosine:.2f})" for case, cosine in self.cases[:5])
        lines.append(f"nearest cases: {near or 'none'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Promotion:
    """What ``promote`` found; truthy if the mode is now "on"."""

    accepted: bool
    reason: str
    n: int
    lift: float
    low: float
    high: float
    lift_unseen: float

    def __bool__(self) -> bool:
        """Whether it was accepted."""
        return self.accepted


@dataclass(frozen=True)
class Receipt:
    """What ``forget`` or ``purge`` removed; ``router_events`` counts decisions and outcomes of ``process``."""

    events: int
    decisions: int
    cases_before: int
    cases_after: int
    alive: list[int]
    router_events: int = 0


def _mean(r: Mapping[str, Any]) -> str:
    if not r["n"]:
        return "no feedback yet"
    if r["low"] is None:
        return f"{r['mean']:+.4f} (n = {r['n']})"
    return f"{r['mean']:+.4f} [{r['low']:+.4f}, {r['high']:+.4f}] (n = {r['n']})"


def _harm(h: Mapping[str, Any]) -> str:
    text = f"    {h['multiplier']:.0%} of what was learned acts; an item ranked as if new loses {h['loss_unlimited']:+.4f}"
    if h["multiplier"] < 1:
        text += f", {h['loss']:+.4f} with what acts"
    if h["anchors"]:
        text += f"; {h['anchors']} anchors lose {h['anchor_loss']:+.4f}"
    return text


@dataclass(frozen=True)
class Report:
    """Figures of an engine: test-then-learn lift in DCG over the application's own ranking, harm, sizes, counters.

    Every feedback is scored before it is learned from, so the figures are held out. They are measured on what was shown and
    chosen; where people choose mostly from the top, position bias favours whichever ranking was shown.
    """

    mode: str
    version: int
    harm_budget: float
    progress: Mapping[str, Mapping[str, Any]]
    scopes: Mapping[str, Mapping[str, Any]]
    metrics: Mapping[str, int | float]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], metrics: Mapping[str, int | float]) -> Report:
        """Build from the core's plain values."""
        return cls(metrics=dict(metrics), **dict(values))

    def to_dict(self) -> dict[str, Any]:
        """All figures as plain values, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Readable summary."""
        p, m = self.progress, self.metrics
        lines = [
            f"mode {self.mode}, version {self.version}, {m['scopes']} scopes, {m['cases']} cases, {m['items']} items",
            f"  DCG, application's ranking   {p['base']['mean']:.4f}",
            f"  DCG, learned ranking         {p['learned']['mean']:.4f}",
            f"  lift                         {_mean(p['lift'])}",
            f"    chosen item had feedback   {_mean(p['lift_seen'])}",
            f"    chosen item had none       {_mean(p['lift_unseen'])}   budget -{self.harm_budget:g}",
            f"  bytes: cases {m['case_bytes']:,}, items {m['item_bytes']:,}, journal {m['journal_bytes']:,}",
        ]
        for name, s in list(self.scopes.items())[:20]:
            gate, cases = s["gate"], s["cases"]
            lines.append(
                f"  scope {name!r}: {cases['cases']} cases, lift {_mean(s['progress']['lift'])}, "
                f"gate beta {gate['beta']:.2f} lambda {gate['lambda']:.2f}, "
                f"stray clicks {gate['stray_share']:.0%}, duplicates {s['duplicates']}"
            )
            lines.append(_harm(s["harm"]))
            for source, c in s["sources"].items():
                counts = f"{c['learned']} learned, {c['capped']} over the cap, {c['expired']} too late"
                lines.append(f"    source {source or '(none)'!r}: {counts}")
        if len(self.scopes) > 20:
            lines.append(f"  … and {len(self.scopes) - 20} more scopes")
        return "\n".join(lines)
