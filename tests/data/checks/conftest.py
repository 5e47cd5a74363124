from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from hessgnn.data.checks import check
from hessgnn.data.store.store import Store, write_store
from hessgnn.data.structure import Structure

MOLECULES = {
    "CH3OH": "rotation/methanol",
    "CH3NO2": "isomerisation/methyl-nitrite-nitromethane",
    "NH3": "inversion/ammonia",
    "C2H6NH": "inversion/dimethylamine",
    "C2H4": "C2H4",
    "H2O": "H2O",
    "HCN": "HCN",
    "CO2": "CO2",
}
"""A minimum of the bundled set, or a reaction: its reactant, with the half of the path that leads up from there."""


@pytest.fixture(scope="session")
def sound():
    """Real molecules and frames near them: faults are planted in these.

    Named by their molecule, with the minimum first. The other half of a path is left out, for where the reaction is
    degenerate that is the same half mirrored, and a warning rightly so.
    """
    store = Store.open("rtp-mini")
    found = []
    for molecule, source in MOLECULES.items():
        places = [i for i, name in enumerate(store.names) if name == source or name.startswith(f"{source}/")]
        other = ("product", "irc-04", "irc-05", "irc-06", "irc-07")
        near = [store[i] for i in places if not set(store.names[i].split("/")) & set(other)]
        (minimum,) = [s for s in near if s.kind in ("minimum", "reactant")]
        frames = [s for s in near if s is not minimum]
        split = minimum.split.removesuffix("-stationary")
        home = "validation" if split == "validation" else "nms"
        found.append(replace(minimum, name=molecule, group=molecule, kind="minimum", parent="", split=split))
        found += [
            replace(s, name=f"{molecule}/nms-{k}", group=molecule, kind="nms", split=home, parent=molecule)
            for k, s in enumerate(frames)
        ]
    return found


@pytest.fixture(scope="session")
def argon():
    """Displaced crystals of Lennard-Jones argon, with Hessians by central differences."""
    crystals = []
    for k, length in enumerate((5.2, 5.3, 5.4)):
        atoms = bulk("Ar", a=length, cubic=True) * (2, 1, 1)
        atoms.calc = LennardJones(sigma=3.4, epsilon=0.0104, rc=6.0, smooth=True)
        atoms.rattle(0.05, seed=k)
        hessian = []
        for place in range(3 * len(atoms)):
            forces = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.calc = atoms.calc
                moved.positions.reshape(-1)[place] += sign * 1e-3
                forces.append(moved.get_forces().ravel())
            hessian.append((forces[1] - forces[0]) / 2e-3)
        symmetric = (np.array(hessian) + np.array(hessian).T) / 2
        atoms.get_forces()
        crystals.append(Structure.from_atoms(atoms, hessian=symmetric, name=f"argon-{k}", group=f"{k}", split="train"))
    return crystals


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
