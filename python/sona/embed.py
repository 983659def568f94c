"""Text to vectors: the `Embedder` protocol and a small embedder that needs nothing but numpy.

`TfidfSvdEmbedder` is latent semantic analysis: TF-IDF over words and character n-grams, then a truncated
SVD. It is fitted on the documents themselves, in seconds, so it works offline and knows their vocabulary;
it does not know that a folder is a directory. For that there is `MiniLmEmbedder`, or any object that has
the three members of `Embedder`.

Deerwester et al., "Indexing by latent semantic analysis", JASIS 41 (1990).
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sona._randomized_svd import randomized_svd
from sona._tfidf import count, keep_columns, tokens, weigh
from sona.embed_minilm import MiniLmEmbedder
from sona.exceptions import CorruptStateError

__all__ = ["Embedder", "MiniLmEmbedder", "TfidfSvdEmbedder", "tokens"]


@runtime_checkable
class Embedder(Protocol):
    """What sona asks of an encoder; `SonaEngine(embedder=…)` takes any object that has it.

    Vectors of two embedders must never meet in one state, so each names itself by a fingerprint.
    """

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        ...

    @property
    def fingerprint(self) -> str:
        """Text that changes whenever the vectors could change."""
        ...

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one unit vector a text, shape ``(len(texts), dim)``, float32."""
        ...


class TfidfSvdEmbedder:
    """TF-IDF over words and character n-grams, reduced by a truncated SVD; numpy only.

    Make one with `fit` or `load`. Safe to share between threads: it never changes after it is made.

    Notes ----- Weight of a feature in a text: ``(1 + ln tf) · idf**2``, times 0.3 for an n-gram, with ``idf
    = ln((1 + n) / (1 + df)) + 1``; then rows of unit length. The square lets rare words rule: a truncated
    SVD spends its dimensions on what is frequent, and questions are short.

    Examples
    --------
    >>> pages = ["read a text file", "write a text file", "sort a list", "reverse a list"]
    >>> embedder = TfidfSvdEmbedder.fit(pages, dim=3)
    >>> vectors = embedder.embed(pages)
    >>> vectors.shape, vectors.dtype.name
    ((4, 3), 'float32')
    >>> query = embedder.embed(["sorting lists"])[0]
    >>> pages[int((vectors @ query).argmax())]
    'sort a list'
    """

    #: Exponent of idf, and weight of n-grams against words.
    IDF_POWER = 2.0
    GRAM_WEIGHT = 0.3

    def __init__(self, vocabulary: Sequence[str], projection: NDArray[np.float32], weights: NDArray[np.float32]) -> None:
        self._ids = {feature: i for i, feature in enumerate(vocabulary)}
        self._projection = projection
        self._weights = weights
        digest = hashlib.blake2b("\n".join(vocabulary).encode(), digest_size=16)
        digest.update(projection.tobytes())
        digest.update(weights.tobytes())
        self._fingerprint = f"tfidf-svd-{projection.shape[1]}-{digest.hexdigest()}"

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return int(self._projection.shape[1])

    @property
    def fingerprint(self) -> str:
        """Name of this fit: kind, dimension and a digest of everything that shapes the vectors."""
        return self._fingerprint

    def __repr__(self) -> str:
        return f"TfidfSvdEmbedder(dim={self.dim}, features={len(self._ids)})"

    @classmethod
    def fit(cls, texts: Sequence[str], *, dim: int = 256, seed: int = 0, min_df: int | None = None) -> TfidfSvdEmbedder:
        """Learn vocabulary, weights and projection from documents.

        Parameters
        ----------
        texts
            The documents, at least ``dim`` of them.
        dim
            Length of the vectors.
        seed
            Seed of the randomised SVD. Same texts, seed and BLAS, same vectors, bit for bit.
        min_df
            Features in fewer documents are dropped. Default: 2, or 1 below a hundred documents.

        Returns
        -------
        TfidfSvdEmbedder

        Raises
        ------
        ValueError
            If there are fewer documents, or fewer features, than ``dim``, or no text has a word.

        Notes
        -----
        Five to six thousand docstrings take a few seconds on one core.
        """
        if dim < 1 or len(texts) < dim:
            raise ValueError(f"texts: expected at least dim = {dim} documents, and dim >= 1, got {len(texts)} documents")
        if min_df is None:
            min_df = 2 if len(texts) >= 100 else 1
        ids: dict[str, int] = {}
        counts = count(texts, ids, grow=True)
        df = np.bincount(counts.columns, minlength=len(ids))
        kept = np.flatnonzero(df >= min_df)
        if len(kept) < dim:
            raise ValueError(f"texts: {len(kept)} features occur in {min_df} or more documents, fewer than dim={dim}")
        names = list(ids)
        vocabulary = [names[i] for i in kept]
        idf = np.log((1.0 + len(texts)) / (1.0 + df[kept])) + 1.0
        gram = np.array([name[0] == "#" for name in vocabulary])
        weights = (idf**cls.IDF_POWER * np.where(gram, cls.GRAM_WEIGHT, 1.0)).astype(np.float32)
        matrix = weigh(keep_columns(counts, kept), weights)
        _, vectors = randomized_svd(matrix, dim, seed=seed)
        return cls(vocabulary, vectors, weights)

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector a text.

        Parameters
        ----------
        texts
            Texts of any length, or none.

        Returns
        -------
        numpy.ndarray
            Unit vectors, shape ``(len(texts), dim)``, float32. A text without a single known feature has no
            direction: its vector is zero.

        Raises
        ------
        TypeError
            If ``texts`` is a single string instead of a sequence of strings.

        Notes
        -----
        A question of ten words costs about 0.1 ms, a page of 2,000 characters about 0.5 ms.
        """
        if isinstance(texts, str):
            raise TypeError("texts: expected a sequence of strings, got one string; write embed([text])")
        matrix = weigh(count(texts, self._ids, grow=False), self._weights)
        out = matrix.dot(self._projection)
        norms = np.linalg.norm(out, axis=1, keepdims=True)
        np.divide(out, norms, out=out, where=norms > 0)
        return out

    def save(self, path: str | Path) -> None:
        """Write everything to one file: plain numbers and text, nothing that runs when it is read.

        Parameters
        ----------
        path
            File to write; an existing file is replaced.
        """
        words = "\n".join(self._ids).encode()
        head = json.dumps({"dim": self.dim, "features": len(self._ids), "vocabulary_bytes": len(words)}).encode()
        body = b"".join(
            (
                _MAGIC,
                struct.pack("<I", len(head)),
                head,
                words,
                _little(self._weights),
                _little(self._projection),
            )
        )
        Path(path).write_bytes(body + hashlib.blake2b(body, digest_size=_DIGEST).digest())

    @classmethod
    def load(cls, path: str | Path) -> TfidfSvdEmbedder:
        """Read what `save` wrote. Safe on hostile bytes.

        Parameters
        ----------
        path
            File written by `save`.

        Returns
        -------
        TfidfSvdEmbedder
            With the same fingerprint and the same vectors, bit for bit.

        Raises
        ------
        CorruptStateError
            If the file is foreign, cut short, changed or of another version.
        """
        data = Path(path).read_bytes()
        body, digest = data[:-_DIGEST], data[-_DIGEST:]
        if not data.startswith(_MAGIC) or hashlib.blake2b(body, digest_size=_DIGEST).digest() != digest:
            raise CorruptStateError(f"{path}: not an embedder of this version, or damaged ({len(data)} bytes)")
        try:
            (size,) = struct.unpack_from("<I", body, len(_MAGIC))
            head_end = len(_MAGIC) + 4 + size
            head = json.loads(body[len(_MAGIC) + 4 : head_end])
            dim, features, word_bytes = (int(head[k]) for k in ("dim", "features", "vocabulary_bytes"))
            words_end = head_end + word_bytes
            vocabulary = body[head_end:words_end].decode().split("\n")
            # The header decides no allocation: sizes that the bytes do not bear out are refused here.
            numbers = np.frombuffer(body[words_end:], dtype="<f4").astype(np.float32)
            weights, projection = numbers[:features], numbers[features:].reshape(features, dim)
        except (struct.error, ValueError, KeyError, TypeError) as error:
            raise CorruptStateError(f"{path}: the embedder does not fit its own header ({error})") from error
        if len(set(vocabulary)) != features or dim < 1 or not np.isfinite(numbers).all():
            raise CorruptStateError(f"{path}: the embedder repeats a feature or holds a number that is not finite")
        return cls(vocabulary, projection, weights)


_MAGIC = b"sona-tfidf-svd\x00\x01"
_DIGEST = 16


def _little(numbers: NDArray[np.float32]) -> bytes:
    return numbers.astype("<f4", copy=False).tobytes()
