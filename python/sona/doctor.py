"""``sona doctor``: check that this installation works, end to end."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from sona import _core
from sona.config import SonaConfig
from sona.engine import SonaEngine
from sona.exceptions import CorruptStateError, StoreError

__all__ = ["add_arguments", "check", "run"]

_D = 32


class _CheckError(Exception):
    """A check that did not hold."""


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise _CheckError(message)


def _inputs() -> tuple[list[str], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(20, _D)).astype(np.float32)
    return [f"doc{i}" for i in range(20)], vectors, rng.normal(size=_D).astype(np.float32)


def _identity() -> str:
    _, _, x = _inputs()
    y = SonaEngine(SonaConfig(hidden_dim=_D)).adapt(x)
    _require(bool(np.array_equal(x, y)), "an untrained engine changed its input")
    return "an untrained engine is the identity"


def _learns() -> str:
    ids, vectors, x = _inputs()
    moved = {}
    for reward in (1.0, -1.0):
        engine = SonaEngine(SonaConfig(hidden_dim=_D))
        before = engine.rank(x, ids, vectors, k=20)
        place = 5
        engine.feedback(before.id or "", rewards={before.ids[place]: reward})
        after = engine.rank(x, ids, vectors, k=20)
        moved[reward] = float(after.scores[after.ids.index(before.ids[place])] - before.scores[place])
    _require(moved[1.0] > 0 > moved[-1.0], f"feedback moved scores by {moved}")
    return f"one feedback moves the score by {moved[1.0]:+.3f} (reward 1) and {moved[-1.0]:+.3f} (reward -1)"


def _durable() -> str:
    ids, vectors, x = _inputs()
    with tempfile.TemporaryDirectory() as folder:
        engine = SonaEngine(SonaConfig(hidden_dim=_D), store=folder)
        decision = engine.rank(x, ids, vectors)
        engine.feedback(decision.id or "", chosen=decision.ids[3])
        digest = engine.digest()
        engine.close()
        with SonaEngine(SonaConfig(hidden_dim=_D), store=folder) as again:
            _require(again.digest() == digest, "state differs after closing and opening")
    return "state is the same after closing and opening"


def _hostile() -> str:
    data = bytearray(SonaEngine(SonaConfig(hidden_dim=_D)).to_bytes())
    data[len(data) // 2] ^= 1
    try:
        SonaEngine.from_bytes(bytes(data))
    except CorruptStateError:
        return "damaged state is refused"
    raise _CheckError("damaged state was accepted")


def _kernels() -> str:
    return f"SIMD tier {_core.simd_tier()} (available: {', '.join(_core.simd_tiers())})"


def _writable() -> str:
    folder = os.environ.get("TMPDIR", tempfile.gettempdir())
    try:
        with SonaEngine(SonaConfig(hidden_dim=4), store=os.path.join(tempfile.mkdtemp(dir=folder), "state")):
            return f"state directories can be made in {folder}"
    except StoreError as error:
        raise _CheckError(str(error)) from error


_CHECKS: dict[str, Callable[[], str]] = {
    "kernels": _kernels,
    "identity": _identity,
    "learning": _learns,
    "durability": _durable,
    "hostile bytes": _hostile,
    "file system": _writable,
}


def check() -> list[tuple[str, bool, str]]:
    """Run every check: (name, passed, what was found).

    >>> all(passed for _, passed, _ in check())
    True
    """
    out = []
    for name, probe in _CHECKS.items():
        try:
            out.append((name, True, probe()))
        except (_CheckError, OSError, ValueError, RuntimeError) as error:
            out.append((name, False, f"{type(error).__name__}: {error}"))
    return out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the findings; 1 if one failed."""
    findings = check()
    if options.json:
        print(json.dumps([{"check": n, "passed": ok, "found": text} for n, ok, text in findings], indent=2))
    else:
        for name, ok, text in findings:
            print(f"{'ok  ' if ok else 'FAIL'}  {name:<14} {text}")
    return 0 if all(ok for _, ok, _ in findings) else 1
