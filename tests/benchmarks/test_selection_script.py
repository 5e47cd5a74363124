"""The comparison of selection rules: what is labelled, what is compared, and what the page says of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import render_pages
import selection as script
from pages import selection as page

from hessgnn.data.store.store import Store


def test_products_are_those_of_the_stored_hessians(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "POOL_SHARE", 0.02)
    monkeypatch.setattr(script, "VALIDATION", 2)
    bundled = Store.open("rtp-mini")
    pool = script.write_pool(tmp_path / "pool.h5", 1)
    free = [name for i, name in enumerate(pool.names) if not pool.has_curvature[i]]
    more = script.write_pool(tmp_path / "more.h5", 1, free[:3])
    assert pool.names == more.names
    assert pool.has_curvature.sum() == script.INITIAL
    assert more.has_curvature.sum() == script.INITIAL + 3
    assert not more.has_hessian.any()
    for i in np.flatnonzero(more.has_curvature):
        source, known = bundled[bundled.names.index(more.names[i])], more.directions(int(i))
        assert known.kinds == ("rademacher",)
        expected = source.hessian @ known.vectors[0].ravel()
        np.testing.assert_allclose(known.products[0].ravel(), expected, rtol=1e-5, atol=1e-4)
        if pool.has_curvature[i]:
            np.testing.assert_array_equal(pool.directions(int(i)).vectors, known.vectors)
    families = {bundled.groups[bundled.names.index(name)] for name in pool.names}
    assert not families & {bundled.groups[i] for split in script.SPLITS for i in bundled.indices(split)}


def trained(rule: str, seed: int, factor: float) -> dict[str, Any]:
    """Errors of a training that are some multiple of those of random choice, with noise."""
    store = Store.open("rtp-mini")
    rng = np.random.default_rng((seed, len(rule)))
    errors = {
        split: {store.names[i]: {"hessian": factor**2 * rng.lognormal(sigma=0.1), "forces": 1.0} for i in chosen}
        for split, chosen in ((split, store.indices(split)[:100]) for split in script.SPLITS)
    }
    share = {"none": 0.0, "all": 1.0}.get(rule, 0.1)
    return {"architecture": "ani", "seed": seed, "rule": rule, "share": share, "selected": ["a"] * 3, "errors": errors}


def test_ratios_are_over_families_and_seeds() -> None:
    factors = {"none": 2.0, "random": 1.0, "force": 1.5, "distance": 0.8, "curvature": 1.0, "all": 0.5}
    record = script.summary([trained(rule, seed, f) for seed in (1, 2, 3) for rule, f in factors.items()])
    rows = {(row["rule"], row["split"]): row for row in record["rows"]}
    verdicts = {rule: rows[rule, "nms"].get("verdict") for rule in factors}
    assert verdicts["force"] == "worse"
    assert verdicts["distance"] == "better"
    assert verdicts["curvature"] == "no difference larger than 10 %"
    assert rows["distance", "nms"]["contrast"]["estimate"] == pytest.approx(0.8, rel=0.02)
    assert rows["distance", "nms"]["contrast"]["trainings"] == 3
    assert rows["random", "nms"]["contrast"] is rows["all", "nms"]["contrast"] is None
    assert rows["force", "test"]["rmse_over_random"] == pytest.approx([1.5] * 3, rel=0.1)
    text = "\n".join(page.findings(record))
    assert (
        "**distance** against random choice, Hessian error of a typical family: better in 2 of 2 comparisons (0.8"
        in text
    )
    assert "**force** against random choice, Hessian error of a typical family: worse in 2 of 2" in text
    table = page.rows(record, "ani")
    assert table.index("10 %: random") < table.index("10 %: force")
    assert "**0.80 (" in table


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_unfinished_comparison_says_what_is_there(tmp_path: Path, seeds: int) -> None:
    """The second rule has one seed less than random choice, and nothing is decided."""
    first = [trained(rule, seed, 1.0) for seed in range(1, seeds + 1) for rule in ("none", "random", "force")]
    runs = [*first, trained("distance", 1, 0.5)]
    stored = {"conditions": {}, "steps": [1200], "pool": 690, "initial": 16, "members": 3, "gradients": 2}
    stored |= {"finished": len(runs), "planned": 96} | script.summary(runs)
    shutil.copytree(render_pages.DOCS / "templates", tmp_path / "docs" / "templates")
    shutil.copytree(render_pages.RESULTS, tmp_path / "results")
    (tmp_path / "results" / "selection-cpu.json").write_text(json.dumps(stored))
    text = render_pages.Pages(tmp_path / "docs", tmp_path / "results").render("results/selection")
    text = " ".join(text.split())
    assert f"**Not finished:** {len(runs)} of 96 trainings have finished." in text
    assert "**distance** against random choice, Hessian error of a typical family: not decided in 2 of 2" in text
    assert ("with one seed it does not tell how much another would differ" in text) == (seeds == 1)
    assert f"means over {'one seed' if seeds == 1 else 'two seeds'}." in text
    assert ("| 10 %: distance, 1 of 2 seeds |" in text) == (seeds == 2)
    assert "for 1,200 steps" in text


def test_a_training_has_a_file_of_its_own() -> None:
    class Arguments:
        seeds, architectures, rules, shares = (1, 2), script.ARCHITECTURES, tuple(script.RULES), script.SHARES

    names = [training.name for training in script.planned(Arguments())]
    assert len(names) == len(set(names)) == 2 * 2 * (2 + 2 * len(script.RULES))
