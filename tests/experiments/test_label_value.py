"""What labels buy, on errors whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hessgnn.experiments.label_advice import advise, in_words
from hessgnn.experiments.label_pages import reached_text
from hessgnn.experiments.label_value import (
    Errors,
    gradients_to_reach,
    kept_by,
    products_of_all,
    reached_by,
    share_kept,
)

GRADIENTS = {"E-F": 100.0, "E-F-P1": 300.0, "E-F-P4": 900.0, "E-F-S1": 300.0, "E-F+2": 300.0, "E-F-H": 6000.0}
FAMILIES = 12


def errors_of(means: dict[str, float], *, seeds: int = 3, spread: float = 0.0, noise: float = 0.0) -> Errors:
    """Two structures a family; families differ by a factor, structures of one set and training by noise."""
    rng = np.random.default_rng(4)
    factors = np.exp(spread * rng.standard_normal(FAMILIES))
    values, family = {}, {}
    for name, mean in means.items():
        for seed in range(1, seeds + 1):
            found = {}
            for k in range(2 * FAMILIES):
                structure = f"s{k}"
                family[structure] = f"f{k // 2}"
                found[structure] = mean * factors[k // 2] * math.exp(noise * rng.standard_normal())
            values[name, seed] = found
    return Errors.of(values, family)


def test_errors_are_root_mean_squares_over_structures_and_means_over_trainings() -> None:
    values = {("E-F", 1): {"a": 3.0, "b": 4.0, "c": 5.0}, ("E-F", 2): {"a": 1.0, "b": 1.0, "c": 1.0}}
    errors = Errors.of(values, {"a": "x", "b": "x"})  # a structure without a family is one of its own
    assert errors.families == ("c", "x")
    found = errors.draws(["E-F"])
    assert found is not None
    assert found[0] == pytest.approx([(math.sqrt(50 / 3) + 1) / 2])
    drawn = found[1][:, 0]
    assert drawn.min() == pytest.approx(1.0)  # both trainings the second
    assert drawn.max() == pytest.approx(5.0)  # the first, and both families c


def test_the_share_that_is_kept() -> None:
    errors = errors_of({"E-F": 10.0, "E-F-P1": 3.0, "E-F-H": 2.0}, spread=0.3)
    (kept,) = kept_by(errors, "ani")
    assert (kept.labels, kept.share.trainings, kept.share.families) == ("E-F-P1", 3, FAMILIES)
    for number in (kept.share.value, kept.share.low, kept.share.high):  # the same for each family, so it is certain
        assert number == pytest.approx(7 / 8)
    noisy = kept_by(errors_of({"E-F": 10.0, "E-F-P1": 3.0, "E-F-H": 2.0}, noise=0.3), "ani")[0].share
    assert noisy.low is not None
    assert noisy.high is not None
    assert noisy.low < 7 / 8 < noisy.high
    assert noisy.high - noisy.low < 0.2
    assert np.isnan(share_kept(np.array([[2.0, 1.0, 2.5]])))  # nothing to keep


def test_trainings_that_one_of_the_sets_lacks_do_not_count() -> None:
    errors = errors_of({"E-F": 10.0, "E-F-P1": 3.0, "E-F-H": 2.0})
    errors.squares[errors.labels.index("E-F-P1"), 2] = np.nan
    (kept,) = kept_by(errors, "ani")
    assert kept.share.trainings == 2
    assert errors.draws(["E-F", "E-F-P4"]) is None
    assert not errors.known(["E-F-P4"]).any()


def test_gradients_are_interpolated_in_logarithms() -> None:
    curve = np.array([[8.0, 4.0, 2.0], [8.0, 4.0, 2.0], [8.0, 4.0, 2.0], [3.0, 4.0, 2.0]])
    targets = np.array([math.sqrt(8.0), 1.0, 9.0, 3.0])
    found = gradients_to_reach(curve, targets, [10.0, 100.0, 1000.0])
    assert found[0] == pytest.approx(math.sqrt(1e5))
    assert np.isnan(found[1])  # never
    assert found[2:] == pytest.approx([10.0, 10.0])  # the fewest are enough


def test_gradients_to_reach_full_hessians() -> None:
    errors = errors_of({"E-F": 10.0, "E-F-P1": 4.0, "E-F-P4": 1.0, "E-F-S1": 0.1, "E-F-H": 2.0}, spread=0.2)
    exact, near = reached_by(errors, GRADIENTS, "ani")
    assert exact.ratio.value == pytest.approx(math.sqrt(200 * 800) / 5900)  # halfway in logarithms; soft modes are none
    assert not exact.at_most
    assert near.ratio.value is not None
    assert near.ratio.value < exact.ratio.value
    enough = reached_by(errors_of({"E-F": 10.0, "E-F-P1": 1.0, "E-F-P4": 1.0, "E-F-H": 2.0}), GRADIENTS, "ani")[0]
    assert enough.at_most
    assert enough.ratio.value == pytest.approx(200 / 5900)
    never = reached_by(errors_of({"E-F": 10.0, "E-F-P1": 4.0, "E-F-P4": 3.0, "E-F-H": 2.0}), GRADIENTS, "ani")[0]
    assert (never.ratio.value, never.ratio.high, never.ratio.reached) == (None, None, 0.0)
    assert reached_text(never.ratio, at_most=False) == "not reached (0 % of draws reach it)"
    both = errors_of({"E-F": 10.0, "E-F-P1": 4.0, "E-F-M2": 1.0, "E-F-H": 2.0})
    found = reached_by(both, GRADIENTS | {"E-F-M2": 500.0}, "ani")
    assert [(one.directions, one.within) for one in found] == [
        ("rademacher", 1.0),
        ("rademacher", 1.1),
        ("modes", 1.0),
        ("modes", 1.1),
    ]
    assert [one.ratio.value is None for one in found] == [True, True, False, False]
    assert found[2].ratio.value == pytest.approx(400 / 5900)


def test_advice_is_about_what_the_gradients_pay_for() -> None:
    hessians = {"E-F": 10.0, "E-F-P1": 4.0, "E-F+2": 8.0, "E-F-S1": 4.1, "E-F-H": 2.0}
    others = {"E-F": 10.0, "E-F-P1": 5.0, "E-F+2": 3.0, "E-F-S1": 5.0, "E-F-H": 2.0}
    errors = {
        "hessian_rmse": errors_of(hessians, noise=0.02),
        "energy_rmse": errors_of(others, noise=0.02),
        "forces_rmse": errors_of(dict.fromkeys(others, 5.0), noise=0.02),
    }
    advice = advise(errors, GRADIENTS, "ani")
    assert advice.best == "E-F-P1"
    assert advice.rmse == pytest.approx({name: hessians[name] for name in advice.rmse}, rel=0.02)
    assert set(advice.rmse) == {"E-F", "E-F-P1", "E-F+2", "E-F-S1"}
    assert {other.labels for other in advice.others} == {"E-F+2", "E-F-S1"}  # not what nobody can pay
    verdicts = {other.labels: other.verdicts for other in advice.others}
    assert verdicts["E-F+2"]["hessian_rmse"] == "worse"
    assert verdicts["E-F+2"]["energy_rmse"] == "better"
    assert verdicts["E-F-S1"]["hessian_rmse"] == "no difference larger than 10 %"
    rmse = {name: f"{value:.2f}" for name, value in advice.rmse.items()}
    ratios = {other.labels: f"{other.ratios['hessian_rmse']:.2f}" for other in advice.others}
    assert advice.sentence.startswith(
        f"Buy one random product of every structure (E-F-P1; Hessian RMSE off the minima {rmse['E-F-P1']} eV/Å², "
        f"{rmse['E-F']} with energies and forces alone) rather than two displaced frames of every structure (E-F+2; "
        f"{ratios['E-F+2']} times its Hessian error in a typical family, RMSE {rmse['E-F+2']}); no different by more"
    )
    assert f"(E-F-S1; {ratios['E-F-S1']} times, RMSE {rmse['E-F-S1']}); better for energies is" in advice.sentence
    assert "better for energies is the choice of two displaced frames of every structure (0.60 times" in advice.sentence
    assert advice.sentence.endswith("no other is shown to be better for forces.")


def test_advice_of_few_trainings_decides_nothing() -> None:
    means = {"E-F": 10.0, "E-F-P1": 4.0, "E-F+2": 8.0, "E-F-H": 2.0}
    errors = dict.fromkeys(("hessian_rmse", "energy_rmse", "forces_rmse"), errors_of(means, seeds=2, noise=0.02))
    advice = advise(errors, GRADIENTS, "ani")
    assert {other.verdicts["hessian_rmse"] for other in advice.others} == {"undecided"}
    assert advice.sentence.startswith(
        "Not decided (two trainings, verdicts need three): the Hessian error of a typical"
    )
    assert advice.sentence.count("two displaced frames of every structure") == 1
    assert "buy" not in advice.sentence.lower()
    alone = {metric: errors_of({"E-F": 10.0, "E-F-H": 2.0}) for metric in errors}
    nothing = advise(alone, GRADIENTS, "ani")
    assert nothing.best is None
    assert nothing.sentence.startswith("Not decided")


def test_advice_tells_where_few_large_errors_turn_the_rmse_round() -> None:
    """The first candidate has half the error in all families but one, whose error decides the RMSE."""
    rng = np.random.default_rng(1)
    values = {}
    for seed in (1, 2, 3):
        noise = np.exp(0.05 * rng.standard_normal((3, FAMILIES)))
        errors = np.array([10.0, 2.0, 4.0])[:, None] * noise
        errors[1, 0] = 60.0
        for name, found in zip(("E-F", "E-F-P1", "E-F+2"), errors, strict=True):
            values[name, seed] = {f"s{k}": float(value) for k, value in enumerate(found)}
    known = dict.fromkeys(("hessian_rmse", "energy_rmse", "forces_rmse"), Errors.of(values, {}))
    advice = advise(known, GRADIENTS, "ani")
    assert advice.best == "E-F-P1"
    assert advice.rmse["E-F-P1"] > 10 > advice.rmse["E-F+2"]
    assert advice.sentence.startswith("Not decided: the Hessian error of a typical family is smallest with one random")
    assert "statistically tied with two displaced frames of every structure (E-F+2; 1." in advice.sentence
    assert f"in a typical family, but the smaller RMSE {advice.rmse['E-F+2']:.2f})" in advice.sentence


def test_words_and_order_of_sets() -> None:
    assert products_of_all(["E-F-P8", "E-F-P2", "E-F-P8/8", "E-F-S1", "E-F-H"]) == ["E-F-P2", "E-F-P8"]
    words = {name: in_words(name) for name in ("E-F-H/7", "E-F-P8/21", "E-F-S1", "E-F+1", "E-F-H/11", "E-F-H/22")}
    assert words == {
        "E-F-H/7": "the full Hessian of every 7th structure",
        "E-F-P8/21": "eight random products of every 21st structure",
        "E-F-S1": "one product with soft modes of every structure",
        "E-F+1": "one displaced frame of every structure",
        "E-F-H/11": "the full Hessian of every 11th structure",
        "E-F-H/22": "the full Hessian of every 22nd structure",
    }
