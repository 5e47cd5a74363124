import json
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from hessgnn.cli.data import app
from hessgnn.data import checks
from hessgnn.data.checks import examine
from hessgnn.data.directions import Directions
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory import geometries
from hessgnn.factory.smiles import conformers


@pytest.fixture(scope="module", autouse=True)
def _examined_once():
    """The bundled data are examined once for all their tables: it takes a second, and reports are immutable."""
    reports = {}

    def once(store, *, sample=None):
        key = store.path, store.attributes.content_hash, sample
        if key not in reports:
            reports[key] = examine(store, sample=sample)
        return reports[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "examine", once)
        yield


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
    assert "H 337, C 333, N 165, O 215" in output
    assert all(part in output for part in ("minimum 130", "transition-state 70", "irc 168", "nms 1170"))
    assert "nms 146, irc 48 " in output
    assert "413" in run("info", "rtp-mini-random")


@pytest.mark.parametrize("width", [80, 120])
def test_tables_fit_the_terminal(run, monkeypatch, width):
    """Nothing is cut and no number is broken over two lines."""
    monkeypatch.setenv("COLUMNS", str(width))
    for verb in ("info", "check"):
        output = run(verb, "rtp-mini")
        assert "…" not in re.sub(r"\d…\d", "", output.replace("', …)", ""))  # ranges, and the end of a list
        wide = ("content", "warning")  # one line each, for the terminal to wrap
        assert all(len(line) <= width for line in output.splitlines() if not line.startswith(wide))


def test_json(run):
    described = json.loads(run("info", "rtp-mini", "--json"))
    assert described["splits"]["train"]["elements"] == {"H": 337, "C": 333, "N": 165, "O": 215}
    assert described["split_hash"] == Store.open("rtp-mini").attributes.split_hash
    judged = json.loads(run("check", "rtp-mini", "--json"))
    assert [(finding["level"], finding["code"]) for finding in judged["findings"]] == [
        ("warning", "slope-outlier"),
        ("warning", "duplicate"),
    ]
    assert judged["counts"]["nms"]["hessian"] == 395
    assert judged["familiar"] == {"test": [124, 0], "irc": [168, 0], "nms": [395, 0]}
    assert {"quantity", "unit", "median", "largest"} <= set(judged["noise"][0])


def test_info_without_labels(run, tmp_path):
    structures = [s for s in Store.open("rtp-mini") if s.kind == "minimum"][:3]
    bare = [type(s)(numbers=s.numbers, positions=s.positions, name=s.name) for s in structures]
    write_store(tmp_path / "bare.h5", bare, level_of_theory="none")
    assert "–" in run("info", tmp_path / "bare.h5")


@pytest.fixture(scope="module")
def directed(tmp_path_factory):
    """Twenty structures with two products each, half of them with a Hessian too."""
    rng, made = np.random.default_rng(0), []
    for k, structure in enumerate(s for s in Store.open("rtp-mini") if s.kind == "minimum" and len(s) < 8):
        vectors = rng.choice([-1.0, 1.0], (2, 3 * len(structure)))
        products = vectors @ structure.hessian + 1e-3 * rng.normal(size=vectors.shape)
        shape = (2, len(structure), 3)
        given = Directions.make(vectors.reshape(shape), products.reshape(shape), "rademacher", errors=1e-3)
        made.append(replace(structure, directions=given, hessian=structure.hessian if k % 2 else None))
        if len(made) == 20:
            break
    path = tmp_path_factory.mktemp("directed") / "directed.h5"
    write_store(path, made, level_of_theory="GFN2-xTB", provenance="tasks: {a: {gradients: 80}}")
    return Store.open(path)


def test_directions_are_described_and_checked(run, directed):
    described = run("info", directed.path)
    assert "directions: products H·v" in described
    heading = next(line.split() for line in described.splitlines() if line.split()[:2] == ["split", "number"])
    assert heading[-2:] == ["Hessian", "H·v"]
    assert "H·v" not in run("info", "rtp-mini")
    assert "rademacher" in described
    assert "gradient calls, as recorded in the provenance: 80" in described
    checked = run("check", directed.path)
    assert "20 structures, no error" in checked
    assert "stored error (products)" in checked
    as_json = json.loads(run("info", directed.path, "--json"))
    assert as_json["gradients"] == 80
    assert sum(found["directions"]["rademacher"] for found in as_json["splits"].values()) == 40
    as_json = json.loads(run("check", directed.path, "--json"))
    assert sum(counts["directions"] for counts in as_json["counts"].values()) == 20
    noise = {measured["quantity"]: measured["median"] for measured in as_json["noise"]}
    assert noise["stored error (products)"] == pytest.approx(1e-3)
    assert noise["Σ_i(Hv)_i (products)"] == pytest.approx(1e-3, rel=0.5)


