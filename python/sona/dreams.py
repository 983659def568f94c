"""Offline link suggestions: edges between items that were retrieved together."""

from __future__ import annotations

from sona._core import EdgeWeights

__all__ = ["EdgeWeights"]
