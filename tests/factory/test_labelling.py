"""``hessgnn data label``: products against full Hessians, what they cost, and runs that are interrupted or refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.calculators.emt import EMT
from tblite.ase import TBLite
from typer.testing import CliRunner

from hessgnn.cli.data import app
from hessgnn.data.checks import examine
from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory import labelling
from hessgnn.factory.build import build, jobs_of, price_of_directions
from hessgnn.factory.label_parts import LabellingSettings
from hessgnn.factory.labelling import Labelling, choose
from hessgnn.factory.recipe import Recipe
from hessgnn.runtime.config import parse
from hessgnn.surface.engines.tblite import TBLiteEngine

KINDS = ("rademacher", "gaussian", "rows", "modes", "softest")
GFN2 = {"name": "tblite", "accuracy": 1e-5}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Store:
    """Six small structures, one of each sort, with everything."""
    bundled = Store.open("rtp-mini")
    order = sorted(bundled.indices("nms"), key=lambda i: (bundled.n_atoms[i], i))[4:60:10]
    path = tmp_path_factory.mktemp("small") / "small.h5"
    level, provenance = bundled.attributes.level_of_theory, bundled.attributes.provenance
    write_store(
        path, [bundled[int(i)] for i in order], level_of_theory=level, provenance=provenance, split_by="molecule"
    )
    return Store.open(path)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch) -> None:
    """Workers are tested elsewhere; here a call is a call."""

    def each(function, items, processes, **_) -> Iterator:
        return map(function, items)

    monkeypatch.setattr(labelling, "each", each)


def settings(**content):
    return parse(LabellingSettings, {"engine": GFN2} | content, where="test")


def rms(values, axis=None):
    return np.sqrt(np.mean(np.square(values), axis=axis))


def true_products(structure):
    vectors = structure.directions.vectors
    return (vectors.reshape(len(vectors), -1) @ structure.hessian).reshape(vectors.shape)


@pytest.mark.parametrize(("kind", "scheme"), [*((kind, "central") for kind in KINDS), ("rademacher", "one-sided")])
def test_products_agree_with_full_hessians_within_their_errors(small, tmp_path, kind, scheme):
    wanted = settings(directions={"kind": kind, "number": 4, "scheme": scheme})
    report = Labelling(small, wanted, tmp_path / "new.h5").run()
    store = Store.open(report.path)
    assert report.failed == {}
    inside, relative = [], []
    for structure in store:
        difference = rms(structure.directions.products - true_products(structure), axis=(1, 2))
        inside += list(difference <= structure.directions.errors)
        relative.append(rms(structure.directions.products - true_products(structure)) / rms(true_products(structure)))
    assert np.mean(inside) >= (0.9 if kind == "softest" else 0.95)  # the bundled Hessians are float32
    assert max(relative) < (1e-4 if scheme == "central" else 1e-3)
    assert set(store.directions(0).kinds) == {kind}
    calls = 8 * 4 + (2 if scheme == "central" else 1) * sum(store.n_directions)
    assert report.cost["gradients"] == calls
    assert report.cost.get("gradients_for_modes", 0) == (
        6 * (sum(small.n_atoms) + sum(small.n_atoms[[0, 2, 3, 5]])) if kind in ("modes", "softest") else 0
    )


def test_everything_else_stays(small, tmp_path):
    report = Labelling(small, settings(directions={}), tmp_path / "new.h5", [1, 3]).run()
    store = Store.open(report.path)
    assert store.n_directions.tolist() == [0, 1, 0, 1, 0, 0]
    for one, other in zip(store, small, strict=True):
        for key in ("numbers", "positions", "energy", "forces", "hessian", "hessian_asymmetry"):
            np.testing.assert_array_equal(getattr(one, key), getattr(other, key))
        assert [getattr(one, key) for key in ("name", "group", "kind", "split", "parent")] == [
            getattr(other, key) for key in ("name", "group", "kind", "split", "parent")
        ]
    old, new = small.attributes, store.attributes
    assert (new.split_hash, new.split_by, new.level_of_theory) == (old.split_hash, old.split_by, old.level_of_theory)
    told = yaml.safe_load(new.provenance)
    assert told["recipe"]["name"] == "rtp-mini"
    assert told["labelled"]["cost"]["gradients"] == report.cost["gradients"]
    assert told["labelled"]["settings"]["directions"]["kind"] == "rademacher"
    assert not examine(store).errors
    again = Labelling(store, settings(directions={}), tmp_path / "more.h5", [1]).run()
    more = Store.open(again.path)
    assert more.n_directions.tolist() == [0, 2, 0, 1, 0, 0]
    np.testing.assert_array_equal(more.directions(1).products[0], store.directions(1).products[0])
    assert {"labelled", "labelled-2"} < set(yaml.safe_load(more.attributes.provenance))


def test_missing_labels_are_computed_and_others_kept(small, tmp_path):
    bare = [replace(one, hessian=None, hessian_asymmetry=None) for one in small]
    bare[1], bare[2] = replace(bare[1], energy=None, forces=None), replace(bare[2], hessian=small.hessian(2))
    write_store(tmp_path / "bare.h5", bare, level_of_theory="GFN2-xTB")
    store = Store.open(tmp_path / "bare.h5")
    job = Labelling(store, settings(energy_forces=True), tmp_path / "ef.h5")
    assert job.todo == [1]
    assert job.price()["gradients"] == 1
    assert job.run().cost["gradients"] == 1
    full = Labelling(store, settings(hessian=True), tmp_path / "h.h5")
    assert full.todo == [0, 1, 3, 4, 5]
    report = full.run()
    assert report.cost["gradients"] == full.price()["gradients"] == 6 * sum(small.n_atoms[full.todo]) + 1
    found = Store.open(tmp_path / "h.h5")
    assert found.has_hessian.all()
    assert found.has_forces.all()
    np.testing.assert_allclose(found.hessian(0), small.hessian(0), atol=1e-3)
    np.testing.assert_array_equal(found.hessian(2), store.hessian(2))
    np.testing.assert_allclose(found[1].forces, small[1].forces, atol=1e-6)


def test_a_killed_run_resumes_and_processes_change_nothing(small, tmp_path, monkeypatch):
    wanted = settings(directions={"number": 2})
    whole = Store.open(Labelling(small, wanted, tmp_path / "whole.h5").run().path)
    kept = labelling.each

    def killed(function, items, processes, **_):
        for k, result in enumerate(kept(function, items, processes)):
            if function is labelling.label_part and k == 3:
                raise KeyboardInterrupt
            yield result

    target = tmp_path / "new.h5"
    with monkeypatch.context() as patch:
        patch.setattr(labelling, "each", killed)
        with pytest.raises(KeyboardInterrupt):
            Labelling(small, wanted, target).run()
    assert not target.exists()
    job = Labelling(small, wanted, target)
    assert job.finished() == 4
    assert (job.price()["gradients"], job.price()["lines"]) == (2 * 2 * 2, 0)  # lines are kept too
    worked = []

    def counted(function, items, processes, **_):
        worked.extend(item.indices[0] for item in items)
        return kept(function, items, processes)

    with monkeypatch.context() as patch:
        patch.setattr(labelling, "each", counted)
        report = job.run()
    assert worked == [4, 5]
    assert Store.open(target).attributes.content_hash == whole.attributes.content_hash
    assert report.cost["gradients"] == 8 * 4 + 2 * 2 * 6
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.h5", "new.h5.log", "whole.h5", "whole.h5.log"]
    assert "6/6 structures" in (tmp_path / "new.h5.log").read_text()


def test_workers_give_the_same(small, tmp_path, monkeypatch):
    alone = Labelling(small, settings(directions={}), tmp_path / "alone.h5").run()
    monkeypatch.undo()
    both = Labelling(small, settings(directions={}), tmp_path / "both.h5").run(processes=2)
    hashes = {Store.open(report.path).attributes.content_hash for report in (alone, both)}
    assert len(hashes) == 1
    assert alone.cost == both.cost


def test_another_level_is_refused(small, tmp_path):
    with pytest.raises(DataError, match="is at GFN2-xTB, and the engine computes GFN1-xTB"):
        Labelling(small, settings(engine={"name": "tblite", "method": "GFN1-xTB"}, directions={}), tmp_path / "x.h5")
    liar = {"name": "ase", "calculator": "test_labelling:gfn1", "level_of_theory": "GFN2-xTB"}
    with pytest.raises(DataError, match="its forces are not those of the engine: they differ by 0"):
        Labelling(small, settings(engine=liar, directions={}), tmp_path / "x.h5").run()
    assert list(tmp_path.iterdir()) == []


def gfn1():
    return TBLite(method="GFN1-xTB", verbosity=0)


class Shifted(TBLite):
    """Smooth forces that are off by more than their noise, as those of another machine or convergence may be."""

    def __init__(self):
        super().__init__(method="GFN2-xTB", accuracy=1e-5, verbosity=0)

    def calculate(self, *arguments, **keywords):
        super().calculate(*arguments, **keywords)
        self.results["forces"] = self.results["forces"] + 1e-3


def test_forces_that_are_off_are_computed_again(small, tmp_path):
    engine = {"name": "ase", "calculator": "test_labelling:Shifted", "level_of_theory": "GFN2-xTB"}
    wanted = settings(engine=engine, directions={"scheme": "one-sided"})
    report = Labelling(small, wanted, tmp_path / "new.h5").run()
    log = (tmp_path / "new.h5.log").read_text()
    assert "stored forces differ" in log
    assert report.cost["gradients"] == 8 * 4 + 2 * 6
    store = Store.open(report.path)
    np.testing.assert_array_equal(store[0].forces, small[0].forces)
    for one in store:
        assert rms(one.directions.products - true_products(one)) < one.directions.errors[0]


def test_failures_are_listed_and_leave_the_structure_as_it_was(small, tmp_path, monkeypatch):
    compute, bad = TBLiteEngine.compute, small[2].numbers.tobytes()

    def fails(engine, atoms):
        if atoms.numbers.tobytes() == bad and np.abs(atoms.positions - small[2].positions).max() > 1e-12:
            raise RuntimeError("SCF not converged")
        return compute(engine, atoms)

    alike = [i for i in range(6) if small[i].numbers.tobytes() == bad]
    with monkeypatch.context() as patch:
        patch.setattr(TBLiteEngine, "compute", fails)
        report = Labelling(small, settings(directions={}), tmp_path / "new.h5").run()
        assert report.failed == {small.names[i]: "the calculation failed: SCF not converged" for i in alike}
        with pytest.raises(DataError, match="nothing could be labelled: the calculation failed: SCF not converged"):
            Labelling(small, settings(directions={}), tmp_path / "none.h5", alike).run()
    store = Store.open(report.path)
    assert (store.n_directions == 0).tolist() == [i in alike for i in range(6)]
    assert yaml.safe_load(store.attributes.provenance)["labelled"]["failed"] == report.failed
    assert not (tmp_path / "none.h5").exists()
    assert not (tmp_path / "none.h5.parts").exists()
    assert Labelling(small, settings(directions={}), tmp_path / "none.h5", alike).run().failed == {}


def test_any_calculator_of_ase(tmp_path):
    """With a level of theory of its own, on a set that has no Hessian at all."""
    bundled = Store.open("rtp-mini")
    frames = [bundled[int(i)] for i in bundled.indices("nms")[:3]]
    labelled = []
    for one in frames:
        atoms = one.to_atoms()
        atoms.calc = EMT()
        labelled.append(replace(one, energy=atoms.get_potential_energy(), forces=atoms.get_forces(), hessian=None))
    write_store(tmp_path / "emt.h5", labelled, level_of_theory="EMT")
    engine = {"name": "ase", "calculator": "ase.calculators.emt:EMT", "level_of_theory": "EMT", "step": 1e-4}
    wanted = settings(engine=engine, directions={"kind": "gaussian", "number": 3}, hessian=True)
    report = Labelling(Store.open(tmp_path / "emt.h5"), wanted, tmp_path / "new.h5").run()
    for one in Store.open(report.path):
        difference = rms(one.directions.products - true_products(one), axis=(1, 2))
        assert (difference <= one.directions.errors + 1e-4).all()


def test_recipes_with_products_instead_of_hessians(tmp_path):
    recipe = {
        "name": "small",
        "geometries": [{"source": "g2", "names": ["H2O", "HCN"]}],
        "displaced": {"frames": {"minimum": 1}},
        "split": {"fractions": {"train": 1.0}},
        "labels": {"hessian": False, "directions": {"kind": "rademacher", "number": 2}},
    }
    parsed = parse(Recipe, recipe, where="test")
    report = build(parsed, tmp_path / "small.h5")
    store = Store.open(report.path)
    assert not store.has_hessian.any()
    assert store.n_directions.tolist() == [2, 2, 2, 2]
    full = build(parse(Recipe, recipe | {"labels": {}}, where="test"), tmp_path / "full.h5")
    for one, other in zip(store, Store.open(full.path), strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)
        products = (one.directions.vectors.reshape(2, -1) @ other.hessian).reshape(2, -1, 3)
        assert rms(one.directions.products - products) / rms(products) < 1e-4
    told, before = (yaml.safe_load(Store.open(x.path).attributes.provenance)["tasks"]["H2O"] for x in (report, full))
    lines = 6 * 4 + 2
    assert told["gradients"] == before["gradients"] - 18 + lines + 2 * 2 * 2
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    output = CliRunner().invoke(app, ["build", str(tmp_path / "recipe.yaml"), "-o", "none.h5", "--dry-run"]).output
    assert f"products of at most 4 structures cost at most {2 * lines + 4 * 2 * 2} gradient calls" in output
    assert price_of_directions(parse(Recipe, recipe | {"labels": {}}, where="test"), jobs_of(parsed)[0]) == (4, 0)


def test_old_recipes_keep_their_parts():
    """The digest of a recipe without the section is what it was before there was one."""
    recipe = parse(Recipe, {"name": "x", "geometries": [{"source": "g2", "names": ["H2O"]}]}, where="test")
    job = jobs_of(recipe)[0][0]
    content = recipe.model_dump_json(
        exclude={"name", "description", "geometries", "reactions", "pairs", "split", "resolution", "labels"}
    )
    assert job.digest(recipe) == hashlib.sha256(content.encode() + b"H2O" + job.identity()).hexdigest()[:16]
    other = recipe.model_copy(update={"labels": parse(type(recipe.labels), {"hessian": False}, where="test")})
    assert job.digest(other) != job.digest(recipe)


def test_the_dry_run_knows_how_many_directions_there_are(small, tmp_path):
    """None beyond 3N rows, as many random ones as are asked for, and none of a crystal's vibrations."""
    crystal = replace(small[0], cell=np.eye(3) * 9, pbc=[True] * 3, hessian=None, hessian_asymmetry=None)
    write_store(tmp_path / "few.h5", [crystal, *list(small)[1:3]], level_of_theory="GFN2-xTB")
    store, calls = Store.open(tmp_path / "few.h5"), 3 * small.n_atoms[:3]

    def price(store, kind, number=60):
        wanted = settings(directions={"kind": kind, "number": number, "scheme": "one-sided"})
        return Labelling(store, wanted, tmp_path / "rows.h5").price()

    lines = 8 * 3
    assert price(store, "gaussian") == {"gradients": lines + 180, "hessians": 0, "lines": lines, "full": 2 * sum(calls)}
    for kind in ("rows", "modes"):
        assert price(store, kind)["gradients"] == lines + sum(calls)
    report = Labelling(store, settings(directions={"kind": "softest"}), tmp_path / "soft.h5").run()
    assert report.failed == {small.names[0]: "softest modes are those of molecules, and it is periodic"}
    found = price(store, "softest", 2)  # the crystal costs nothing
    assert (found["gradients"], found["gradients_for_modes"]) == (8 * 2 + 2 * 2, 4 * sum(calls[1:]))

    molecules = Labelling(small, settings(directions={"kind": "rows", "number": 60}), tmp_path / "rows.h5", [1, 2])
    assert molecules.run().cost["gradients"] == molecules.price()["gradients"] == 8 * 2 + 2 * sum(calls[1:])
    every = Store.open(tmp_path / "rows.h5")
    with pytest.raises(DataError, match="every structure has all its directions of kind 'rows' already"):
        Labelling(every, settings(directions={"kind": "rows"}), tmp_path / "more.h5", [1, 2])
    again = Labelling(every, settings(directions={"kind": "rows"}), tmp_path / "more.h5")
    assert again.todo == [0, 3, 4, 5]


