"""Where trials are kept: journal, SQLite, and what cannot be used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_store import write_tiny_store

from hessgnn.data.store.store import Store, write_store
from hessgnn.errors import ConfigError
from hessgnn.sweep.config import SweepConfig
from hessgnn.sweep.storage import (
    create_study,
    journal_path,
    mend_journal,
    open_storage,
    prepare_sweep,
    storage_of,
    without_password,
)

MakeSweep = Callable[..., SweepConfig]


def test_a_journal_is_in_the_folder_or_where_it_is_named(make_sweep: MakeSweep, tmp_path: Path) -> None:
    assert journal_path(make_sweep(), tmp_path) == tmp_path / "study.journal"
    named = make_sweep(storage=f"journal:{tmp_path / 'shared' / 'x.journal'}")
    assert journal_path(named, tmp_path) == tmp_path / "shared" / "x.journal"
    assert journal_path(make_sweep(storage="sqlite:///x.db"), tmp_path) is None
    prepare_sweep(named, tmp_path / "folder", True)
    assert (tmp_path / "shared" / "x.journal").stat().st_size > 0
    assert not (tmp_path / "folder" / "study.journal").exists()


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_a_study_of_other_settings_is_refused_with_the_difference(
    make_sweep: MakeSweep, tmp_path: Path, storage: str | None
) -> None:
    url = None if storage is None else f"sqlite:///{tmp_path / 'studies.db'}"
    folder = tmp_path / "sweep"
    prepare_sweep(make_sweep(storage=url), folder, True)
    prepare_sweep(make_sweep(storage=url, budget={"trials": 9}, workers=1), folder, True)
    (folder / "sweep.yaml").unlink()  # as another machine, which has no such folder
    space = {"loss.forces": {"low": 0.01, "high": 10.0, "log": True}}
    space["loss.hessian"] = {"low": 1e-3, "high": 1.0, "log": True}
    other = make_sweep(storage=url, space=space)
    with pytest.raises(
        ConfigError, match=r"other settings \(space\.loss\.hessian\.low: 0\.0001 became 0\.001\).*new `name`"
    ):
        prepare_sweep(other, folder, True)
    prepare_sweep(make_sweep(storage=url, name="another", space=space), tmp_path / "other", True)


def test_other_data_of_the_same_name_are_refused(make_sweep: MakeSweep, tmp_path: Path) -> None:
    path = write_tiny_store(tmp_path / "data.h5")
    config = make_sweep(base={"data": {"path": str(path)}})
    prepare_sweep(config, tmp_path / "sweep", True)
    structures = list(Store.open(path))
    path.unlink()
    write_store(path, structures[1:], level_of_theory="GFN2-xTB")
    with pytest.raises(ConfigError, match=r"data\.content_hash: '\w+' became"):
        prepare_sweep(config, tmp_path / "sweep", True)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////no/such/folder/x.db",
        "nonsense://x",
        "postgresql://nobody:secret@127.0.0.1:1/x",
        "journal:/proc/no/such/folder/x",
    ],
)
def test_a_storage_that_cannot_be_used_is_told_in_one_line(make_sweep: MakeSweep, tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare_sweep(make_sweep(storage=url), tmp_path, True)
    message = str(caught.value)
    assert "\n" not in message
    assert "cannot be used" in message or "not installed" in message
    assert url.replace("secret", "***") in message
    assert "secret" not in message
    assert not (tmp_path / "sweep.yaml").exists()


def test_many_may_open_a_new_database_at_the_same_moment(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep(storage=f"sqlite:///{tmp_path / 'new.db'}")
    together = threading.Barrier(4)

    def opened(_: int) -> list[Any]:
        together.wait()
        with storage_of(config, tmp_path) as storage:
            return storage.get_all_studies()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(opened, range(4))) == [[]] * 4


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://me:s3:cret@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("journal:/shared/x", "journal:/shared/x"),
        (None, None),
    ],
)
def test_a_password_is_not_shown(url: str | None, shown: str | None) -> None:
    assert without_password(url) == shown


def test_what_a_killed_process_left_in_the_journal_is_mended(make_sweep: MakeSweep, tmp_path: Path) -> None:
    config = make_sweep()
    prepare_sweep(config, tmp_path, True)
    journal = tmp_path / "study.journal"
    before = journal.read_bytes()
    with journal.open("a") as file:
        file.write('{"op_code":8,"trial_')
    (tmp_path / "study.journal.lock").symlink_to(journal)
    mend_journal(journal)
    assert journal.read_bytes() == before
    assert not (tmp_path / "study.journal.lock").is_symlink()


def test_a_journal_that_is_none_is_refused_and_kept(make_sweep: MakeSweep, tmp_path: Path) -> None:
    (tmp_path / "study.journal").write_text("not a journal\nat all\n")
    with pytest.raises(ConfigError, match="storage cannot be used"):
        prepare_sweep(make_sweep(), tmp_path, True)
    assert (tmp_path / "study.journal").read_text() == "not a journal\nat all\n"


def test_studies_of_two_sweeps_share_a_storage(make_sweep: MakeSweep, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for name in ("one", "two"):
        prepare_sweep(make_sweep(storage=url, name=name), tmp_path / name, True)
    storage = open_storage(make_sweep(storage=url), tmp_path)
    assert len(storage.get_all_studies()) == 10
    assert create_study("one", storage).user_attrs["settings"]["name"] == "one"
