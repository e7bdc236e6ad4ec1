"""The examples in docstrings are tests."""

import doctest
import importlib
from pathlib import Path

import pytest

import rvq

PACKAGE = Path(rvq.__file__).parent
MODULES = [
    ".".join(("rvq", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed
