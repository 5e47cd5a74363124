import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from hessgnn.cli.data import app
from hessgnn.data.store import Store, write_store
from hessgnn.errors import ConfigError, DataError


@pytest.fixture
def run():
    def invoke(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return invoke


def test_info(run):
    output = run("info", "rtp-mini")
    assert "GFN2-xTB" in output
    assert "validation" in output
    assert "H 38, C 35, N 11, O 18" in output
    assert "nms 72, minimum 9" in output


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(run, monkeypatch, width):
    """Nothing is cut and no number is broken over two lines."""
    monkeypatch.setenv("COLUMNS", str(width))
    for verb in ("info", "check"):
        output = run(verb, "rtp-mini")
        assert "…" not in output.replace("3…1", "")
        assert all(len(line) <= width for line in output.splitlines() if not line.startswith("content"))


def test_json(run):
    described = json.loads(run("info", "rtp-mini", "--json"))
    assert described["splits"]["train"]["elements"] == {"H": 38, "C": 35, "N": 11, "O": 18}
    assert described["split_hash"] == Store.open("rtp-mini").attributes.split_hash
    judged = json.loads(run("check", "rtp-mini", "--json"))
    assert judged["findings"] == []
    assert judged["counts"]["nms"]["hessian"] == 384
    assert {"quantity", "unit", "median", "largest"} <= set(judged["noise"][0])


def test_info_without_labels(run, tmp_path):
    structures = [s for s in Store.open("rtp-mini") if s.kind == "minimum"][:3]
    bare = [type(s)(numbers=s.numbers, positions=s.positions, name=s.name) for s in structures]
    write_store(tmp_path / "bare.h5", bare, level_of_theory="none")
    assert "–" in run("info", tmp_path / "bare.h5")


def test_check(run, tmp_path):
    output = run("check", "rtp-mini")
    assert "513 structures, no error, 0 warnings" in output
    assert "2 of 7" in output  # formulas of test that are in train
    assert "max |Σ_j H_ij|" in output
    assert "read: 40 of 513" in run("check", "rtp-mini", "--sample", "40")
    (tmp_path / "x.h5").write_text("no")
    with pytest.raises(DataError, match="not an HDF5 file"):
        run("check", tmp_path / "x.h5")


def test_split_moves_groups_and_keeps_content(run, tmp_path):
    output = run("split", "rtp-mini", "-o", tmp_path / "new.h5", "--fractions", "0.5,0.25,0.25", "--seed", "3")
    assert "train 29" in output.replace("\n", " ")
    new, old = Store.open(tmp_path / "new.h5"), Store.open("rtp-mini")
    assert new.splits == {"train": 29, "validation": 14 * 9, "test": 14, "nms": 43 * 8}
    assert new.attributes.content_hash == old.attributes.content_hash
    assert new.attributes.split_hash[:16] in output
    assert new.attributes.provenance.startswith(old.attributes.provenance)
    with pytest.raises(ConfigError, match="not three numbers"):
        run("split", "rtp-mini", "-o", tmp_path / "new.h5", "--fractions", "0.5")


def test_findings_end_with_status_2_and_are_listed(run, tmp_path):
    structures = [s for s in Store.open("rtp-mini") if s.kind == "minimum"]
    structures = [replace(s, hessian=s.hessian / 97.17) for s in structures]
    write_store(tmp_path / "bad.h5", structures, level_of_theory="none")
    result = CliRunner().invoke(app, ["check", str(tmp_path / "bad.h5")])
    assert "error [hessian-unit]" in result.output
    assert "97.2 times too small: Hartree/Bohr² read as eV/Å²?" in result.output
    assert isinstance(result.exception, DataError)
    assert "1 errors among 57 structures" in str(result.exception)


def test_split_by_what(run, tmp_path):
    run("split", "rtp-mini", "-o", tmp_path / "new.h5", "--by", "composition")
    assert "split by composition" in Store.open(tmp_path / "new.h5").attributes.provenance
    assert "'colour' is not one of" in run("split", "rtp-mini", "-o", tmp_path / "x.h5", "--by", "colour")


def test_split_as_the_recipe_gives_the_bundled_split(run, tmp_path):
    run("split", "rtp-mini", "-o", tmp_path / "same.h5", "--fractions", "0.7,0.15,0.15", "--seed", "23")
    assert Store.open(tmp_path / "same.h5").attributes.split_hash == Store.open("rtp-mini").attributes.split_hash


def test_build_dry_run(run, tmp_path):
    output = run("build", "configs/data/rtp-mini.yaml", "--dry-run", "-o", tmp_path / "x.h5")
    assert "58 molecules" in output
    assert "odd number of electrons" in output
    assert not list(tmp_path.iterdir())


def test_merge_and_append(run, tmp_path):
    structures = list(Store.open("rtp-mini"))
    paths = [tmp_path / f"{name}.h5" for name in "abc"]
    for k, path in enumerate(paths):
        write_store(path, structures[3 * k : 3 * k + 3], level_of_theory="GFN2-xTB")
    merged = tmp_path / "merged.h5"
    assert "6 structures" in run("merge", *paths[:2], "-o", merged)
    assert "9 structures" in run("append", merged, paths[2])
    assert Store.open(merged).names == [s.name for s in structures[:9]]
    before = merged.read_bytes()
    with pytest.raises(DataError, match=r"merged\.h5: exists already.*hessgnn data append"):
        run("merge", *paths, "-o", merged)
    with pytest.raises(DataError, match=r"is taken"):
        run("append", merged, paths[2])
    write_store(paths[0], structures[9:10], level_of_theory="DFT")
    with pytest.raises(DataError, match=r"a\.h5: is at DFT, and .*merged\.h5 at GFN2-xTB"):
        run("append", merged, paths[0])
    with pytest.raises(DataError, match="no such data set"):
        run("append", tmp_path / "new.h5", paths[2])
    assert merged.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 4
