import json
from dataclasses import replace

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from hessgnn.cli.data import app
from hessgnn.data.store import Store, write_store
from hessgnn.errors import ConfigError, DataError


def minima():
    store = Store.open("rtp-mini")
    return [store[i] for i, kind in enumerate(store.kinds) if kind == "minimum"]


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
    assert "H 352, C 345, N 217, O 224" in output
    assert "nms 67, minimum 34, irc 32," in output


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
    assert described["splits"]["train"]["elements"] == {"H": 352, "C": 345, "N": 217, "O": 224}
    assert described["split_hash"] == Store.open("rtp-mini").attributes.split_hash
    judged = json.loads(run("check", "rtp-mini", "--json"))
    assert [(found["level"], found["code"]) for found in judged["findings"]] == [
        ("warning", "slope-outlier"),
        ("warning", "duplicate"),
    ]
    assert judged["counts"]["nms"]["hessian"] == 1644
    assert {"quantity", "unit", "median", "largest"} <= set(judged["noise"][0])


def test_info_without_labels(run, tmp_path):
    structures = minima()[:3]
    bare = [type(s)(numbers=s.numbers, positions=s.positions, name=s.name) for s in structures]
    write_store(tmp_path / "bare.h5", bare, level_of_theory="none")
    assert "–" in run("info", tmp_path / "bare.h5")


def test_check(run, tmp_path):
    output = run("check", "rtp-mini")
    assert "3003 structures, no error, 2 warnings" in output
    assert output.count("0 of 21") == 2  # formulas of validation and of test that are in train
    assert "96 of 136" in output
    assert "max |Σ_j H_ij|" in output
    assert "read: 40 of 3003" in run("check", "rtp-mini", "--sample", "40")
    (tmp_path / "x.h5").write_text("no")
    with pytest.raises(DataError, match="not an HDF5 file"):
        run("check", tmp_path / "x.h5")


def test_split_moves_groups_and_keeps_content(run, tmp_path):
    output = run("split", "rtp-mini", "-o", tmp_path / "new.h5", "--fractions", "0.5,0.25,0.25", "--seed", "3")
    new, old = Store.open(tmp_path / "new.h5"), Store.open("rtp-mini")
    with h5py.File(old.path) as file:  # families are the 138 compositions: no reaction changes one
        groups, kinds = (np.char.decode(file[key][()]) for key in ("group", "kind"))
    assert len(set(groups)) == 138
    splits, frames = np.array(new.structure_splits), np.isin(kinds, ["irc", "nms"])
    home = {name: set(groups[(splits == name) & ~frames]) for name in ("train", "validation", "test")}
    assert {name: len(members) for name, members in home.items()} == {"train": 69, "validation": 35, "test": 34}
    assert not home["train"] & home["validation"] | home["test"] & (home["train"] | home["validation"])
    held = np.isin(groups, list(home["validation"]))
    assert set(splits[held]) == {"validation"}
    np.testing.assert_array_equal(splits[~held & frames], kinds[~held & frames])
    assert f"train {(splits == 'train').sum()}, validation {held.sum()}" in output.replace("\n", " ")
    assert new.attributes.content_hash == old.attributes.content_hash
    assert new.attributes.split_hash[:16] in output
    assert new.attributes.provenance.startswith(old.attributes.provenance)
    with pytest.raises(ConfigError, match="not three numbers"):
        run("split", "rtp-mini", "-o", tmp_path / "new.h5", "--fractions", "0.5")


def test_findings_end_with_status_2_and_are_listed(run, tmp_path):
    structures = [replace(s, hessian=s.hessian / 97.17) for s in minima()]
    write_store(tmp_path / "bad.h5", structures, level_of_theory="none")
    result = CliRunner().invoke(app, ["check", str(tmp_path / "bad.h5")])
    assert "error [hessian-unit]" in result.output
    assert "97.2 times too small: Hartree/Bohr² read as eV/Å²?" in result.output
    assert isinstance(result.exception, DataError)
    assert "1 errors among 225 structures" in str(result.exception)


def test_split_by_what(run, tmp_path):
    run("split", "rtp-mini", "-o", tmp_path / "new.h5", "--by", "composition")
    assert "split by composition" in Store.open(tmp_path / "new.h5").attributes.provenance
    assert "'colour' is not one of" in run("split", "rtp-mini", "-o", tmp_path / "x.h5", "--by", "colour")


def test_split_as_the_recipe_gives_the_bundled_split(run, tmp_path):
    """But for the frames of validation families: of these the recipe keeps every fourth in validation."""
    run("split", "rtp-mini", "-o", tmp_path / "same.h5", "--fractions", "0.7,0.15,0.15", "--seed", "135")
    new, old = Store.open(tmp_path / "same.h5"), Store.open("rtp-mini")
    thinned = {(a, b) for a, b in zip(new.structure_splits, old.structure_splits, strict=True) if a != b}
    assert thinned == {("validation", "irc"), ("validation", "nms")}
    held = [i for i, split in enumerate(new.structure_splits) if split == "validation" and old.kinds[i] in ("irc", "nms")]
    kept = [i for i in held if old.structure_splits[i] == "validation"]
    assert len(held) == 395
    assert len(kept) == 99


def test_build_dry_run(run, tmp_path):
    output = run("build", "configs/data/rtp-mini.yaml", "--dry-run", "-o", tmp_path / "x.h5")
    assert "DRYRUN" in output
    assert "odd number of electrons" in output
    assert not list(tmp_path.iterdir())
