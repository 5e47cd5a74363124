import sys

import pytest

from hessgnn.errors import ConfigError
from hessgnn.runtime.imports import require


def test_what_is_installed_is_imported():
    assert require("json", package="json", extra="any", purpose="this test") is sys.modules["json"]


def test_what_is_missing_is_told_with_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.raises(ConfigError, match=r"making geometries needs rdkit.*pip install 'hessgnn\[factory\]'"):
        require("rdkit.Chem", package="rdkit", extra="factory", purpose="making geometries")
