"""From text to weighted counts: words, character n-grams, TF-IDF rows of unit length."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sona._randomized_svd import SparseRows

__all__ = ["count", "features", "keep_columns", "tokens", "weigh"]

#: Function words: in documentation "how" and "do" are rare, so idf alone would take them for the point of a
#: question.
_STOP = frozenset(
    [
        "a",
        "about",
        "am",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "for",
        "from",
        "had",
        "has",
        "have",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "me",
        "my",
        "of",
        "on",
        "or",
        "so",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "who",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)
_RUN = re.compile(r"[^\W_]+")
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\da-zA-Z_]+")
_GRAMS = (3, 4)


def tokens(text: str) -> list[str]:
    """Words of a text in lower case, without function words; parts of identifiers are added to the whole.

    Parameters
    ----------
    text
        Any text; case decides where identifiers are cut.

    Returns
    -------
    list of str
        In order of appearance, with repetitions.

    Examples
    --------
    >>> tokens("How do I use HTMLParser.get_text()?")
    ['use', 'htmlparser', 'html', 'parser', 'get', 'text']
    """
    found = []
    for run in _RUN.findall(text):
        parts = _PART.findall(run)
        found.append(run.lower())
        if len(parts) > 1:
            found.extend(part.lower() for part in parts)
    return [word for word in found if word not in _STOP]


def features(word: str) -> list[str]:
    """Return the word and its n-grams; these carry a mark, for the gram "get" is not the word "get"."""
    marked = f"<{word}>"
    return [word, *("#" + marked[i : i + n] for n in _GRAMS for i in range(len(marked) - n + 1))]


def count(texts: Iterable[str], ids: dict[str, int], *, grow: bool) -> SparseRows:
    """Count features by text; with ``grow`` new features are added to ``ids``, else they are left out."""
    known: dict[str, NDArray[np.int64]] = {}

    def of(word: str) -> NDArray[np.int64]:
        found = known.get(word)
        if found is None:
            names = features(word)
            if grow:
                listed = [ids.setdefault(name, len(ids)) for name in names]
            else:
                listed = [i for name in names if (i := ids.get(name)) is not None]
            found = known[word] = np.array(listed, dtype=np.int64)
        return found

    columns, values, start = [], [], [0]
    for text in texts:
        words = Counter(tokens(text))
        parts = [of(word) for word in words]
        here = np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)
        times = np.repeat(list(words.values()), [len(part) for part in parts]) if parts else here
        unique, where = np.unique(here, return_inverse=True)
        columns.append(unique)
        values.append(np.bincount(where, weights=times, minlength=len(unique)).astype(np.float32))
        start.append(start[-1] + len(unique))
    return SparseRows(
        np.array(start, dtype=np.int64),
        np.concatenate(columns) if columns else np.empty(0, dtype=np.int64),
        np.concatenate(values) if values else np.empty(0, dtype=np.float32),
        len(ids),
    )


def keep_columns(matrix: SparseRows, kept: NDArray[np.int64]) -> SparseRows:
    """Return the matrix with only the given columns, renumbered."""
    number = np.full(matrix.width, -1, dtype=np.int64)
    number[kept] = np.arange(len(kept))
    stays = number[matrix.columns] >= 0
    before = np.concatenate([[0], np.cumsum(stays)])
    return SparseRows(before[matrix.start], number[matrix.columns[stays]], matrix.values[stays], len(kept))


def weigh(counts: SparseRows, weights: NDArray[np.float32]) -> SparseRows:
    """Turn counts into rows of unit length: sublinear term frequency times the weight of the feature."""
    values = (1.0 + np.log(counts.values)) * weights[counts.columns]
    row_of = np.repeat(np.arange(counts.rows), np.diff(counts.start))
    square = np.bincount(row_of, weights=values * values, minlength=counts.rows)
    scale = 1.0 / np.sqrt(np.where(square > 0, square, 1.0))
    unit: NDArray[np.float32] = (values * scale[row_of]).astype(np.float32)
    return SparseRows(counts.start, counts.columns, unit, counts.width)