@pytest.mark.parametrize("verb", ["info", "check"])
def test_tables_of_directions_fit_the_terminal(run, directed, monkeypatch, verb):
    monkeypatch.setenv("COLUMNS", "80")
    output = re.sub(r"\d…\d", "", run(verb, directed.path).replace("', …)", ""))
    assert "…" not in output
    assert all(len(line) <= 80 for line in output.splitlines() if not line.startswith(("content", "warning")))


def test_broken_directions_end_with_an_error(run, directed, tmp_path):
    spoilt = [replace(s, directions=replace(s.directions, products=-s.directions.products)) for s in directed]
    write_store(tmp_path / "a.h5", spoilt, level_of_theory="GFN2-xTB")
    with pytest.raises(DataError, match="1 errors among 20 structures"):
        run("check", tmp_path / "a.h5")


def test_check(run, tmp_path):
    output = run("check", "rtp-mini")
    assert "3003 structures, no error, 2 warnings" in output
    assert "known molecules*: test 0 of 124, irc 0 of 168, nms 0 of 395" in output
    assert "isomers share a formula" in output
    random = run("check", "rtp-mini-random")
    assert "known molecules*: test 28 of 51, irc 776 of 776, nms 1665 of 1711" in random
    assert "warning [leakage]: split over structures, as intended" in random
    assert "max |Σ_j H_ij|" in output
    assert "read: 40 of 3003" in run("check", "rtp-mini", "--sample", "40")
    (tmp_path / "x.h5").write_text("no")
    with pytest.raises(DataError, match="not an HDF5 file"):
        run("check", tmp_path / "x.h5")


def test_split_moves_groups_and_keeps_content(run, tmp_path):
    old = Store.open("rtp-mini")
    names = ("C", "C#CC#C", "C1CC1", "C#CCO", "C3H9N", "C6H6")
    small = [i for i, name in enumerate(old.names) if name.split("/")[0] in names]
    write_store(tmp_path / "old.h5", [old[i] for i in small], level_of_theory="GFN2-xTB", provenance="six formulas")
    old = Store.open(tmp_path / "old.h5")
    arguments = ("--by", "composition", "--fractions", "0.5,0.17,0.33", "--seed", "3")
    output = run("split", tmp_path / "old.h5", "-o", tmp_path / "new.h5", *arguments)
    new = Store.open(tmp_path / "new.h5")
    where = {
        split: {g for g, s in zip(new.groups, new.structure_splits, strict=True) if s == split} for split in new.splits
    }
    assert [len(where[split]) for split in ("train", "validation", "test")] == [3, 1, 2]
    assert where["train"] | where["validation"] | where["test"] == set(old.groups)
    assert f"train {new.splits['train']}" in output.replace("\n", " ")
    kept = [k for k, s in zip(new.kinds, new.structure_splits, strict=True) if s in ("train", "test")]
    assert not {"nms", "irc"} & set(kept)
    assert new.attributes.content_hash == old.attributes.content_hash
    assert new.attributes.split_hash[:16] in output
    assert new.attributes.provenance.startswith(old.attributes.provenance)
    before = (tmp_path / "new.h5").read_bytes()
    with pytest.raises(DataError, match="exists already"):
        run("split", "rtp-mini", "-o", tmp_path / "new.h5")
    assert (tmp_path / "new.h5").read_bytes() == before
    with pytest.raises(ConfigError, match="not three numbers"):
        run("split", "rtp-mini", "-o", tmp_path / "new.h5", "--fractions", "0.5")


def test_findings_end_with_status_2_and_are_listed(run, tmp_path):
    store = Store.open("rtp-mini")
    chosen = [store[i] for i in [i for i, kind in enumerate(store.kinds) if kind == "minimum"][:57]]
    structures = [replace(s, hessian=s.hessian / 97.17) for s in chosen]
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
    run("split", "rtp-mini", "-o", tmp_path / "same.h5", "--fractions", "0.66,0.1,0.24", "--seed", "246")
    new, old = Store.open(tmp_path / "same.h5"), Store.open("rtp-mini")
    assert new.attributes.split_hash == old.attributes.split_hash
    assert new.attributes.split_by == old.attributes.split_by == "molecule"


def test_build_dry_run(run, tmp_path, monkeypatch):
    def one_conformer(smiles, *, number, seed):
        assert number == 20
        return conformers(smiles, number=1, seed=seed)

    monkeypatch.setattr(geometries, "conformers", one_conformer)  # the list names molecules, not their shapes
    output = run("build", "configs/data/rtp-mini.yaml", "--dry-run", "-o", tmp_path / "x.h5")
    assert "426 molecules and reactions, 0 of them finished" in output
    assert "addition/acetone+h2o" in output
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
