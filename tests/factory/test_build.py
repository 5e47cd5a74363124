import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from ase.build import molecule

from hessgnn.data.checks import check
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError, DataError
from hessgnn.factory import build as build_module
from hessgnn.factory.build import MoleculeJob, assign_splits, build, jobs_of, part_path
from hessgnn.factory.recipe import Recipe, require_same
from hessgnn.runtime.config import load, parse
from hessgnn.runtime.files import find_resource

SMALL = {
    "name": "small",
    "geometries": [{"source": "g2", "names": ["H2O", "HCN", "CH3"]}],
    "displaced": {"frames": {"minimum": 2}},
    "split": {"fractions": {"train": 1.0}},
}


@pytest.fixture(scope="module")
def recipe():
    return parse(Recipe, SMALL, where="test")


@pytest.fixture(scope="module")
def built(recipe, tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "small.h5"
    return build(recipe, output), Store.open(output)


def test_report_and_content(built):
    report, store = built
    assert (report.jobs, report.structures) == (2, 6)
    assert report.skipped == {"CH3": "odd number of electrons"}
    assert report.failed == {}
    assert store.splits == {"train": 2, "nms-known": 4}
    assert store.names[:3] == ["H2O", "H2O/nms-0", "H2O/nms-1"]
    assert set(store.attributes.versions) >= {"tblite", "ase"}
    told = yaml.safe_load(store.attributes.provenance)
    assert told["skipped"] == report.skipped
    assert told["tasks"]["H2O"]["gradients"] > 54  # at least three Hessians of nine coordinates
    assert check(store) == []
    for i in store.indices("nms-known"):
        minimum = store[store.names.index(store.parents[i])]
        assert store.groups[i] == minimum.group
        assert 0 < store.energies[i] - minimum.energy <= Recipe(name="x").displaced.max_energy


def test_nothing_is_left_lying_about(built):
    assert [path.name for path in built[0].path.parent.iterdir()] == ["small.h5"]


def parts_of(recipe, output, store):
    """Write what was built as finished parts."""
    jobs, _ = jobs_of(recipe)
    for job in jobs:
        frames = [s for s in store if s.name.split("/")[0] == job.name]
        told = '{"facts": {}, "failed": {}}'
        path = part_path(output, recipe, job)
        write_store(path, frames, level_of_theory="GFN2-xTB", provenance=told, hessian_dtype="float64")


def test_what_is_finished_is_not_computed_again(recipe, built, tmp_path, monkeypatch):
    output = tmp_path / "small.h5"
    parts_of(recipe, output, built[1])
    monkeypatch.setattr(build_module, "_work_on", lambda *_: pytest.fail("something was computed again"))
    build(recipe, output)
    assert Store.open(output).attributes.content_hash == built[1].attributes.content_hash


def test_a_file_of_another_recipe_is_not_replaced(recipe, built, tmp_path, monkeypatch):
    output = tmp_path / "small.h5"
    output.write_bytes(built[0].path.read_bytes())
    before = output.read_bytes()
    changed = [{"seed": 9}, {"split": recipe.split.model_copy(update={"seed": 9})}, {"resolution": 1e-3}]
    for content in (*changed, {"labels": parse(type(recipe.labels), {"hessian": False}, where="test")}):
        with pytest.raises(DataError, match="exists already, and is not what this recipe makes"):
            build(recipe.model_copy(update=content), output)
    names = [job.name for job in jobs_of(recipe)[0]]
    with pytest.raises(DataError, match="exists already"):  # it would lose a molecule
        require_same(recipe, names[1:], output)
    require_same(recipe, [*names, "one more"], output)
    other = tmp_path / "other.h5"
    write_store(other, list(built[1]), level_of_theory="GFN2-xTB")
    for path, content in ((other, None), (tmp_path / "notes.txt", "mine")):
        if content is not None:
            path.write_text(content)
        with pytest.raises(DataError, match="exists already"):
            require_same(recipe, names, path)
    assert output.read_bytes() == before
    parts_of(recipe, output, built[1])
    monkeypatch.setattr(build_module, "_work_on", lambda *_: pytest.fail("something was computed again"))
    build(recipe.model_copy(update={"description": "the same"}), output)
    assert Store.open(output).attributes.content_hash == built[1].attributes.content_hash


def test_parts_belong_to_one_recipe(recipe, tmp_path):
    job = jobs_of(recipe)[0][0]
    here = part_path(tmp_path / "x.h5", recipe, job)
    other_split = recipe.model_copy(update={"split": recipe.split.model_copy(update={"seed": 9})})
    other_seed = recipe.model_copy(update={"seed": 9})
    moved = MoleculeJob(job.name, job.start.copy())
    moved.start.positions += 0.01
    assert part_path(tmp_path / "x.h5", other_split, job) == here
    assert part_path(tmp_path / "x.h5", other_seed, job) != here
    assert part_path(tmp_path / "x.h5", recipe, moved) != here


def test_failures_are_listed_and_do_not_stop_the_others(tmp_path, capsys):
    content = SMALL | {"minimum": {"max_steps": 5}, "geometries": [{"source": "g2", "names": ["H2", "CH3OH"]}]}
    report = build(parse(Recipe, content, where="test"), tmp_path / "small.h5")
    assert report.jobs == 1
    assert list(report.failed) == ["CH3OH"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[build small] ")]
    assert sorted(line.split(" ", 3)[3] for line in lines) == ["CH3OH: failed", "H2"]
    assert "not optimised" in report.failed["CH3OH"]
    assert yaml.safe_load(Store.open(report.path).attributes.provenance)["failed"] == report.failed


def test_nothing_at_all_is_an_error(tmp_path):
    content = SMALL | {"minimum": {"max_steps": 1}}
    with pytest.raises(DataError, match=r"nothing could be labelled.*HCN: not optimised"):
        build(parse(Recipe, content, where="test"), tmp_path / "small.h5")
    assert not (tmp_path / "small.h5").exists()
    with pytest.raises(ConfigError, match="asks for nothing"):
        build(Recipe(name="x"), tmp_path / "x.h5")


def test_training_must_show_every_element(built):
    recipe = parse(Recipe, SMALL | {"split": {"fractions": {"train": 0.5, "test": 0.5}}}, where="test")
    with pytest.raises(DataError, match="training split has no"):
        assign_splits(recipe, list(built[1]))


def test_a_small_expensive_set(tmp_path):
    """Minima begin at those of a cheap engine, only they have Hessians, and frames stay with them."""
    content = SMALL | {
        "geometries": [{"source": "g2", "names": ["H2O", "HCN", "H2O2", "NH3", "CH3OH"]}],
        "labels": {"hessian": "stationary"},
        "split": {"by": "composition", "frames": "together", "fractions": {"train": 0.6, "test": 0.4}, "seed": 1},
    }
    told = []
    for k, first in enumerate((None, {"name": "tblite", "method": "GFN1-xTB"})):
        recipe = parse(Recipe, content | {"minimum": {"fmax": 1e-3, "first": first}}, where="test")
        store = Store.open(build(recipe, tmp_path / f"{k}.h5").path)
        assert store.splits == {"train": 9, "test": 6}
        assert [kind == "minimum" for kind in store.kinds] == store.has_hessian.tolist()
        tasks = yaml.safe_load(store.attributes.provenance)["tasks"].values()
        told.append([facts["gradients_to_minimum"] for facts in tasks])
    assert sum(told[1]) < sum(told[0])
    with pytest.raises(ConfigError, match="frames: together"):
        parse(Recipe, content | {"split": {"by": "structure", "frames": "together"}}, where="test")


def test_validation_holds_the_frames_of_its_families(built):
    frames = [replace(built[1][1], name=f"f{k}", parent="H2O") for k in range(12)]
    structures = [built[1][0], *frames, Structure.from_atoms(molecule("H2O2"), name="other", kind="minimum")]
    placed = {}
    for seed in range(8):  # one of them draws the molecule of the frames for validation
        split = {"fractions": {"validation": 0.5, "train": 0.5}, "seed": seed}
        with contextlib.suppress(DataError):
            made = assign_splits(parse(Recipe, SMALL | {"split": split}, where="test"), structures)
            placed[made[-1].split] = made
    assert [s.split for s in placed["train"]] == ["validation-stationary", *["validation"] * 12, "train"]
    assert [s.split for s in placed["validation"]] == ["train", *["nms-known"] * 12, "validation"]  # no frames there
    assert {s.group for s in placed["train"]} == {"H2O", "other"}


def test_rounded_hessians_lie_on_their_grid_and_near_the_truth(recipe, built, tmp_path):
    rounded = recipe.model_copy(update={"resolution": 1.5e-5})
    output = tmp_path / "small.h5"
    parts_of(rounded, output, built[1])
    build(rounded, output)
    for one, other in zip(Store.open(output), built[1], strict=True):
        assert (one.hessian * 2**17 % 1 == 0).all()
        assert np.abs(one.hessian - other.hessian).max() <= 2**-18
        assert (one.hessian == one.hessian.T).all()


@pytest.mark.slow
def test_a_build_killed_at_random_moments_ends_in_the_same_content(recipe, built, tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL | {"displaced": {"frames": {"minimum": 2}}}))
    command = [sys.executable, "-m", "hessgnn", "data", "build", "small.yaml", "--processes", "2"]
    rng = np.random.default_rng(0)
    for _ in range(3):
        process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(rng.uniform(2.0, 6.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, cwd=tmp_path, check=False, stdout=subprocess.DEVNULL).returncode == 0
    found = Store.open(tmp_path / "small.h5")
    found.verify()
    assert found.names == built[1].names
    for one, other in zip(found, built[1], strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-6)
        np.testing.assert_allclose(one.hessian, other.hessian, atol=1e-3)
    assert [path.name for path in tmp_path.glob("small.h5*")] == ["small.h5"]


@pytest.mark.slow
def test_workers_end_with_a_killed_parent(tmp_path):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    command = [sys.executable, "-m", "hessgnn", "data", "build", "small.yaml", "--processes", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not tell the children of a process")
    workers: list[str] = []
    deadline = time.monotonic() + 60
    while len(workers) < 3 and process.poll() is None and time.monotonic() < deadline:
        workers = children.read_text().split()
        time.sleep(0.05)
    process.kill()
    process.wait()
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline + 30:
        time.sleep(0.1)
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


@pytest.mark.slow
def test_rebuilding_gives_the_bundled_numbers(tmp_path):
    pytest.importorskip("sella", reason="the extra hessgnn[factory] is not installed")
    shipped = load(Recipe, find_resource(Path("configs/data/rtp-mini.yaml")))
    geometries = [shipped.geometries[0].model_copy(update={"names": ["CH3OH", "NH3"]})]
    wanted = shipped.reactions.model_copy(update={"names": ["hydrogen-shift/hcn-hnc"], "limit": None})
    fewer = {
        "geometries": geometries,
        "reactions": wanted,
        "split": shipped.split.model_copy(update={"fractions": {"train": 1.0}}),
    }
    build(shipped.model_copy(update=fewer), tmp_path / "again.h5", processes=multiprocessing.cpu_count())
    bundled = Store.open("rtp-mini")
    again = Store.open(tmp_path / "again.h5")
    assert {"hydrogen-shift/hcn-hnc/ts", "CH3OH", "NH3"} & set(again.names)
    for structure in again:
        if structure.name not in bundled.names:
            continue
        expected = bundled[bundled.names.index(structure.name)]
        assert structure.energy == pytest.approx(expected.energy, abs=1e-4)
        stationary = structure.kind in ("minimum", "reactant", "product", "transition-state")
        if stationary:
            found, there = (np.linalg.eigvalsh(one.hessian) for one in (replace(structure), expected))
            np.testing.assert_allclose(found, there, atol=2e-3)
