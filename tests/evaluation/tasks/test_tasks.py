"""Every task gives the reference about zero error, and a bad potential a bad score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.lj import LennardJones
from pair_springs import PairSprings
from surfaces import minima, reference_surface, untrained

import hessgnn
from hessgnn.data.structure import Structure
from hessgnn.errors import ConfigError
from hessgnn.evaluation.record import Metric
from hessgnn.evaluation.run import chosen_tasks
from hessgnn.evaluation.spectra import broadened, spectrum_overlap
from hessgnn.evaluation.tasks.base import all_tasks
from hessgnn.evaluation.tasks.cost import CostSettings, CostTask
from hessgnn.evaluation.tasks.md import MDSettings, MDTask, log_rank, survival_curve
from hessgnn.evaluation.tasks.relaxation import RelaxationSettings, RelaxationTask
from hessgnn.evaluation.tasks.subjects import MoleculeTask, SubjectTask
from hessgnn.evaluation.tasks.vibrations import VibrationsSettings, VibrationsTask
from hessgnn.molecules.vibrations import vibrations
from hessgnn.surface.base import Surface
from hessgnn.surface.calculator import CalculatorSurface
from hessgnn.surface.potential import PotentialSurface

SHORT_RAMP = MDSettings(rise=500.0, rung=0.025, highest=1005.0, nve=0.05)


def spring_minimum(stiffness: float = 20.0) -> tuple[Structure, PairSprings]:
    """Water held by springs, with its exact Hessian."""
    atoms = molecule("H2O")
    potential = PairSprings.of(atoms, stiffness)
    batch = hessgnn.Batch.from_atoms([atoms], potential.cutoff)
    hessian = potential.hessian(batch)[0].numpy()
    return Structure.from_atoms(atoms, hessian=hessian, name="water", kind="minimum"), potential


def scores(task: SubjectTask[Any, Any], surface: Surface, structures: list[Structure]) -> dict[str, Metric]:
    return task.metrics(dict(task.run(surface, structures, {})))


def test_vibrations_of_the_reference_are_right_and_of_a_bad_potential_wrong() -> None:
    task, structures = VibrationsTask(VibrationsSettings()), minima("CH4", "O3")
    good = {name: metric.value for name, metric in scores(task, reference_surface(), structures).items()}
    assert good.pop("vibrations_reference_soft_order_mae") is None  # no mode of these is below 400 cm⁻¹
    assert max(value for value in good.values() if value is not None) < 1e-3
    assert sum(value is not None for value in good.values()) == 22
    bad = scores(task, untrained(), structures)
    assert bad["vibrations_reference_stiff_order_mae"].value > 200
    assert bad["vibrations_reference_spectrum_mismatch"].value > 50
    assert bad["vibrations_reference_infrared_mismatch"].value > 50
    assert bad["vibrations_own_rmsd"].value > 0.1


MOLECULE_TASKS = [cls() for cls in all_tasks() if issubclass(cls, MoleculeTask)]


@pytest.mark.parametrize("task", MOLECULE_TASKS, ids=lambda task: task.name)
def test_what_gives_no_numbers_is_counted_with_the_reason(task: SubjectTask[Any, Any]) -> None:
    structure, potential = spring_minimum()
    potential.scale.fill_(np.nan)
    results = dict(task.run(PotentialSurface(potential), [structure], {}))
    assert "not finite" in results["water"]["failure"]
    failed = {name: metric.value for name, metric in task.metrics(results).items() if "failed" in name}
    assert failed
    assert set(failed.values()) == {100.0}


def test_frequency_errors_are_those_of_a_closed_form() -> None:
    """Springs twice as stiff: the same minimum, every frequency √2 times as high."""
    structure, _ = spring_minimum()
    found = scores(VibrationsTask(VibrationsSettings()), PotentialSurface(spring_minimum(40.0)[1]), [structure])
    frequencies = vibrations(structure.numbers, structure.positions, structure.hessian).frequencies
    for place in ("reference", "own"):
        for kind in ("order", "mode"):
            expected = (np.sqrt(2) - 1) * frequencies.mean()
            assert found[f"vibrations_{place}_stiff_{kind}_mae"].value == pytest.approx(expected)
        zero_point = 1e3 * 0.5 * hessgnn.units.WAVENUMBER * (np.sqrt(2) - 1) * frequencies.sum()
        assert found[f"vibrations_{place}_zero_point_energy_mae"].value == pytest.approx(zero_point)
        assert found[f"vibrations_{place}_entropy_mae"].n == 1
    assert found["vibrations_own_rmsd"].value < 1e-6


def test_an_own_minimum_is_one_even_where_symmetry_leads_to_a_saddle_point() -> None:
    """Flat ammonia stays flat in any optimisation that follows the forces."""
    atoms = molecule("NH3")
    potential = PairSprings.of(atoms)
    flat = atoms.copy()
    flat.positions[:, 2] = 0.0
    hessian = potential.hessian(hessgnn.Batch.from_atoms([flat], potential.cutoff))[0].numpy()
    structure = Structure.from_atoms(flat, hessian=hessian, name="ammonia")
    found = dict(VibrationsTask(VibrationsSettings()).run(PotentialSurface(potential), [structure], {}))["ammonia"]
    assert min(found["own"]["frequencies"]) > 100
    ends = Atoms("NH3", found["own"]["positions"])  # the hydrogens may have gone either way
    np.testing.assert_allclose(ends.get_all_distances(), atoms.get_all_distances(), atol=1e-4)
    stuck = VibrationsTask(VibrationsSettings(pushes=0)).run(PotentialSurface(potential), [structure], {})
    assert min(dict(stuck)["ammonia"]["own"]["frequencies"]) < -100


def test_modes_are_matched_where_their_order_is_exchanged() -> None:
    structure, potential = spring_minimum()
    exact = vibrations(structure.numbers, structure.positions, structure.hessian)
    masses = np.repeat(hessgnn.molecules.vibrations.masses_of(structure.numbers), 3)
    modes = masses[:, None] ** 0.5 * exact.modes.reshape(3, 9).T
    eigenvalues = exact.eigenvalues[[1, 0, 2]]
    hessian = masses[:, None] ** 0.5 * (modes * eigenvalues @ modes.T) * masses**0.5
    exchanged = Structure.from_atoms(structure.to_atoms(), hessian=hessian, name="water")
    found = scores(VibrationsTask(VibrationsSettings()), PotentialSurface(potential), [exchanged])
    assert found["vibrations_reference_stiff_order_mae"].value < 1e-3
    gap = exact.frequencies[1] - exact.frequencies[0]
    assert found["vibrations_reference_stiff_mode_mae"].value == pytest.approx(2 * gap / 3)
    assert gap > 100


def test_spectra_overlap_as_their_integrals_say() -> None:
    first, second, width = [100.0, 130.0, -50.0], [110.0, 180.0], 12.0
    grid = np.linspace(-300, 400, 20001)

    def spectrum(lines: list[float]) -> np.ndarray:
        return np.exp(-((grid[:, None] - lines) ** 2) / (2 * width**2)).sum(axis=1)

    f, g = spectrum(first), spectrum(second)
    expected = (f * g).sum() / np.sqrt((f * f).sum() * (g * g).sum())
    assert spectrum_overlap(first, second, width) == pytest.approx(expected)
    assert spectrum_overlap(first, first, width) == pytest.approx(1)
    assert spectrum_overlap([], [], width) == 1

    heights = [3.0, 0.5, 1.0], [2.0, 4.0]
    f, g = (broadened(x, h, width, grid) for x, h in zip((first, second), heights, strict=True))
    assert f.sum() * (grid[1] - grid[0]) == pytest.approx(4.5)
    expected = (f * g).sum() / np.sqrt((f * f).sum() * (g * g).sum())
    assert spectrum_overlap(first, second, width, heights) == pytest.approx(expected)
    assert spectrum_overlap(first, second, width, ([0, 0, 0], [1, 1])) == 0


def test_relaxations_of_the_reference_come_back_and_of_a_bad_potential_do_not() -> None:
    task, structures = RelaxationTask(RelaxationSettings()), minima("CH4", "O3")
    good = scores(task, reference_surface(), structures)
    for method in ("quasi_newton", "newton"):
        assert good[f"relaxation_{method}_failed"].value == 0
        assert good[f"relaxation_{method}_rmsd"].value < 2e-3
        assert good[f"relaxation_{method}_gradients"].n == 2
    bad = scores(RelaxationTask(RelaxationSettings(max_steps=60)), untrained(), structures)
    for method in ("quasi_newton", "newton"):
        assert good[f"relaxation_{method}_success"].value == 100
        assert bad[f"relaxation_{method}_success"].value == 0
        distance = bad[f"relaxation_{method}_rmsd"].value
        assert bad[f"relaxation_{method}_failed"].value == 100 or distance > 0.1


def test_all_surfaces_relax_from_the_same_geometries() -> None:
    starts = []

    class Spy(PotentialSurface):
        def calculator(self):
            calculator = super().calculator()
            inner = calculator.calculate

            def calculate(atoms=None, *args):
                starts.append(atoms.positions.copy())
                inner(atoms, *args)

            calculator.calculate = calculate
            return calculator

    structure, potential = spring_minimum()
    for stiffness in (20.0, 30.0):
        potential.scale.fill_(stiffness)
        for seed in (0, 1):
            dict(RelaxationTask(RelaxationSettings(seed=seed)).run(Spy(potential), [structure], {}))
    steps = np.array(starts)
    noise = np.abs(steps - structure.positions).max(axis=(1, 2))
    first = steps[0]
    assert sum(np.array_equal(first, other) for other in steps) == 4  # two methods on two surfaces
    assert 0.05 < noise[0] < 0.5


def test_dynamics_of_the_reference_holds_and_of_a_bad_potential_fails() -> None:
    task, structures = MDTask(SHORT_RAMP), minima("CH4", "O3")
    good = scores(task, reference_surface(), structures)
    assert good["md_intact"].value == 100
    assert (good["md_survived"].value, good["md_start_failed"].value, good["md_start_bonds"].value) == (100, 0, 0)
    assert good["md_survival_temperature"].value == pytest.approx(1005)
    assert good["md_drift"].value < 5
    loose, potential = spring_minimum(0.002)
    longer = MDTask(SHORT_RAMP.model_copy(update={"rung": 0.25}))
    results = dict(longer.run(PotentialSurface(potential), [loose], {}))
    bad = longer.metrics(results)
    assert bad["md_survived"].value == 0
    assert bad["md_survival_temperature"].value < 1005
    assert 0 < results["water"]["time"] < 0.75
    assert not results["water"]["censored"]
    nowhere = scores(task, untrained(), structures)
    assert nowhere["md_survived"].value <= 50
    assert nowhere["md_intact"].value <= 50


def test_a_molecule_of_another_size_is_measured_by_its_own_distances() -> None:
    """Springs of twice the length hold for ever, but by the reference's distances they are broken from the start."""
    structure, _ = spring_minimum()
    larger = molecule("H2O")
    larger.positions *= 2
    surface = PotentialSurface(PairSprings.of(larger, 20.0))
    own, reference = (
        scores(MDTask(SHORT_RAMP.model_copy(update={"equilibrium": kind})), surface, [structure])
        for kind in ("own", "reference")
    )
    assert own["md_survived"].value == 100
    assert own["md_intact"].value == 0
    assert own["md_start_bonds"].value == 100  # it is not hidden that this is another molecule
    assert reference["md_survived"].value == 0
    assert reference["md_survival_temperature"].value == 5


