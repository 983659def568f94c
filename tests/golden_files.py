"""Golden cases as parameters of tests: one test per case of a kind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

LEARNING = Path(__file__).parent / "golden" / "learning"


def golden(kind, file, module=None):
    """Decorator that gives a test each case of ``kind`` in ``file``: its ``arrays``, ``params`` and tolerance ``tol``."""
    cases = []
    with np.load(LEARNING / file) as z:
        meta = json.loads(str(z["meta"]))
        for name, case in meta["cases"].items():
            if case["kind"] == kind and case["params"].get("module") == module:
                arrays = {k.split("/", 1)[1]: z[k] for k in z.files if k.startswith(name + "/")}
                cases.append(pytest.param(arrays, case["params"], case.get("tol", meta["tol"]), id=name))
    assert cases, f"{file} has no case of kind {kind}"
    return pytest.mark.parametrize(("arrays", "params", "tol"), cases)
