"""Every example in a docstring runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import sona

MODULES = sorted(m.name for m in pkgutil.walk_packages(sona.__path__, "sona.") if not m.name.endswith("__main__"))


def test_modules_are_found():
    assert "sona.engine" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert failed == 0
