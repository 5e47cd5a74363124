import pytest

from hessgnn.data.checks import check
from hessgnn.data.store import Store, write_store

MOLECULES = ("C2H4", "CH3OH", "H2O", "HCN", "NH3", "CH3NO2", "C2H6NH", "CO2")


@pytest.fixture(scope="session")
def sound():
    """Real molecules and their displaced frames: faults are planted in these."""
    return [structure for structure in Store.open("rtp-mini") if structure.group in MOLECULES]


@pytest.fixture
def write(tmp_path):
    def write(structures):
        write_store(tmp_path / "set.h5", structures, level_of_theory="none")
        return Store.open(tmp_path / "set.h5")

    return write


@pytest.fixture
def judge(write):
    def judge(structures):
        """Findings by level and code: those of one code are one message each."""
        found = check(write(structures))
        assert all("\n" not in finding.message for finding in found)
        return {(finding.level, finding.code): finding.message for finding in found}

    return judge