def test_a_molecule_without_a_minimum_fails_at_once() -> None:
    structure, potential = spring_minimum()
    task = MDTask(SHORT_RAMP.model_copy(update={"max_steps": 1, "fmax": 1e-9}))
    shifted = Structure.from_atoms(Atoms("OH2", structure.positions * 1.2), name="water")
    results = dict(task.run(PotentialSurface(potential), [shifted], {}))
    assert (results["water"]["temperature"], results["water"]["censored"]) == (5.0, False)
    found = {name: values["water"] for name, values in task.values(results).items()}
    hottest = task.settings.temperatures()[-1]
    assert found == {
        "md_survival_temperature": 5.0,
        "md_survival_share": 500.0 / hottest,
        "md_survived": 0.0,
        "md_intact": 0.0,
    }
    assert task.metrics(results)["md_start_failed"].value == 100
    assert task.definitions["md_survival_temperature"].worst == 5.0


def test_survival_is_estimated_with_what_outlasts_the_ramp() -> None:
    values, censored = [100.0, 200.0, 200.0, 300.0, 400.0], [False, False, True, False, True]
    curve = survival_curve(values, censored)
    np.testing.assert_allclose(curve.values, [100, 200, 300, 400])
    np.testing.assert_allclose(curve.shares, [0.8, 0.8 * 3 / 4, 0.6 / 2, 0.3])  # by hand
    assert curve.median == 300
    assert survival_curve([10.0, 20.0], [True, True]).median is None


