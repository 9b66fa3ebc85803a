"""What is found in a folder of runs, what is said of the rest, and the CSV."""

import json
import math
from dataclasses import replace

import pytest

from doors.run_record import RECORD
from studies.card import CARD, SetFigures
from studies.collect import chosen_set, collect, flops_groups, powers, short
from studies.runs_csv import read_rows, rows_of, write_rows
from tests.study_cards import card, curve, write


def test_runs_at_any_depth_come_back_by_size_budget_and_seed(tmp_path):
    write(tmp_path, card(size="big", blocks=10_000_000), "c")
    write(tmp_path, card(size="small", tokens=2_000_000), "b/deep")
    write(tmp_path, card(size="small", seed=1), "a")
    write(tmp_path, card(size="small", seed=0), "z")
    study = collect(tmp_path)
    assert [run.path for run in study.runs] == ["z", "a", "b/deep", "c"]
    assert study.sizes == ["small", "big"] and study.seeds == [0, 1]
    assert study.budgets == ["1M tokens", "2M tokens"]
    assert study.runs[0].card == card(size="small")


def test_unfinished_runs_are_listed_and_damaged_ones_named_and_left_out(tmp_path):
    write(tmp_path, card(), "good")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / RECORD).write_text("[]")
    (tmp_path / "quantizers").mkdir()  # no run
    for name, text in (("torn", '{"schema": 1, "si'), ("old", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / CARD).write_text(text)
    (tmp_path / "odd" / CARD).mkdir(parents=True)  # a folder of that name
    study = collect(tmp_path)
    assert [run.path for run in study.runs] == ["good"]
    assert study.unfinished == ("begun",)
    assert len(study.damaged) == 3
    assert all(name in " ".join(study.damaged) for name in ("torn", "old", "odd"))


def test_two_cards_of_one_size_budget_and_seed_are_refused(tmp_path):
    write(tmp_path, card(), "one")
    write(tmp_path, card(loss_nats=3.0), "two")
    with pytest.raises(ValueError, match="one and two are both d32, 1M tokens, seed 0; move one"):
        collect(tmp_path)


def test_runs_that_were_asked_other_points_are_refused(tmp_path):
    figures = card().sets["easy"]
    write(tmp_path, card(), "one")
    rounded = replace(figures, zero_epe_px=figures.zero_epe_px * (1 + 1e-6))
    write(tmp_path, card(seed=1, sets={"easy": rounded}), "rounded")
    write(tmp_path, card(seed=2, sets={"hard": replace(figures, floor_px=1.0)}), "of another set")
    assert len(collect(tmp_path).runs) == 3
    for field, value in (("zero_epe_px", 8.1), ("floor_px", 0.0)):
        odd = replace(figures, **{field: value})
        run = write(tmp_path, card(seed=3, sets={"easy": odd}), field)
        said = f"{field} of set easy is .* in .* and .*, so their points or their grids are not"
        with pytest.raises(ValueError, match=said):
            collect(tmp_path)
        (run / CARD).unlink()


def test_another_model_under_the_name_of_a_size_is_refused(tmp_path):
    write(tmp_path, card(), "one")
    write(tmp_path, card(seed=1, blocks=60_001), "two")
    with pytest.raises(ValueError, match="called d32 and have 60,000 and 60,001 parameters"):
        collect(tmp_path)


def test_a_folder_that_is_not_there_or_holds_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is no folder; give the folder of a study"):
        collect(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds no finished run: no study\.json"):
        collect(tmp_path)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / RECORD).write_text("[]")
    with pytest.raises(ValueError, match=r"no finished run \(1 unfinished, 0 damaged\)"):
        collect(tmp_path)


def test_an_unknown_set_is_refused_with_those_there_are(tmp_path):
    figures = card().sets["easy"]
    write(tmp_path, card(sets={"near": figures, "easy": figures}))
    study = collect(tmp_path)
    assert chosen_set(study, None) == "near" and chosen_set(study, "easy") == "easy"
    with pytest.raises(
        ValueError, match="set=hard is in none of the 1 runs; choose one of near, e"
    ):
        chosen_set(study, "hard")


def test_a_set_without_a_finite_error_does_not_count(tmp_path):
    figures = replace(card().sets["easy"], epe_px=math.nan)
    write(tmp_path, card(sets={"easy": figures}))
    (run,) = collect(tmp_path).runs
    assert run.figures("easy") is None and run.figures("hard") is None


def test_runs_are_of_one_flop_budget_within_five_percent(tmp_path):
    for number, flops in enumerate((1.0e12, 1.04e12, 1.06e12, 2e12)):
        write(tmp_path, card(seed=number, flops=flops))
    # asked for 1e12, whatever rounding of steps has made of it
    write(tmp_path, card(seed=9, budget={"flops": 1e12}, flops=0.8e12))
    groups = flops_groups(collect(tmp_path).runs)
    assert [sorted(run.card.seed for run in group) for group in groups] == [[0, 1, 9], [2], [3]]


def test_amounts_are_short():
    assert [short(n) for n in (999, 1320000, 5e6, 1.5e9)] == ["999", "1.32M", "5M", "1.5B"]
    assert [powers(n) for n in (3e10, 1.25e13)] == ["3e10", "1.25e13"]


def test_the_csv_reads_back_exactly(tmp_path):
    odd = SetFigures(
        points=3, epe_px=1 / 3, epe_ci95_px=(0.1, 0.7), ad_px=math.nan, delta_avg=1.0, hit=0.0,
        zero_epe_px=8.0, floor_px=0.25,
    )  # fmt: skip
    never = curve([9.0, 9.0, 9.0])
    write(tmp_path, card(loss_nats=0.1 + 0.2, sets={"easy": odd}, curve=never), "a, b")
    write(tmp_path, card(seed=1, budget={"flops": 1e12}, sets={"near": odd}), 'say "c"')
    rows = rows_of(collect(tmp_path), 0.5)
    write_rows(rows, tmp_path / "runs.csv")
    again = read_rows(tmp_path / "runs.csv")
    assert again == rows
    assert [list(map(type, row.values())) for row in again] == [
        list(map(type, row.values())) for row in rows
    ]
    by_path = {row["path"]: row for row in rows}
    first, second = by_path["a, b"], by_path['say "c"']
    assert first["loss_nats"] == 0.30000000000000004 and first["easy/epe_px"] == 1 / 3
    assert first["easy/ad_px"] is None and first["easy/emergence_step"] is None
    assert second["easy/epe_px"] is None and second["near/points"] == 3
    assert second["easy/emergence_tokens"] == 666_666
    assert (second["budget_unit"], second["budget"]) == ("flops", 1e12)


def test_a_card_of_another_schema_is_damaged(tmp_path):
    run = write(tmp_path, card(), "good")
    plain = json.loads((run / CARD).read_text())
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / CARD).write_text(json.dumps(plain | {"schema": 99}))
    (damaged,) = collect(tmp_path).damaged
    assert "schema" in damaged and len(damaged.splitlines()) == 1
