"""Files of weights: found by name or path, and read without running what they hold."""

import hashlib
import os
from importlib import metadata

import numpy as np
import pytest
import torch
from torch import nn

from hessgnn.errors import ConfigError
from hessgnn.potentials.adapters import files
from hessgnn.potentials.adapters.files import explained, find_weights, foreign


class Bomb:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.fixture
def tensors(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"a": torch.ones(3), "names": ["x"]}, path)
    return path


def find(path):
    return find_weights(str(path), package="torch")


def test_tensors_need_no_trust(tensors):
    file = find(tensors)
    assert torch.equal(file.load(trust=False)["a"], torch.ones(3))
    assert file.sha256 == hashlib.sha256(tensors.read_bytes()).hexdigest()
    assert file.name == str(tensors)
    assert not file.installed


def test_arrays_are_read_where_they_are_allowed(tmp_path):
    from hessgnn.potentials.adapters.sevennet import _ARRAYS

    torch.save({"shift": np.arange(3.0)}, tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="holds more than tensors"):
        find(tmp_path / "w.pt").load(trust=False)
    assert find(tmp_path / "w.pt").load(trust=False, allowed=_ARRAYS)["shift"].tolist() == [0, 1, 2]


def test_a_pickle_runs_only_when_it_is_trusted(tmp_path):
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "w.pt")
    file = find(tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"mkdir.*can run any code. Hint: set potential.trust=true"):
        file.load(trust=False)
    assert not (tmp_path / "ran").exists()
    with pytest.warns(UserWarning, match="can run any code; it is read because of trust"):
        file.load(trust=True)
    assert (tmp_path / "ran").exists()


def test_what_was_trusted_once_is_known_by_its_content(tmp_path):
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "w.pt")
    with pytest.warns(UserWarning, match="because of trust: true"):
        find(tmp_path / "w.pt").require_trust(trust=True)
    files._trusted_here.clear()  # in another process
    (tmp_path / "w.pt").rename(tmp_path / "elsewhere.pt")
    with pytest.warns(UserWarning, match="because of the trust that you gave it before"):
        find(tmp_path / "elsewhere.pt").load(trust=False)
    assert (tmp_path / "ran").exists()
    torch.save(Bomb(tmp_path / "again"), tmp_path / "w.pt")
    with pytest.raises(ConfigError, match=r"set potential\.trust=true"):
        find(tmp_path / "w.pt").load(trust=False)


def test_packages_read_the_content_that_was_checked(tmp_path, tensors):
    file = find(tensors)
    content = tensors.read_bytes()
    with file.private_copy() as copy:
        torch.save(Bomb(tmp_path / "ran"), tensors)
        assert copy.read_bytes() == content
        assert copy.parent.stat().st_mode & 0o077 == 0
    assert not copy.exists()
    with pytest.raises(ConfigError, match="changed while it was read"), file.private_copy():
        pass


def test_torchs_old_format_is_read_when_it_is_trusted(tmp_path):
    torch.save(nn.Linear(2, 1), tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(ConfigError, match=r"is a pickle.*set potential.trust=true"):
        find(tmp_path / "w.pt").load(trust=False)
    with pytest.warns(UserWarning, match="because of trust"):
        assert isinstance(find(tmp_path / "w.pt").load(trust=True), nn.Linear)


def test_a_file_larger_than_memory_is_refused(tmp_path):
    with (tmp_path / "w.pt").open("wb") as file:
        file.truncate(2**42)
    with pytest.raises(ConfigError, match="has 4,096 GiB, more than the memory"):
        find(tmp_path / "w.pt")


def test_whole_modules_of_an_installed_package_need_no_trust(tmp_path, monkeypatch):
    torch.save(nn.Linear(2, 1), tmp_path / "w.pt")
    monkeypatch.setattr(files, "_is_installed", lambda *_: True)
    assert isinstance(find(tmp_path / "w.pt").load(trust=False), nn.Linear)


def test_what_an_installation_lists_is_recognised_until_it_is_changed(tmp_path):
    listed = next(f for f in metadata.files("ase") if f.name == "METADATA" and f.hash is not None)
    path = listed.locate()
    digest = hashlib.sha256(path.read_bytes()).digest()
    assert files._is_installed(path, "ase", digest)
    assert not files._is_installed(path, "ase", hashlib.sha256(b"changed").digest())
    assert not files._is_installed(path, "numpy", digest)
    assert not files._is_installed(path, "no-such-package", digest)


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04 half an archive"])
def test_damaged_files_are_named(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"w\.pt: is damaged"):
        find(tmp_path / "w.pt").load(trust=False)


def test_a_file_that_changes_is_noticed(tensors):
    file = find(tensors)
    assert file.unchanged()
    torch.save({"a": torch.zeros(4)}, tensors)
    assert not file.unchanged()
    with pytest.raises(ConfigError, match="changed while it was read"):
        file.load(trust=False)
    tensors.unlink()
    assert not file.unchanged()


def test_names_are_found_in_any_case_and_unknown_ones_refused(tensors):
    published = {"Best-1": tensors, "Gone": tensors.with_name("gone")}
    assert find_weights("best-1", package="torch", published=published).name == "Best-1"
    with pytest.raises(ConfigError, match=r"best-2: no such file or published weights. Hint: did you mean 'Best-1'"):
        find_weights("best-2", package="torch", published=published)
    with pytest.raises(ConfigError, match="torch does not hold the weights Gone"):
        find_weights("gone", package="torch", published=published)
    with pytest.raises(ConfigError, match="no such file"):
        find(tensors.with_name("nowhere.pt"))


def test_an_absent_package_gives_the_pip_line():
    with pytest.raises(ConfigError, match=r"'sevennet' needs sevenn.*pip install 'hessgnn\[sevennet\]'"):
        foreign("no_such_module_at_all", package="sevenn", extra="sevennet")


def test_a_file_that_was_cut_is_damaged(tensors):
    tensors.write_bytes(tensors.read_bytes()[:-30])
    with pytest.raises(ConfigError, match=r"is damaged: an archive that lacks its end"), explained(tensors):
        torch.load(tensors)


def test_what_a_package_raises_becomes_one_line(tensors):
    with pytest.raises(ConfigError, match=r"cannot read these weights \(KeyError: 'x'\)"), explained(tensors):
        raise KeyError("x")
