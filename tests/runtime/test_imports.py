import sys

import pytest

from hessgnn.errors import ConfigError
from hessgnn.runtime.imports import import_path, require


def test_what_is_installed_is_imported():
    assert require("json", package="json", extra="any", purpose="this test") is sys.modules["json"]


def test_what_is_missing_is_told_with_its_pip_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.raises(ConfigError, match=r"making geometries needs rdkit.*pip install 'hessgnn\[factory\]'"):
        require("rdkit.Chem", package="rdkit", extra="factory", purpose="making geometries")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise RuntimeError('at\\nimport')", "RuntimeError: at import"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("x = = 1", "SyntaxError"),
    ],
)
def test_what_a_module_of_the_user_raises_is_no_bug_of_ours(tmp_path, monkeypatch, source, reason):
    (tmp_path / "their_broken.py").write_text(source)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(ConfigError, match=rf"their_broken:X: cannot be imported \({reason}.*Hint: try `python -c"):
        import_path("their_broken:X")


def test_a_relative_path_is_refused():
    with pytest.raises(ConfigError, match=r"\.\.sibling:X: cannot be imported"):
        import_path("..sibling:X")
