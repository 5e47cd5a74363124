"""Entries that were trained from nothing, fine-tuned and published: ranked apart, and shown before and after."""

from __future__ import annotations

import json

import pytest
from synthetic_runs import DATA, make_record

from hessgnn.evaluation.record import Cost, Start, read_record
from hessgnn.leaderboard.collect import collect
from hessgnn.leaderboard.comparisons import COMPARISONS, pairs
from hessgnn.leaderboard.latex import latex_table
from hessgnn.leaderboard.origins import PUBLISHED
from hessgnn.leaderboard.report import summary, write_board
from hessgnn.leaderboard.scores import score
from hessgnn.leaderboard.sections.base import PageData
from hessgnn.leaderboard.sections.changes import Changes, start_tables
from hessgnn.leaderboard.sections.fairness import fairness
from hessgnn.leaderboard.sections.gains import Gains
from hessgnn.leaderboard.sections.scores import score_tables
from hessgnn.leaderboard.sections.training import training_table
from hessgnn.leaderboard.tables import csv_text, terminal_table
from hessgnn.training.sources import TrainedOn

WEIGHTS = Start(name="Seven-0", sha256="ab" * 32, regime="published", reference_shift={"H": -0.25})


@pytest.fixture
def mixed(save_run):
    """One architecture from nothing, one published and fine-tuned with two kinds of labels, three seeds each."""
    published = make_record("seven", "published", 0, 0.8, entry="seven published", start=WEIGHTS, cost=Cost(), curve=[])
    paths = [
        save_run(make_record("mean predictor", "mean", None, 1.0), 0.5),
        save_run(published.model_copy(update={"converged": None}), 0.4),
    ]
    for seed in range(3):
        for regime, scale in (("E-F", 0.5), ("E-F-H", 0.2)):
            paths.append(save_run(make_record("ani", regime, seed, scale * (1 + 0.1 * seed)), scale))
            tuned = {"entry": f"seven {regime} fine-tuned", "start": WEIGHTS}
            paths.append(save_run(make_record("seven", regime, seed, scale / 4 * (1 + 0.1 * seed), **tuned), scale / 4))
    return collect(paths)


def test_ranks_are_among_those_of_one_origin(mixed):
    board = score(mixed)
    found = [(row.entry, row.origin) for row in board.rows]
    assert [origin for _, origin in found] == [
        *("trained here", "trained here", "baseline", "fine-tuned", "fine-tuned", "published")
    ]
    ranks = {row.entry: row.rank for row in board.rows}
    assert ranks["seven published"] is None
    assert ranks["ani E-F-H"] == ranks["seven E-F-H fine-tuned"] == 1
    assert board.ranks == []  # one architecture was trained from nothing
    assert PUBLISHED in board.notes
    assert "1 architecture trained on E-F, E-F-H labels with 3 seeds per entry, 2 entries fine-tuned" in summary(board)
    assert "1 entry as published" in summary(board)
    assert board.origins == ["trained here", "fine-tuned", "published"]


def test_labels_are_compared_within_one_start(mixed, save_run):
    found = pairs(mixed, COMPARISONS)
    assert {(pair.label, pair.fine_tuned) for pair in found} == {("ani", False), ("seven from Seven-0", True)}
    board = score(mixed)
    assert {gain.architecture for gain in board.gains} == {"ani", "seven from Seven-0"}
    tuned = [result for result in board.claims if result.fine_tuned]
    assert tuned
    assert all(result.support is None for result in tuned)  # the study's claims are about training from nothing
    other = make_record("seven", "E-F", 9, entry="seven E-F fine-tuned", start=Start(name="another"))
    with pytest.raises(Exception, match="joins different architectures, starts"):
        score([*mixed, *collect([save_run(other)])])


def test_before_and_after_with_ratios(mixed, tmp_path):
    board = score(mixed)
    assert [(change.entry, change.before) for change in board.changes] == [
        (f"seven {regime} fine-tuned", "seven published") for regime in ("E-F-H", "E-F")
    ]
    ratio = board.changes[0].ratios["test"]["energy_mae"]
    assert ratio.value == pytest.approx(0.05 * 1.1 / 0.8)
    assert ratio.geometric_low is not None  # families and trainings
    assert ratio.geometric_low < ratio.geometric < ratio.geometric_high
    (table,) = start_tables(board)
    found = table.table(board, ["energy_mae"])
    assert found.headings[2:] == [
        *("before: seven published", "after: seven E-F fine-tuned", "after: seven E-F-H fine-tuned")
    ]
    assert [line[:2] for line in found.lines] == [["test", "E MAE, meV/atom"], ["nms", "E MAE, meV/atom"]]
    assert found.lines[0][2].startswith("144")
    page = write_board(board, mixed, tmp_path / "board").read_text()
    assert "Before and after fine-tuning" in page
    assert 'data-origin="published"' in page
    assert 'name="origin" value="fine-tuned"' in page
    assert json.loads((tmp_path / "board" / "leaderboard.json").read_text())["changes"]
    assert "## Before and after fine-tuning" in (tmp_path / "board" / "leaderboard.md").read_text()


