from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hessgnn.errors import UserError
from hessgnn.runtime.files import atomic_folder, atomic_path, find_resource, write_text


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "x.txt"
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent  # a rename within one file system
        temporary.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("wrong"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_path(target) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_told_and_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(UserError, match=r"writing failed .*free some disk space") as caught, atomic_path(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert str(target) in str(caught.value)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_of_another_library_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="not ours"), atomic_path(tmp_path / "x"):
        raise OSError("not ours")


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write here .*choose a folder you may write to"):
        write_text(tmp_path / "file" / "x.txt", "text")
    with pytest.raises(UserError, match="cannot write here"):
        write_text(Path("/proc/x.txt"), "text")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_target_that_is_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(UserError, match="writing failed"):
        write_text(tmp_path / "x", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_what_is_written_may_be_read_by_others_as_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "x.txt", "ü")
    finally:
        os.umask(before)
    assert (tmp_path / "x.txt").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "x.txt").read_bytes() == "ü".encode()


def test_a_resource_is_found_here_first_then_among_the_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = find_resource("configs/schnet.yaml")
    assert shipped.is_absolute()
    assert "schnet" in shipped.read_text()
    write_text(tmp_path / "configs" / "schnet.yaml", "mine")
    assert find_resource("configs/schnet.yaml").read_text() == "mine"
    assert find_resource(tmp_path / "configs" / "schnet.yaml").read_text() == "mine"


def test_a_resource_that_is_nowhere_is_told_with_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "schnet.yaml").touch()
    with pytest.raises(UserError, match=r"no such file\. Hint: did you mean '.*schnet\.yaml'\?"):
        find_resource(tmp_path / "shcnet.yaml")
    with pytest.raises(UserError, match="check the path"):
        find_resource(tmp_path / "no" / "such.yaml")
    with pytest.raises(UserError, match="no such file"):
        find_resource(tmp_path)  # a folder is no file


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "new" / "folder") as temporary:
        (temporary / "file").write_text("x")
        assert not (tmp_path / "new" / "folder").exists()
    assert (tmp_path / "new" / "folder" / "file").read_text() == "x"
    with pytest.raises(ValueError, match="no"), atomic_folder(tmp_path / "new" / "other"):
        raise ValueError("no")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["folder"]
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="writing failed"), atomic_folder(tmp_path / "file" / "folder"):
        pass
