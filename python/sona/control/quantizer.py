"""Bits per layer within a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from sona.exceptions import CapacityError, ConfigError, NotFiniteError, ShapeError
from sona.lora import dequantize_symmetric, quantize_symmetric

__all__ = ["AutoQuantizer", "BitAllocation"]


class BitAllocation(NamedTuple):
    """Bits for every layer."""

    bits: tuple[int, ...]
    loss: float
    """Sum of the layers' sensitivities at these bits."""
    size_bits: int


class AutoQuantizer:
    """Chooses the bits of every layer so that the loss is least within a size.

    Parameters
    ----------
    bits : sequence of int, default (2, 4, 6, 8)
        What a layer can have, of 2, 4, 6 and 8.

    Raises
    ------
    ConfigError
        If `bits` is empty, repeats, or is out of range.

    References
    ----------
    Dong et al. 2019 (HAWQ) for sensitivities; Kellerer, Pferschy & Pisinger 2004, ch. 11, for the multiple-choice
    knapsack, solved exactly by keeping the states that no other state beats in both size and loss.

    Examples
    --------
    >>> from sona.control import AutoQuantizer
    >>> AutoQuantizer((4, 8)).allocate([[0.5, 0.1], [0.2, 0.1]], [100, 100], 1200)
    BitAllocation(bits=(8, 4), loss=0.30000000000000004, size_bits=1200)
    """

    def __init__(self, bits: Sequence[int] = (2, 4, 6, 8)) -> None:
        self._bits = tuple(int(b) for b in bits)
        if not self._bits or len(set(self._bits)) < len(self._bits) or not set(self._bits) <= {2, 4, 6, 8}:
            raise ConfigError(f"bits: expected different ones of 2, 4, 6 and 8, got {tuple(bits)}")

    @property
    def bits(self) -> tuple[int, ...]:
        """What a layer can have."""
        return self._bits

    def allocate(self, sensitivity: npt.ArrayLike, sizes: npt.ArrayLike, budget_bits: int) -> BitAllocation:
        """The exact minimum of the summed sensitivities.

        Parameters
        ----------
        sensitivity : (L, len(bits)) array_like of float
            What the loss rises by when a layer alone has these bits; see :meth:`sensitivities`.
        sizes : (L,) array_like of int
            Parameters of every layer.
        budget_bits : int
            Σ size · bits may not exceed it.

        Returns
        -------
        BitAllocation
            Of equal losses the smaller.

        Raises
        ------
        CapacityError
            If the budget is below the smallest possible size, which the message names.
        ShapeError, NotFiniteError, ValueError

        Notes
        -----
        O(L · len(bits) · budget / gcd of the sizes) at worst.
        """
        s = np.asarray(sensitivity, dtype=np.float64)
        n = np.asarray(sizes)
        if s.ndim != 2 or s.shape[1] != len(self._bits):
            raise ShapeError(f"sensitivity: expected shape (L, {len(self._bits)}), got {s.shape}")
        if n.shape != (len(s),):
            raise ShapeError(f"sizes: expected shape ({len(s)},), got {n.shape}")
        if not np.isfinite(s).all():
            raise NotFiniteError("sensitivity: expected finite numbers")
        if not np.issubdtype(n.dtype, np.integer) or (n < 1).any():
            raise ValueError("sizes: expected integers of at least 1")
        smallest = int(n.sum()) * min(self._bits)
        if budget_bits < smallest:
            raise CapacityError(f"budget_bits: the smallest possible size is {smallest} bits, got {budget_bits}")
        # Size, loss, and the choices that led there; sizes rise and losses fall along the list.
        states: list[tuple[int, float, tuple[int, ...]]] = [(0, 0.0, ())]
        room = int(budget_bits) - smallest
        for row, size in zip(s, n.tolist(), strict=True):
            grown = [
                (used + size * (b - min(self._bits)), loss + float(row[i]), (*choice, b))
                for used, loss, choice in states
                for i, b in enumerate(self._bits)
                if used + size * (b - min(self._bits)) <= room
            ]
            grown.sort(key=lambda state: state[:2])
            states = []
            best = math.inf
            for state in grown:
                if state[1] < best:
                    best = state[1]
                    states.append(state)
        used, loss, choice = states[-1]
        return BitAllocation(choice, loss, smallest + used)

    def sensitivities(
        self, loss_fn: Callable[[list[npt.NDArray[np.float32]]], float], layers: Sequence[npt.ArrayLike]
    ) -> npt.NDArray[np.float64]:
        """How much the loss rises when one layer alone is quantised.

        Parameters
        ----------
        loss_fn : callable
            Loss of a list of layers.
        layers : sequence of array_like
            Weights; quantised symmetrically, one scale per row.

        Returns
        -------
        (L, len(bits)) float64
            Costs 1 + L · len(bits) calls of `loss_fn`.
        """
        weights = [np.ascontiguousarray(w, dtype=np.float32) for w in layers]
        base = float(loss_fn(list(weights)))
        out = np.empty((len(weights), len(self._bits)))
        for i, w in enumerate(weights):
            rows = w.reshape(len(w), -1)
            for j, b in enumerate(self._bits):
                changed = list(weights)
                changed[i] = dequantize_symmetric(*quantize_symmetric(rows, b)).reshape(w.shape)
                out[i, j] = float(loss_fn(changed)) - base
        return out

    def metrics(self) -> dict[str, int | float]:
        """What can be chosen."""
        return {"choices": len(self._bits)}

    def __repr__(self) -> str:
        return f"AutoQuantizer({self._bits})"
