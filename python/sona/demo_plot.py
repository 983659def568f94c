"""The picture that ``sona demo`` leaves behind: learning curve, before and after, latency."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sona.demo_run import METRICS

if TYPE_CHECKING:
    from sona.demo_result import DemoResult

__all__ = ["save_plot"]

#: Colours that stay apart for colour-blind eyes (Okabe and Ito); grey for what does not learn.
_COLOURS = {"seen": "#009E73", "all": "#0072B2", "unseen": "#D55E00"}
_GREY = "#777777"


def save_plot(result: DemoResult, path: str | Path) -> Path:
    """Draw the result and write it as PNG.

    Parameters
    ----------
    result
        What `run_demo` returned.
    path
        File to write; its folder must exist.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ImportError
        If matplotlib is missing.
    """
    # The object interface with the Agg canvas: no window, no global state of pyplot.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    left, middle, right = figure.subplots(1, 3, width_ratios=[5, 5, 3])
    _curve(left, result)
    _before_after(middle, result)
    _latency(right, result)
    f = result.facts
    figure.suptitle(
        f"Learning retrieval from clicks: {f['documents']:,} docstrings of Python {f['python']}, "
        f"{f['test_questions']} held-out questions, encoder {f['encoder']}",
        fontsize=12,
    )
    target = Path(path)
    figure.savefig(target, dpi=130)
    return target


def _curve(ax: Any, result: DemoResult) -> None:
    column = METRICS.index("nDCG@10")
    masks = {"seen": result.seen, "all": np.ones_like(result.seen), "unseen": ~result.seen}
    clicks = np.concatenate([[0], np.mean([run.clicks for run in result.clean], axis=0)])
    for name, mask in masks.items():
        colour = _COLOURS[name]
        start = result.frozen.figures[mask, column].mean()
        runs = np.array([[start, *(s.figures[mask, column].mean() for s in run.curve)] for run in result.clean])
        ax.fill_between(clicks, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.18, linewidth=0)
        ax.plot(clicks, runs.mean(axis=0), "o-", color=colour, markersize=4, label=f"{name} ({int(mask.sum())})")
        ax.axhline(start, color=colour, linestyle=":", linewidth=1)
    wrong = np.concatenate([[0], np.mean([run.clicks for run in result.noisy], axis=0)])
    start = result.frozen.figures[:, column].mean()
    noisy = np.array([[start, *(s.figures[:, column].mean() for s in run.curve)] for run in result.noisy])
    label = f"all, {result.facts['noise']:.0%} wrong clicks"
    ax.plot(wrong, noisy.mean(axis=0), "s--", color=_COLOURS["all"], markersize=3, linewidth=1, label=label)
    ax.set_xlabel("users whose click was learned from")
    ax.set_ylabel("nDCG@10 on held-out questions")
    ax.set_title("As clicks come in", fontsize=11)
    ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25)
    ax.legend(title="answers (dotted: frozen)", fontsize=8, title_fontsize=8, loc="lower right")


def _before_after(ax: Any, result: DemoResult) -> None:
    wrong = f", {result.facts['noise']:.0%} wrong"
    groups = [("seen", "seen"), ("all", "all"), ("unseen", "unseen"), (f"all{wrong}", "all")]
    labels, y = [], 0.0
    for group, key in groups:
        for metric in METRICS:
            row = result.row(group, metric)
            ax.plot([row.frozen.mean, row.learned.mean], [y, y], color="#cccccc", linewidth=3, zorder=1)
            for value, colour, marker in ((row.frozen, _GREY, "o"), (row.learned, _COLOURS[key], "D")):
                spread = [[value.mean - value.low], [value.high - value.mean]]
                ax.errorbar(
                    value.mean,
                    y,
                    xerr=spread,
                    fmt=marker,
                    color=colour,
                    markersize=5,
                    capsize=2,
                    linewidth=1,
                )
            labels.append((y, f"{group}  {metric}" if metric == METRICS[0] else metric))
            y += 1.0
        y += 0.7
    ax.set_yticks([p for p, _ in labels], [text for _, text in labels], fontsize=9)
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel("value with 95 % interval")
    ax.set_title("Frozen (grey) and learned", fontsize=11)
    ax.grid(axis="x", alpha=0.25)


def _latency(ax: Any, result: DemoResult) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    latency = result.latency()
    places = np.arange(len(latency))
    for place, (p50, p99) in zip(places, latency.values(), strict=True):
        ax.plot([p50, p99], [place, place], color="#b0bec5", linewidth=4, zorder=1, solid_capstyle="butt")
        ax.plot(p50, place, "o", color="#263238", markersize=7, label="p50" if place == 0 else None)
        ax.plot(p99, place, "|", color="#263238", markersize=14, label="p99" if place == 0 else None)
        for value in (p50, p99):
            ax.annotate(f"{value:,.0f}", (value, place), (0, 9), textcoords="offset points", fontsize=8, ha="center")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.15)
    ax.set_ylim(len(places) - 0.2, -0.6)
    ax.set_yticks(places, list(latency), fontsize=9)
    ax.set_xlabel("microseconds, log scale")
    ax.set_title("Cost of a request", fontsize=11)
    ax.grid(axis="x", alpha=0.25)
    ax.legend(fontsize=8, loc="lower right")
    end = result.clean[-1]
    memory, disk = f"{end.memory_bytes / 1e6:.1f} MB in memory", f"{end.disk_bytes / 1e6:.1f} MB on disk"
    ax.annotate(f"{end.cases:,} cases\n{memory}\n{disk}", (0.03, 0.03), xycoords="axes fraction", fontsize=8)
