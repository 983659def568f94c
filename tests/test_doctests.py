"""Every example in a docstring or on a page of the documentation runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import sona

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(str(p.relative_to(DOCS)) for p in DOCS.rglob("*.md") if ">>> " in p.read_text(encoding="utf-8"))
MODULES = sorted(m.name for m in pkgutil.walk_packages(sona.__path__, "sona.") if not m.name.endswith("__main__"))


def test_modules_are_found():
    assert "sona.engine" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=OPTIONS)
    assert failed == 0


def test_pages_are_found():
    assert {"reference/lora.md", "reference/trajectory.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_page_examples(page):
    # A fence would be read as the last line of the output before it.
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    text = "\n".join("" if line.lstrip().startswith("```") else line for line in lines)
    examples = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    assert doctest.DocTestRunner(optionflags=OPTIONS).run(examples).failed == 0
