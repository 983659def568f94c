"""What comes next? A block of attention and a Mamba layer or a mixture of experts, trained with sona's own optimiser.

With SONA_DATA set to a folder with ``duckdb_plan_nodes.parquet``, the tokens are operators of recorded query plans; otherwise
kinds of tokens in the source of Python's standard library. The model is trained with `sona.lora.AdamW`, nothing else, and
compared on held-out plans (or files) with the most frequent token and with tables of what followed one or two tokens before.

    python examples/workflow_attention.py [--mixer mamba|moe|none] [--steps N]
"""

from __future__ import annotations

import argparse
import io
import keyword
import os
import sysconfig
import time
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np

from sona.attention import MambaBlock, MoEAttention, MultiHeadAttention
from sona.lora import AdamW

LENGTH, WIDTH, HEADS, WINDOW, BATCH = 64, 32, 4, 16, 16


def source_tokens(limit: int = 80) -> list[list[str]]:
    """Kinds of tokens, one sequence per module of the standard library."""
    skipped = {tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER}
    folder = Path(sysconfig.get_paths()["stdlib"])
    sequences = []
    for path in sorted(folder.glob("*.py"))[:limit]:
        kinds = []
        for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8", errors="replace")).readline):
            if token.type in skipped:
                continue
            exact = token.type == tokenize.OP or keyword.iskeyword(token.string)
            kinds.append(token.string if exact else tokenize.tok_name[token.type])
        sequences.append(kinds)
    return sequences


