"""Errors of sona: one root, and beside it the built-in class that callers expect."""

from __future__ import annotations

__all__ = [
    "CapacityError",
    "ConfigError",
    "CorruptStateError",
    "CryptoError",
    "DimensionMismatch",
    "EconomyError",
    "GovernanceError",
    "LearningError",
    "NotFiniteError",
    "ScopeError",
    "ShapeError",
    "SonaError",
    "StoreError",
]


class SonaError(Exception):
    """Root of every error that sona raises on purpose."""


class ConfigError(SonaError, ValueError):
    """A constructor argument or configuration field is out of range."""


class ShapeError(SonaError, ValueError):
    """An array has the wrong number of axes."""


class DimensionMismatch(ShapeError):  # noqa: N818 - the public name is part of the design
    """A vector has the wrong length."""


class NotFiniteError(SonaError, ValueError):
    """NaN or infinity in an input; the message names the first index."""


class CapacityError(SonaError, RuntimeError):
    """Something is too large for its budget."""


class StoreError(SonaError, OSError):
    """Reading or writing durable state failed."""


class CorruptStateError(SonaError, ValueError):
    """State bytes are damaged, foreign or of an unknown version."""


class ScopeError(SonaError, KeyError):
    """A scope is unknown, or a reference crosses scopes."""

    def __str__(self) -> str:
        """Show the message itself; ``KeyError`` would show its ``repr``."""
        return str(self.args[0]) if self.args else ""


class LearningError(SonaError, RuntimeError):
    """Learning could not proceed."""


class EconomyError(SonaError, ValueError):
    """An amount, bid or transfer is not acceptable."""


class GovernanceError(SonaError, ValueError):
    """A vote or proposal is not acceptable."""


class CryptoError(SonaError, ValueError):
    """A key, signature or ciphertext is not acceptable."""