def write_odd_names(store, path):
    """A comment sign and a character that is a line break for some; both are names of their own."""
    structures = [replace(store[i], name=name, parent="") for i, name in enumerate(("#C", "u\u2028v", "u"))]
    write_store(path, structures, level_of_theory=store.attributes.level_of_theory)
    return Store.open(path)


def test_structures_are_chosen(small, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text(f"# two\n{small.names[3]}\n\n{small.names[1]}\n")
    assert choose(small, names, None) == [3, 1]
    odd = write_odd_names(small, tmp_path / "odd.h5")
    names.write_text("#C\nu\u2028v\n", encoding="utf-8")
    assert choose(odd, names, None) == [0, 1]
    assert choose(small, None, "nms") == list(range(6))
    assert choose(small, None, None) is None
    names.write_text("nobody\n")
    with pytest.raises(DataError, match=r"no structure 'nobody'.*|names.txt, line 1"):
        choose(small, names, None)
    with pytest.raises(DataError, match="cannot be read"):
        choose(small, tmp_path / "absent.txt", None)
    names.write_text("\n")
    with pytest.raises(DataError, match="names no structure"):
        choose(small, names, None)


def run(*arguments):
    result = CliRunner().invoke(app, ["label", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_command_line(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = [small.path, "-o", "new.h5", "--directions", "rademacher", "--number", "2"]
    output = run(*arguments, "--dry-run")
    assert f"{8 * 4 + 2 * 2 * 6} gradient calls" in output
    assert f"{8 * 4} of them for the step" in output
    assert f"{6 * sum(small.n_atoms):,} gradient calls for full Hessians" in output
    assert "would cost less" not in output
    assert "would cost less" in run(small.path, "-o", "new.h5", "--directions", "rows", "--number", "99", "--dry-run")
    assert list(tmp_path.iterdir()) == []
    output = run(*arguments)
    last = f"6 structures labelled, 0 failed, in new.h5: {8 * 4 + 2 * 2 * 6} gradient calls"
    assert last in output
    written = Path("new.h5").stat().st_mtime_ns
    for again in (arguments, [*arguments, "--dry-run"]):
        output = run(*again)
        assert "new.h5 is finished: an earlier run of the same command wrote it" in output
        assert last in output
    for other in ([*arguments, "--seed", "1"], ["new.h5", *arguments[1:]], ["rtp-mini", *arguments[1:]]):
        with pytest.raises(DataError, match="exists already"):
            run(*other)
    assert Path("new.h5").stat().st_mtime_ns == written
    Path("more.yaml").write_text(
        yaml.safe_dump({"engine": GFN2, "labels": {"directions": {"kind": "softest", "step": 0.002}}})
    )
    run("new.h5", "-o", "more.h5", "--config", "more.yaml", "--number", "3")
    told = yaml.safe_load(Store.open("more.h5").attributes.provenance)["labelled-2"]
    assert told["settings"]["directions"]["number"] == 3
    assert told["settings"]["directions"]["step"] == 0.002
    assert not told["settings"]["hessian"]
    assert Store.open("more.h5").directions(0).kinds == ("rademacher", "rademacher", "softest", "softest", "softest")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is nothing to compute"),
        (["--directions", "rademaher"], "no such kind of direction"),
        (["--directions", "rows", "--step", "wide"], "neither auto nor a number"),
        (["--directions", "rows", "--engine", "gaussian"], "no such name"),
        (["--directions", "modes", "--source", "gaussian"], "no such name"),
        (["--directions", "rows", "--split", "nowhere"], "has no split"),
    ],
)
def test_mistakes_on_the_command_line(small, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ConfigError, DataError), match=message):
        run(small.path, "-o", "new.h5", *arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_nobody_names(small, tmp_path):
    path = tmp_path / "anonymous.h5"
    write_store(path, list(small), level_of_theory="GFN2-xTB", provenance="a citation")
    with pytest.raises(ConfigError, match="does not say which engine"):
        run(path, "-o", tmp_path / "new.h5", "--directions", "rows")
    run(path, "-o", tmp_path / "new.h5", "--directions", "rows", "--engine", "tblite")
    told = yaml.safe_load(Store.open(tmp_path / "new.h5").attributes.provenance)
    assert told["provenance"] == "a citation"
    assert told["labelled"]["structures"] == 6
    run(tmp_path / "new.h5", "-o", tmp_path / "more.h5", "--directions", "rows")  # the engine is on record now
    assert Store.open(tmp_path / "more.h5").n_directions.tolist() == [2] * 6


@pytest.mark.parametrize(
    "engine", ["{name: ase, calculator: 'hostile:make', level_of_theory: GFN2-xTB}", "{name: 'hostile:Own'}"]
)
@pytest.mark.parametrize("record", ["recipe: {{engine: {engine}}}", "labelled: {{settings: {{engine: {engine}}}}}"])
def test_a_set_of_a_stranger_runs_no_code(small, tmp_path, monkeypatch, engine, record):
    monkeypatch.chdir(tmp_path)
    Path("hostile.py").write_text("import pathlib\npathlib.Path('ran').touch()\n", encoding="utf-8")
    provenance = record.format(engine=engine)
    write_store(tmp_path / "theirs.h5", list(small), level_of_theory="GFN2-xTB", provenance=provenance)
    with pytest.raises(ConfigError, match="names one that runs code"):
        run("theirs.h5", "-o", "new.h5", "--directions", "rows")
    assert not Path("ran").exists()
    assert not Path("new.h5").exists()
