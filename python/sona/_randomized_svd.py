"""Truncated singular value decomposition of a sparse matrix, with numpy alone.

Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53 (2011): algorithm 4.4
(randomised subspace iteration) finds an orthonormal basis of the range, algorithm 5.1 decomposes the small
matrix that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["SparseRows", "randomized_svd"]


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A sparse float32 matrix by rows: row ``i`` has ``values[start[i]:start[i + 1]]`` in ``columns[...]``.

    Attributes
    ----------
    start
        Row boundaries, shape ``(rows + 1,)``, int64.
    columns, values
        Column numbers and values of the stored entries, shape ``(entries,)``, int64 and float32.
    width
        Number of columns.
    """

    start: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float32]
    width: int

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.start) - 1

    def transposed(self) -> SparseRows:
        """Return the transpose; costs a stable sort of the entries."""
        order = np.argsort(self.columns, kind="stable")
        row_of = np.repeat(np.arange(self.rows), np.diff(self.start))
        start = np.zeros(self.width + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.columns, minlength=self.width), out=start[1:])
        return SparseRows(start, row_of[order], self.values[order], self.rows)

    def dot(self, dense: NDArray[np.float32]) -> NDArray[np.float32]:
        """Product with a dense matrix of shape ``(width, m)``; returns ``(rows, m)`` float32."""
        out = np.zeros((self.rows, dense.shape[1]), dtype=np.float32)
        for i, (a, b) in enumerate(pairwise(self.start.tolist())):
            if a != b:
                # Gather, then one BLAS gemv: the fastest that numpy offers for a row of a few hundred
                # entries.
                np.dot(self.values[a:b], dense.take(self.columns[a:b], axis=0), out=out[i])
        return out


def randomized_svd(
    matrix: SparseRows, rank: int, *, seed: int, oversample: int = 32, iterations: int = 4
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Leading singular values and right singular vectors.

    Parameters
    ----------
    matrix
        The matrix, shape ``(n, m)``.
    rank
        How many to return, at most ``min(n, m)``.
    seed
        Seed of the random test matrix.
    oversample
        Extra directions that are carried along; they make the last of the wanted ones accurate.
    iterations
        Subspace iterations; each one sharpens the basis by the ratio of the singular values squared.

    Returns
    -------
    tuple
        Singular values ``(rank,)``, descending, and right singular vectors as columns ``(m, rank)``,
        float32. The sign of each vector is fixed by making its largest component positive.

    Raises
    ------
    ValueError
        If ``rank`` is out of range.

    Notes
    -----
    Costs ``2 · (iterations + 1)`` products of the matrix with ``rank + oversample`` vectors.
    """
    limit = min(matrix.rows, matrix.width)
    if not 1 <= rank <= limit:
        raise ValueError(f"rank: expected 1 to {limit} for shape ({matrix.rows}, {matrix.width}), got {rank}")
    size = min(rank + oversample, limit)
    turned = matrix.transposed()
    test = np.random.default_rng(seed).standard_normal((matrix.width, size), dtype=np.float32)
    basis = _orthonormal(matrix.dot(test))[1]
    for _ in range(iterations):
        # Orthonormalise on both sides: in float32 the small directions drown after one product without it.
        basis = _orthonormal(matrix.dot(_orthonormal(turned.dot(basis))[1]))[1]
    values, vectors = _orthonormal(turned.dot(basis))
    values, vectors = values[:rank], vectors[:, :rank]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(rank)]
    return values, np.ascontiguousarray(vectors * np.where(largest < 0, -1, 1).astype(np.float32))


def _orthonormal(tall: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Singular values and left singular vectors of a tall matrix, by its Gram matrix in float64.

    Ten times faster than QR for 20,000 rows, and exact enough here: the spectrum spans two digits,
    float64 has sixteen. A direction below rounding becomes zero.
    """
    double = tall.astype(np.float64)
    squares, turn = np.linalg.eigh(double.T @ double)
    squares, turn = squares[::-1], turn[:, ::-1]
    values = np.sqrt(np.maximum(squares, 0.0))
    real = values > values[0] * 1e-6
    scale = np.divide(1.0, values, out=np.zeros_like(values), where=real)
    return values.astype(np.float32), (double @ (turn * scale)).astype(np.float32)
