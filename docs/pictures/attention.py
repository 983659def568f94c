"""Pictures of docs/reference/attention: ``python docs/pictures/attention.py`` writes them beside this file."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

import sona.attention as at
from sona.attention import layouts, poincare

HERE = Path(__file__).parent
BLUE, ORANGE, GREY = "#2b6cb0", "#dd6b20", "#a0aec0"
plt.rcParams.update(
    {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "sona", "axes.spines.top": False, "axes.spines.right": False}
)


def save(figure: plt.Figure, name: str, **options: object) -> None:
    """Write one picture, without a date, so that it changes only when it looks different."""
    metadata = {"Date": None} if name.endswith("svg") else {"Software": None}
    figure.savefig(HERE / name, bbox_inches="tight", metadata=metadata, **options)
    plt.close(figure)


def grid(axes: plt.Axes, cells: np.ndarray, title: str) -> None:
    """Which query (row) sees which key (column)."""
    axes.imshow(np.where(cells, 1.0, 0.0), cmap=matplotlib.colors.ListedColormap(["#edf2f7", BLUE]), vmin=0, vmax=1)
    axes.set(title=title, xticks=[], yticks=[], xlabel="keys", ylabel="queries")


def local_global() -> None:
    """A window with two global tokens."""
    i, j = np.ogrid[:24, :24]
    figure, axes = plt.subplots(figsize=(2.4, 2.4))
    grid(axes, (abs(i - j) <= 2) | (i < 2) | (j < 2), "window=2, global_idx=2")
    save(figure, "attention_local_global.svg")


def block_layouts() -> None:
    """The four layouts."""
    figure, row = plt.subplots(1, 4, figsize=(8.4, 2.3))
    size = {"block": 16, "context": 64}
    for axes, (name, cells) in zip(
        row,
        {
            "fixed": layouts.fixed(256, **size),
            "local": layouts.local(256, **size),
            "strided": layouts.strided(256, **size),
            "bigbird": layouts.bigbird(256, block=16),
        }.items(),
        strict=True,
    ):
        grid(axes, cells, name)
    save(figure, "attention_layouts.svg")


def hyperbolic() -> None:
    """A binary tree in the ball, each node as far from its parent as the others, and what one leaf attends."""
    step, points, links = 1.0, [np.zeros(2)], []
    ends = [(0, a) for a in (np.pi / 2, np.pi / 2 + 2 * np.pi / 3, np.pi / 2 + 4 * np.pi / 3)]
    for depth in range(1, 5):
        fresh = []
        for parent, angle in ends:
            at_depth = np.tanh(step * depth / 2 * 1.1)
            points.append(at_depth * np.array([np.cos(angle), np.sin(angle)]))
            links.append((parent, len(points) - 1))
            spread = np.pi / 3 / 2 ** (depth - 1) / 2
            fresh += [(len(points) - 1, angle - spread), (len(points) - 1, angle + spread)]
        ends = fresh
    nodes = np.array(points)
    leaf = len(nodes) - 1
    others = np.arange(len(nodes)) != leaf
    weights = at.hyperbolic_attention(nodes[[leaf]], nodes, nodes, mask=others, return_weights=True).weights[0]
    figure, axes = plt.subplots(figsize=(3, 3))
    axes.add_patch(plt.Circle((0, 0), 1, fill=False, color=GREY))
    for a, b in links:
        axes.plot(*nodes[[a, b]].T, color=GREY, lw=0.7, zorder=1)
    axes.scatter(*nodes.T, s=4 + 900 * weights, color=BLUE, alpha=0.7, zorder=2)
    axes.scatter(*nodes[leaf], s=25, color=ORANGE, zorder=3)
    axes.set(aspect="equal", xlim=(-1.03, 1.03), ylim=(-1.03, 1.03), title="attention of one leaf (orange)")
    axes.axis("off")
    assert (poincare.dist(nodes, nodes[leaf]) >= 0).all()
    save(figure, "attention_hyperbolic.png", dpi=110)


def hopfield() -> None:
    """Energy falls with every step of retrieval."""
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], size=(200, 64))
    figure, axes = plt.subplots(figsize=(3.6, 2.3))
    for beta, colour in ((0.15, GREY), (0.25, ORANGE), (1.0, BLUE)):
        state = patterns[:20] + 1.0 * rng.normal(size=(20, 64))
        energies = [at.hopfield_energy(state, patterns, beta=beta).mean()]
        for _ in range(6):
            state = at.hopfield_retrieve(state, patterns, beta=beta)
            energies.append(at.hopfield_energy(state, patterns, beta=beta).mean())
        axes.plot(energies, "o-", ms=3, color=colour, label=f"β = {beta}")
    axes.set(xlabel="step", ylabel="mean energy")
    axes.legend(frameon=False)
    save(figure, "attention_hopfield.svg")


def cone() -> None:
    """Scores of the past cone of one node."""
    edges = [(0, 2), (1, 2), (1, 3), (2, 5), (3, 5), (4, 6), (3, 6), (5, 7), (6, 7)]
    places = np.array([(0, 2), (0, 1), (1, 2), (1, 1), (1, 0), (2, 1.6), (2, 0.4), (3, 1)])
    scores = at.dag_causal_cone(at.Dag(8, edges), 5).scores
    figure, axes = plt.subplots(figsize=(3.8, 2.2))
    for u, v in edges:
        axes.annotate("", places[v], places[u], arrowprops={"arrowstyle": "->", "color": GREY, "shrinkA": 9, "shrinkB": 9})
    seen = scores > 0
    axes.scatter(*places[~seen].T, s=220, color="#edf2f7", edgecolor=GREY)
    axes.scatter(*places[seen].T, s=220, c=scores[seen], cmap="Blues", vmin=0, vmax=0.35, edgecolor=BLUE)
    for i, (x, y) in enumerate(places):
        axes.text(x, y, f"{scores[i]:.2f}" if seen[i] else "0", ha="center", va="center", fontsize=6)
    axes.set(title="past cone of the node with the symptom", xlim=(-0.3, 3.3), ylim=(-0.4, 2.4))
    axes.axis("off")
    save(figure, "attention_cone.svg")


def btsp() -> None:
    """Change of a weight against the time between activity and event."""
    delays = np.linspace(-2, 4, 121)
    change = []
    for delay in delays:
        blame = at.TemporalBTSP(2)
        for t, what in sorted([(10.0, "plateau"), (10.0 - delay, "node")]):
            blame.plateau(t) if what == "plateau" else blame.observe(0, t)
        change.append(blame.end_episode(30.0)[0] - 0.2)
    figure, axes = plt.subplots(figsize=(3.8, 2.3))
    axes.axhline(0, color=GREY, lw=0.7)
    axes.plot(delays, change, color=BLUE)
    axes.set(xlabel="seconds from activity to event (below 0: after it)", ylabel="change of weight 0.2")
    save(figure, "attention_btsp.svg")


def oscillators() -> None:
    """Order against coupling, with the threshold of the mean field."""
    rng = np.random.default_rng(0)
    n = 100
    omega, theta = rng.normal(size=n), rng.uniform(0, 2 * np.pi, n)
    links = np.ones((n, n)) - np.eye(n)
    couplings, order = np.linspace(0, 4, 17), []
    for k in couplings:
        phase, values = at.kuramoto_integrate(theta, omega, links, coupling=k, t=20.0, dt=2e-2), []
        for _ in range(20):
            phase = at.kuramoto_integrate(phase, omega, links, coupling=k, t=0.5, dt=2e-2)
            values.append(at.order_parameter(phase).r)
        order.append(np.mean(values))
    figure, axes = plt.subplots(figsize=(3.6, 2.3))
    axes.plot(couplings, order, "o-", ms=3, color=BLUE)
    axes.axvline(2 / (np.pi * (2 * np.pi) ** -0.5), color=ORANGE, lw=0.8)
    axes.set(xlabel="coupling K (line: 2/(π·g(0)))", ylabel="order parameter R", ylim=(0, 1))
    save(figure, "attention_oscillators.svg")


if __name__ == "__main__":
    for draw in (local_global, block_layouts, hyperbolic, hopfield, cone, btsp, oscillators):
        draw()
