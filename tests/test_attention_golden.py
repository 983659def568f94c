"""Every golden file of the attention mechanisms, in float64 and, where the file says so, in float32."""

from __future__ import annotations

import pytest

from attention_golden import FOLDER, Case, cases

FILES = sorted(p.stem for p in FOLDER.glob("*.npz"))
CASES = [case for name in FILES for case in cases(name)]


@pytest.mark.parametrize(("arrays", "params"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_double(arrays, params):
    Case(arrays, params, single=False).run()


SINGLE = [c for c in CASES if c[2]["f32"]]


@pytest.mark.parametrize(("arrays", "params"), [c[1:] for c in SINGLE], ids=[c[0] for c in SINGLE])
def test_single(arrays, params):
    Case(arrays, params, single=True).run()
