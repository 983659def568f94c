"""What attention functions return besides plain arrays."""

from __future__ import annotations

from typing import NamedTuple

from sona.attention._arrays import Array

__all__ = ["AttentionOutput"]


class AttentionOutput(NamedTuple):
    """Result of softmax attention; fields that were not asked for are None."""

    out: Array
    """Values, ``(…, n, dv)``."""
    lse: Array | None = None
    """Natural logarithm of the sum of exponentials of the scaled, masked logits, ``(…, n)``; −inf where nothing is attended."""
    weights: Array | None = None
    """softmax weights, ``(…, n, m)``."""