def test_the_log_rank_test_sees_what_fails_earlier_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    early, late = rng.exponential(300, size=60), rng.exponential(600, size=60)

    def watched(times: np.ndarray) -> tuple[list[float], list[bool]]:
        return np.minimum(times, 1000).tolist(), (times > 1000).tolist()

    found = log_rank(watched(early), watched(late))
    assert found.statistic > 0
    assert found.p < 1e-3
    assert log_rank(watched(late), watched(early)).statistic == pytest.approx(-found.statistic)
    false = [log_rank(watched(x[:20]), watched(x[20:])).p < 0.05 for x in rng.exponential(500, size=(300, 40))]
    assert np.mean(false) < 0.09
    assert log_rank(([1005.0] * 3, [True] * 3), ([1005.0] * 4, [True] * 4)) == (0.0, 1.0)


def test_all_pairs_may_be_watched() -> None:
    """Two molecules' atoms that are not bonded part, which bonds do not see."""
    structure, potential = spring_minimum()
    surface = PotentialSurface(potential)
    watched = {
        pairs: dict(MDTask(SHORT_RAMP.model_copy(update={"pairs": pairs})).run(surface, [structure], {}))["water"][
            "pairs"
        ]
        for pairs in ("bonds", "all")
    }
    assert watched == {"bonds": [[0, 1], [0, 2]], "all": [[0, 1], [0, 2], [1, 2]]}


