"""What ``sona demo`` found out, as an object, as JSON values and as a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona.demo_run import METRICS, Run, Scores
from sona.evaluate import Interval

__all__ = ["JUDGED", "DemoResult", "Row", "table"]

#: Column of `METRICS` that decides whether the demo passes.
JUDGED = METRICS.index("nDCG@10")


@dataclass(frozen=True, slots=True)
class Row:
    """One metric on one group of questions, mean over streams, 95 % bootstrap intervals over questions.

    Attributes
    ----------
    group
        ``"all"``, ``"seen"``, ``"unseen"``, or the same with wrong clicks: ``"all, 20 % wrong"`` …
    metric
        One of `METRICS`.
    questions
        Number of held-out questions in the group.
    frozen, learned
        Before and after learning.
    lift
        Paired difference.
    """

    group: str
    metric: str
    questions: int
    frozen: Interval
    learned: Interval
    lift: Interval


@dataclass(frozen=True, slots=True)
class DemoResult:
    """Everything that the demo found out.

    Attributes
    ----------
    facts
        What was run: documents, questions, encoder, seeds, machine-readable.
    rows
        The table.
    clean, noisy
        The streams, without and with wrong clicks.
    frozen
        Scores of the untrained engine.
    seen
        For each held-out question, whether one of its answers could be clicked during training.
    rollback_equal
        Whether every stream, rolled back, gave the untrained scores bit for bit.
    harm_budget
        Greatest accepted loss of nDCG@10 on unseen answers.
    """

    facts: dict[str, Any]
    rows: tuple[Row, ...]
    clean: tuple[Run, ...]
    noisy: tuple[Run, ...]
    frozen: Scores
    seen: NDArray[np.bool_]
    rollback_equal: bool
    harm_budget: float

    def row(self, group: str, metric: str) -> Row:
        """Row of the table; KeyError if there is none."""
        for row in self.rows:
            if (row.group, row.metric) == (group, metric):
                return row
        raise KeyError(f"no row {group!r}, {metric!r}")

    @property
    def lift(self) -> Interval:
        """Lift of nDCG@10 on all held-out questions."""
        return self.row("all", METRICS[JUDGED]).lift

    @property
    def harm(self) -> float:
        """Mean loss of nDCG@10 on questions whose answers were never clickable; negative if they gained."""
        return -self.row("unseen", METRICS[JUDGED]).lift.mean

    @property
    def checks(self) -> dict[str, bool]:
        """What must hold for exit status 0."""
        return {
            "lift above zero": self.lift.low > 0.0,
            "harm within budget": self.harm <= self.harm_budget,
            "rollback equals frozen": self.rollback_equal,
        }

    def latency(self) -> dict[str, tuple[float, float]]:
        """Microseconds (p50, p99) of each call, over all streams without wrong clicks."""
        out = {}
        for name in self.clean[0].latency_us:
            p50, p99 = np.percentile(np.concatenate([run.latency_us[name] for run in self.clean]), [50, 99])
            out[name] = float(p50), float(p99)
        return out

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        end = self.clean[-1]
        return {
            **self.facts,
            "table": [
                {
                    "group": r.group,
                    "metric": r.metric,
                    "questions": r.questions,
                    "frozen": _triple(r.frozen),
                    "learned": _triple(r.learned),
                    "lift": _triple(r.lift),
                }
                for r in self.rows
            ],
            "latency_us": {name: {"p50": p50, "p99": p99} for name, (p50, p99) in self.latency().items()},
            "state": {"cases": end.cases, "memory_bytes": end.memory_bytes, "disk_bytes": end.disk_bytes},
            "judged": {"metric": METRICS[JUDGED], "harm": self.harm, "harm_budget": self.harm_budget},
            "checks": self.checks,
        }


def table(result: DemoResult) -> str:
    """Write the result as text for a terminal.

    Parameters
    ----------
    result
        What `sona.demo.run_demo` returned.

    Returns
    -------
    str
        Several lines without a trailing newline.
    """
    f, end = result.facts, result.clean[-1]
    lines = [
        f"{f['documents']:,} docstrings of Python {f['python']}, {f['encoder']} ({f['dim']} numbers)",
        f"{len(f['seeds'])} x {f['train_questions']:,} users ask a question each, see {f['shown']} documents "
        f"and click what helps: {int(np.mean(f['clicks'])):,} did",
        f"{f['test_questions']} held-out questions; mean [95 % interval], paired bootstrap over questions",
        "",
        f"{'answers':<18}{'metric':<9}{'n':>5}  {'frozen':<22}{'learned':<22}lift",
    ]
    for row in result.rows:
        first = row.metric == METRICS[0]
        group, count = (row.group, str(row.questions)) if first else ("", "")
        lines.append(f"{group:<18}{row.metric:<9}{count:>5}  {row.frozen!s:<22}{row.learned!s:<22}{_signed(row.lift)}")
    lines += [
        "",
        "seen: an answer could be clicked in training; unseen: none could",
        "",
        f"{'call':<34}{'p50':>9}{'p99':>11}",
    ]
    notes = {"adapt": "", "rank": f" ({f['candidates']} candidates)", "feedback": " (written to disk)"}
    for name, (p50, p99) in result.latency().items():
        lines.append(f"{name + notes[name]:<34}{p50:>6.0f} µs{p99:>8.0f} µs")
    says = {
        "lift above zero": f"lift of nDCG@10 {_signed(result.lift)}",
        "harm within budget": f"loss of nDCG@10 on unseen answers {result.harm:+.3f}, budget {result.harm_budget:.3f}",
        "rollback equals frozen": "rolled back, every score equals the untrained one bit for bit",
    }
    lines += [
        f"state: {end.cases:,} cases, {end.memory_bytes:,} bytes in memory, {end.disk_bytes:,} on disk",
        "",
        *(f"{'ok  ' if held else 'FAIL'}  {name}: {says[name]}" for name, held in result.checks.items()),
    ]
    return "\n".join(lines)


def _signed(interval: Interval) -> str:
    return f"{interval.mean:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _triple(interval: Interval) -> list[float]:
    return [interval.mean, interval.low, interval.high]
