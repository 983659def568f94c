"""Classes of the nodes of a graph from a few labels, by two layers of graph convolution or attention, trained here.

The graph is Cora (papers and citations) if ``SONA_DATA`` names a folder with ``cora.npz``, else one drawn at random. The same
two layers without any edges show what the features say alone.
"""

import os
from pathlib import Path

import numpy as np

from sona.attention import GATConv, GCNConv, SAGEConv
from sona.lora import AdamW

EPOCHS = 150
DROPOUT = 0.5


def cora(path):
    """Papers: words as features, citations both ways as edges."""
    z = np.load(path)
    n, width = z["x_shape"]
    x = np.zeros((n, width), dtype=np.float32)
    x[np.repeat(np.arange(n), np.diff(z["x_indptr"])), z["x_indices"]] = z["x_data"]
    return x, z["y"], np.concatenate([z["edges"], z["edges"][:, ::-1]]).T, z["train_idx"], z["test_idx"]


def drawn(rng, n=1500, classes=5, width=32):
    """Five groups, edges mostly within a group, features with more noise than signal."""
    y = rng.integers(classes, size=n)
    pairs = rng.integers(n, size=(2, 60_000))
    chance = np.where(y[pairs[0]] == y[pairs[1]], 0.3, 0.05)
    edges = pairs[:, rng.random(pairs.shape[1]) < chance]
    x = rng.normal(size=(classes, width))[y] + 3.0 * rng.normal(size=(n, width))
    order = rng.permutation(n)
    return x.astype(np.float32), y, np.concatenate([edges, edges[::-1]], axis=1), order[:100], order[500:]


class Trained:
    """Parameters of a layer in one vector, moved by AdamW."""

    def __init__(self, layer, lr=0.01):
        self.layer = layer
        self.sizes = {k: v.shape for k, v in layer.state_dict().items()}
        self.flat = np.concatenate([v.ravel() for v in layer.state_dict().values()])
        self.optimiser = AdamW(self.flat.size, lr=lr, weight_decay=0.05)

    def step(self, grads):
        """One step, and the new parameters into the layer."""
        self.flat = self.optimiser.step(self.flat, np.concatenate([grads[k].ravel() for k in self.sizes]))
        state, at = {}, 0
        for name, shape in self.sizes.items():
            state[name] = self.flat[at : at + int(np.prod(shape))].reshape(shape)
            at += int(np.prod(shape))
        self.layer.load_state_dict(state)


def accuracy(first, second, data):
    """Train on the labelled nodes, count the right ones among the held out."""
    x, y, edges, train, test = data
    rng = np.random.default_rng(0)
    layers = [Trained(first), Trained(second)]
    for _ in range(EPOCHS):
        hidden = first(x, edges)
        keep = (rng.random(hidden.shape) > DROPOUT) / np.float32(1 - DROPOUT)
        active = np.maximum(hidden, 0) * keep
        logits = second(active, edges)
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        # Cross-entropy on the labelled nodes alone.
        error = np.zeros_like(p)
        error[train] = p[train] / len(train)
        error[train, y[train]] -= 1 / len(train)
        back = second.backward(error)
        layers[1].step(back)
        layers[0].step(first.backward(back["x"] * keep * (hidden > 0)))
    logits = second(np.maximum(first(x, edges), 0), edges)
    return float((logits[test].argmax(axis=1) == y[test]).mean())


folder = Path(os.environ.get("SONA_DATA", "."))
data = cora(folder / "cora.npz") if (folder / "cora.npz").exists() else drawn(np.random.default_rng(1))
x, y, edges, train, test = data
classes = int(y.max()) + 1
print(f"{len(y):,} nodes, {edges.shape[1]:,} edges, {classes} classes, {len(train)} labelled")
alone = (x, y, np.empty((2, 0), dtype=np.int64), train, test)
width = x.shape[1]
print(f"features alone      {accuracy(GCNConv(width, 16), GCNConv(16, classes, seed=1), alone):.3f}")
print(f"graph convolution   {accuracy(GCNConv(width, 16), GCNConv(16, classes, seed=1), data):.3f}")
print(f"GraphSAGE           {accuracy(SAGEConv(width, 16), SAGEConv(16, classes, seed=1), data):.3f}")
gat = GATConv(width, 8, heads=4), GATConv(32, classes, seed=1)
print(f"graph attention     {accuracy(*gat, data):.3f}")