def test_costs_are_times_of_gradients_and_hessians(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = [0]

    class Ticking(LennardJones):  # a second each time
        def calculate(self, *given: Any, **settings: Any) -> None:
            super().calculate(*given, **settings)
            ticks[0] += 1

    monkeypatch.setattr("hessgnn.evaluation.tasks.cost.time.perf_counter", lambda: float(ticks[0]))
    found = scores(CostTask(CostSettings(memory=False)), CalculatorSurface(Ticking), minima("CH4", "O3"))
    assert found["cost_gradient"].value == 1e3
    assert found["cost_hessian"].value == 6e3 * (5 + 3) / 2  # central differences
    assert found["cost_ratio"].value == 6 * (5 + 3) / 2
    assert found["cost_memory"].value is None
    assert found["cost_hessian"].n == 2


def test_the_memory_of_a_hessian_is_measured_in_a_process_of_its_own() -> None:
    found = scores(CostTask(CostSettings(repeats=1)), untrained(), minima("CH4"))
    assert found["cost_memory"].n == 1
    assert 0 <= found["cost_memory"].value < 1000


def test_a_ramp_that_was_stopped_goes_on_as_if_it_had_not_been() -> None:
    task, surface = MDTask(SHORT_RAMP), PotentialSurface(spring_minimum()[1])
    structure = spring_minimum()[0]
    whole = dict(task.run(surface, [structure], {}))["water"]
    run = task.run(surface, [structure], {})
    name, partial = next(run)
    assert not partial["finished"]
    again = dict(task.run(surface, [structure], {name: partial}))["water"]
    assert again["finished"]
    assert again["drift"] == whole["drift"]
    np.testing.assert_allclose(again["trajectories"][0]["positions"], whole["trajectories"][0]["positions"], atol=1e-10)


def test_presets() -> None:
    full, short = MDSettings(preset="full"), MDSettings()
    assert full.temperatures()[:3] == [5, 10, 15]
    assert full.steps("rung") == 10_000
    assert short.steps("rung") * len(short.temperatures()) == 2200
    assert MDSettings(preset="full", rise=50.0).temperatures()[1] == 55


def test_tasks_are_chosen_by_name() -> None:
    assert chosen_tasks(["md,accuracy", "vibrations,neb"]) == ["accuracy", "vibrations", "neb", "md"]
    assert chosen_tasks(["all"]) == [cls.name for cls in all_tasks()]
    with pytest.raises(ConfigError, match="did you mean 'relaxation'"):
        chosen_tasks(["relaxtion"])