def plan_tokens(folder: Path) -> list[list[str]]:
    """Operators of the plan of each recorded query, in depth-first order."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "duckdb_plan_nodes.parquet").to_pydict()
    plans: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for query, arm, node, operator in zip(*(table[name] for name in ("query", "arm", "node", "op")), strict=True):
        if arm == "default":
            plans[query].append((node, operator))
    return [[operator for _, operator in sorted(nodes)] for nodes in plans.values()]


def windows(sequences: list[list[str]], vocabulary: dict[str, int]) -> np.ndarray:
    """Rows of LENGTH + 1 tokens; 0 pads and stands for what was never seen in training."""
    rows = []
    for sequence in sequences:
        ids = [vocabulary.get(token, 0) for token in sequence]
        for start in range(0, max(len(ids) - 1, 0), LENGTH):
            row = ids[start : start + LENGTH + 1]
            rows.append(row + [0] * (LENGTH + 1 - len(row)))
    return np.array(rows)


class Model:
    """Embedding, attention within a causal window, a mixer, and a linear map to the next token."""

    def __init__(self, vocabulary: int, mixer: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.layers: dict[str, object] = {"attention": MultiHeadAttention(WIDTH, HEADS, seed=seed)}
        if mixer == "mamba":
            self.layers["mixer"] = MambaBlock(WIDTH, d_state=8, seed=seed)
        elif mixer == "moe":
            self.layers["mixer"] = MoEAttention(WIDTH, WIDTH // 2, 4, top_k=2, seed=seed)
        i, j = np.ogrid[:LENGTH, :LENGTH]
        self.mask = (j <= i) & (i - j < WINDOW)
        self.own = {
            "embedding": 0.3 * rng.normal(size=(vocabulary, WIDTH)),
            "position": 0.1 * rng.normal(size=(LENGTH, WIDTH)),
            "head": WIDTH**-0.5 * rng.normal(size=(vocabulary, WIDTH)),
        }
        parts = {(name, key): x for name, layer in self.layers.items() for key, x in layer.state_dict().items()}
        parts |= {("own", key): x for key, x in self.own.items()}
        self.shapes = {name: x.shape for name, x in parts.items()}
        self.flat = np.concatenate([x.ravel() for x in parts.values()]).astype(np.float32)
        self.optimiser = AdamW(len(self.flat), lr=4e-3, weight_decay=0.01)
        self.spread()

    def spread(self) -> None:
        """Hand the parameters to their layers."""
        states: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
        start = 0
        for (name, key), shape in self.shapes.items():
            stop = start + int(np.prod(shape))
            states[name][key] = self.flat[start:stop].reshape(shape)
            start = stop
        self.own = states.pop("own")
        for name, state in states.items():
            self.layers[name].load_state_dict(state)

    def hidden(self, tokens: np.ndarray) -> np.ndarray:
        """(b, LENGTH, WIDTH)."""
        x = self.own["embedding"][tokens] + self.own["position"]
        x = x + self.layers["attention"](x, mask=self.mask)
        return x + self.layers["mixer"](x) if "mixer" in self.layers else x

    def probabilities(self, hidden: np.ndarray) -> np.ndarray:
        """Of the next token."""
        logits = (hidden.reshape(-1, WIDTH) @ self.own["head"].T).reshape(*hidden.shape[:-1], -1)
        e = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    def train(self, rows: np.ndarray) -> float:
        """One step of cross-entropy; returns the loss."""
        tokens, targets = rows[:, :-1], rows[:, 1:]
        hidden = self.hidden(tokens)
        p = self.probabilities(hidden)
        counted = (targets > 0).astype(np.float32)[..., None] / max((targets > 0).sum(), 1)
        chosen = np.take_along_axis(p, targets[..., None], axis=-1)
        dlogits = p.copy()
        np.put_along_axis(dlogits, targets[..., None], chosen - 1, axis=-1)
        dlogits *= counted
        grads = {("own", "head"): dlogits.reshape(-1, p.shape[-1]).T @ hidden.reshape(-1, WIDTH)}
        dx = (dlogits.reshape(-1, p.shape[-1]) @ self.own["head"]).reshape(hidden.shape)
        for name in ("mixer", "attention"):
            if name in self.layers:
                g = self.layers[name].backward(dx)
                dx = dx + g.pop("x" if name == "mixer" else "query")
                grads |= {(name, key): value for key, value in g.items()}
        grads["own", "position"] = dx.sum(axis=0)
        table = np.zeros_like(self.own["embedding"])
        np.add.at(table, tokens, dx)
        grads["own", "embedding"] = table
        flat = np.concatenate([grads[name].ravel() for name in self.shapes]).astype(np.float32)
        flat *= min(1.0, 1.0 / float(np.linalg.norm(flat)))
        self.flat = self.optimiser.step(self.flat, flat)
        self.spread()
        return float(-(np.log(chosen + 1e-9) * counted).sum())

    def accuracy(self, rows: np.ndarray) -> float:
        """Share of held-out next tokens that were predicted."""
        best = [self.probabilities(self.hidden(part[:, :-1]))[..., 1:].argmax(-1) + 1 for part in np.array_split(rows, 8)]
        return share(np.concatenate(best), rows)


def share(predicted: np.ndarray, rows: np.ndarray) -> float:
    """Share of real next tokens that were predicted."""
    targets = rows[:, 1:]
    return float((predicted == targets)[targets > 0].mean())


def table_accuracy(train: np.ndarray, test: np.ndarray, order: int) -> float:
    """Accuracy of the most frequent follower of the last `order` tokens, backing off to fewer."""
    tables = [defaultdict(Counter) for _ in range(order + 1)]
    for row in train.tolist():
        for t in range(1, LENGTH + 1):
            for n, table in enumerate(tables):
                if row[t] and n <= t:
                    table[tuple(row[t - n : t])][row[t]] += 1
    best = [{key: counts.most_common(1)[0][0] for key, counts in table.items()} for table in tables]
    predicted = np.zeros((len(test), LENGTH), dtype=int)
    for i, row in enumerate(test.tolist()):
        for t in range(1, LENGTH + 1):
            keys = ((n, tuple(row[t - n : t])) for n in range(min(order, t), -1, -1))
            predicted[i, t - 1] = next(best[n][key] for n, key in keys if key in best[n])
    return share(predicted, test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixer", choices=("mamba", "moe", "none"), default="mamba")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    data = os.environ.get("SONA_DATA")
    recorded = data is not None and (Path(data) / "duckdb_plan_nodes.parquet").exists()
    sequences = plan_tokens(Path(data)) if recorded and data else source_tokens()
    order = np.random.default_rng(0).permutation(len(sequences))
    held = set(order[: len(sequences) // 5].tolist())
    fit = [s for i, s in enumerate(sequences) if i not in held]
    vocabulary = {token: i + 1 for i, token in enumerate(sorted({t for s in fit for t in s}))}
    train = windows(fit, vocabulary)
    test = windows([sequences[i] for i in sorted(held)], vocabulary)
    what = "operators of recorded query plans" if recorded else "tokens of the standard library"
    counts = [f"{(rows[:, 1:] > 0).sum():,}" for rows in (train, test)]
    print(f"{what}: {len(vocabulary)} kinds, {counts[0]} to learn from, {counts[1]} held out\n")
    print("| predictor | held-out accuracy |\n|---|---|")
    for name, n in (("most frequent", 0), ("after one token", 1), ("after two tokens", 2)):
        print(f"| {name} | {table_accuracy(train, test, n):.3f} |", flush=True)
    for seed in range(options.seeds):
        start, rng = time.perf_counter(), np.random.default_rng(seed)
        model = Model(len(vocabulary) + 1, options.mixer, seed)
        for _ in range(options.steps):
            model.train(train[rng.choice(len(train), min(BATCH, len(train)), replace=False)])
        took = time.perf_counter() - start
        print(f"| attention + {options.mixer}, seed {seed} ({took:.0f} s) | {model.accuracy(test):.3f} |", flush=True)


if __name__ == "__main__":
    main()