def of_level(level):
    return TrainedOn(
        name=level,
        split="train",
        structures=9,
        labels={"energy": 9},
        share=1.0,
        level_of_theory=level,
        content_hash="01",
        split_hash="02",
    )


def test_a_run_of_another_level_is_trained_elsewhere(mixed, save_run):
    other = make_record("ani", "E-F", 0, 0.1, entry="cheap", sources=(of_level("another"),))
    assert other.origin == "trained elsewhere"
    assert other.model_copy(update={"start": WEIGHTS}).origin == "trained elsewhere"
    same = of_level(f" {other.data.level_of_theory.upper()}")
    assert other.model_copy(update={"sources": (of_level("another"), same)}).origin == "trained here"
    board = score([*mixed, *collect([save_run(other)])])
    row = next(row for row in board.rows if row.entry == "cheap")
    assert (row.rank, row.origin) == (None, "trained elsewhere")
    assert {row.entry: row.rank for row in board.rows}["ani E-F-H"] == 1  # best of those that were trained here
    assert not any("cheap" in (gain.with_hessian, gain.without_hessian) for gain in board.gains)
    assert any(note.startswith("cheap: trained on data at another level") for note in board.notes)
    assert "1 entry trained on data of another level of theory" in summary(board)


def test_a_start_that_was_evaluated_with_fitted_energies_comes_before_the_start_itself(mixed, save_run):
    start = Start(name="base", entry="cheap", regime="E-F")
    made = [
        make_record("ani", "E-F", 0, 0.6, entry="cheap", sources=(of_level("another"),)),
        make_record("ani", "published", 0, 0.5, entry="cheap as started", start=start, cost=Cost(), curve=[]),
        make_record(
            "ani", "E-F", 0, 0.3, entry="tuned", start=start, sources=(of_level(DATA.level_of_theory), of_level("old"))
        ),
    ]
    runs = [*mixed, *collect([save_run(record) for record in made])]
    board = score(runs)
    assert next(change.before for change in board.changes if change.entry == "tuned") == "cheap as started"
    text = "\n".join(Changes().markdown(PageData(board, runs)))
    assert "### ani, started from cheap" in text
    assert "### seven, started from Seven-0" in text
    assert "metrics-old.csv" in text


def test_a_page_about_fine_tuning_begins_with_before_and_after_and_leaves_out_empty_ratios(mixed):
    tuned = [item for item in mixed if (item.record.architecture, item.record.regime) != ("seven", "E-F-H")]
    tuned = [item for item in tuned if item.record.architecture != "ani"]
    board = score(tuned)
    assert board.gains
    assert summary(board).startswith("1 entry fine-tuned, 1 entry as published, on tiny")
    assert Gains().context(PageData(board, tuned)) is None
    assert Changes.order < Gains.order
    baseline = next(row for row in board.rows if row.origin == "baseline")
    assert baseline.rank is None  # alone
    assert "Origin" in [str(column.header) for column in terminal_table(board, 200).columns]
    (overview, *_) = score_tables(board)
    place = [row.entry for row in board.rows].index(baseline.entry)
    assert all(places[place] is None for places in overview.heats)


def test_a_start_that_is_not_on_the_page_is_noted(mixed):
    board = score([item for item in mixed if item.record.regime != "published"])
    assert board.changes == []
    assert any("what it started from, Seven-0, is not on this page" in note for note in board.notes)


def test_published_entries_are_no_trained_ones(mixed):
    board = score(mixed)
    assert not any("published" in line[0] for line in training_table(board).lines)
    facts = dict(fairness(board))
    assert "seven published" not in facts["Steps"]
    assert "ani E-F: nothing" in facts["Started from"]
    assert not any("training budgets" in note for note in board.notes)
    published = next(row for row in board.rows if row.origin == "published")
    assert (published.device_seconds, published.label_gradients) == (None, None)
    header, *lines = csv_text(board).splitlines()
    assert "gradients of the start" in header
    assert any(line.startswith(",seven published,seven,published,published,Seven-0,") for line in lines)
    bold = [line for line in latex_table(board).splitlines() if "seven published" in line]
    assert not any("textbf" in line for line in bold)


def test_failed_seeds_do_not_take_their_score_from_published_weights(mixed, save_run):
    failed = make_record("ani", "E-F-H", 7, status="failed", reason="NaN", metrics={})
    board = score([*mixed, *collect([save_run(failed)])])
    row = next(row for row in board.rows if row.entry == "ani E-F-H")
    assert row.overall.mean < 0.8  # the worst that was trained here, not the published one


def test_pages_without_them_look_as_before_and_old_records_are_read(runs):
    board = score(collect(runs))
    assert board.origins == []
    assert "origin" not in [column.split(",")[0] for column in csv_text(board).splitlines()[1:]]
    content = json.loads((runs[1] / "record.json").read_text())
    del content["start"]
    del content["cost"]["start_gradients"]
    (runs[1] / "old.json").write_text(json.dumps(content))
    assert read_record(runs[1] / "old.json").origin == "trained here"
