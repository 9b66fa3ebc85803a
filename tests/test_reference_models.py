"""From a finished run to checkpoints/NAME: what is refused, and what the card says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from benchmarks import claims_reference
from benchmarks.claim import judge
from benchmarks.measure_reference import PARTS, figures_of_part, work_of
from doors import publish as door
from doors.lineage import lineage_of, portable
from doors.model_card import card, write_card
from doors.publish import MOST_BYTES, publish, size_of
from doors.reference import BEST, CHECKPOINTS
from lras.checkpoint import load, save
from lras.export_files import CONFIG, is_export, read_export
from studies.collect import collect
from studies.findings import findings
from studies.runs_csv import read_rows, rows_of, write_rows
from studies.texts import interval
from tests.study_cards import SIZES, write_study
from tests.test_studies_quantizers import shared
from tests.tiny_model import states_equal, tiny_model
from tracing.benchmarks.evaluation import fingerprint

ROOT = Path(__file__).resolve().parents[1]
SHA = "0123456789abcdef0123456789abcdef01234567"
MACHINE = {"cpu": "Z80", "cores": 2, "torch": "2.15.0"}


def finished_run(folder: Path, seed: int = 0, step: int = 12, start: Path | None = None, **note):
    """A run's folder as train.py leaves it, without what nobody reads."""
    cfg = {"init_from": str(start) if start else None, "quantizer": None}
    cfg |= {"trainer": {"max_steps": 12}, "schedule": {"decay_from": None}}
    (folder / "config").mkdir(parents=True)
    OmegaConf.save(OmegaConf.create(cfg), folder / "config" / "resolved.yaml")
    said = f"python train.py experiment=smoke hydra.run.dir={folder}"
    said += f" init_from={start}" if start else ""
    known = {"step": step, "seconds": 90, "tokens": 3456, "data": "synthetic scenes: 12 steps"}
    known |= {"command": said, "git_sha": SHA, "seed": seed, "machine": MACHINE}
    save(tiny_model(seed), folder / "export", known | note)
    return folder


def test_a_published_model_is_the_runs_and_its_card_says_how_it_was_made(tmp_path):
    run = finished_run(tmp_path / "run")
    folder = publish(run, tmp_path / "checkpoints" / "tiny")
    assert states_equal(load(folder), load(run))
    assert {path.name for path in folder.iterdir()} == {CONFIG, "model.safetensors", "README.md"}
    said = (folder / "README.md").read_text()
    facts = ["# tiny", "`python train.py experiment=smoke`", SHA, "3,456", "| minutes | 2 |"]
    facts += ["2 cores of Z80", "license: mit", "Not measured yet", "no real frame was ever seen"]
    facts += ["Weights after the last step: no step was chosen by its error."]
    assert [fact for fact in facts if fact not in said] == []
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_run_that_was_started_from_another_tells_of_both_and_of_no_folder_here(tmp_path):
    first = finished_run(tmp_path / "first")
    second = finished_run(tmp_path / "second", seed=1, start=first)
    folder = publish(second, tmp_path / "checkpoints" / "tiny")
    note = read_export(folder)[0]["note"]
    assert [part["seed"] for part in note["made_from"]] == [0]
    assert note["command"] == "python train.py experiment=smoke init_from=RUN1"
    said = (folder / "README.md").read_text()
    assert "part 1 (RUN1) | part 2 (RUN2)" in said
    assert not any(str(tmp_path) in text for text in (said, (folder / CONFIG).read_text()))


def test_a_model_that_was_started_from_a_published_one_keeps_all_its_ancestors(tmp_path):
    second = finished_run(tmp_path / "second", 1, start=finished_run(tmp_path / "first"))
    published = publish(second, tmp_path / "checkpoints" / "tiny")
    third = finished_run(tmp_path / "third", 2, start=published)
    assert [part["seed"] for part in lineage_of(third)] == [0, 1, 2]


def test_a_run_is_one_part_however_it_is_spelled_and_is_called_so_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = finished_run(Path("runs/lras_nano/a"), 0)
    also = finished_run(tmp_path / "also", 1, start=first.resolve())
    (tmp_path / "link").symlink_to(also)
    run, config = finished_run(tmp_path / "run", 2, start=first), "run/config/resolved.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(config), {"quantizer": "link"}), config)
    parts = lineage_of(run)
    assert [part["seed"] for part in parts] == [0, 1, 2]
    said = "python train.py experiment=smoke"
    started = f"{said} init_from=RUN1"
    assert [part["command"] for part in parts] == [said, started, started]


def test_a_part_is_called_by_its_number_on_the_card_also_behind_a_published_one(tmp_path):
    second = finished_run(tmp_path / "second", 1, start=finished_run(tmp_path / "first"))
    published = publish(second, tmp_path / "checkpoints" / "tiny")
    parts = lineage_of(finished_run(tmp_path / "third", 2, start=published))
    starts = [part["command"].rpartition("init_from=")[2] for part in parts[1:]]
    assert starts == ["RUN1", "RUN2"]


@pytest.mark.parametrize(
    "given, said",
    [
        ("init_from=runs/b/c quantizer=./runs/b", "init_from=RUN3 quantizer=RUN2"),
        ("init_from='runs/b/' x=[runs/b,runs/bc]", "init_from='RUN2' x=[RUN2,runs/bc]"),
        ("init_from=/a/run/export y=/a/run.old", "init_from=RUN1/export y=DIR/run.old"),
        ("a word of runs/b, not a value", "a word of runs/b, not a value"),
        ("python train.py hydra.run.dir=/a/run x=1", "python train.py x=1"),
        ("init_from=/a/run quantizer=/a/run/", "init_from=RUN1 quantizer=RUN1"),
        ("root=/b/flow_gt 'roots=[/c/d,~/e]'", "root=DIR/flow_gt 'roots=[DIR/d,DIR/e]'"),
        ("data.root=../shared/clips", "data.root=DIR/clips"),
        ("nats/code, 3/4 and 1 / 2", "nats/code, 3/4 and 1 / 2"),
    ],
)
def test_folders_of_this_machine_get_names_that_say_no_place(given, said):
    names = {"/a/run": "RUN1", "runs/b": "RUN2", "runs/b/c": "RUN3"}
    assert portable({"x": [given, 7]}, names) == {"x": [said, 7]}


UNFIT = {
    "no export": ({}, "unfinished: it has no export"),
    "stopped": ({"step": 11}, "unfinished: it stopped at step 11 of 12"),
    "dirty": ({"git_sha": f"{SHA}-dirty"}, "trained by code that is in no commit"),
    "no checkout": ({"git_sha": "not a git checkout"}, "trained by code that is in no commit"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_a_run_that_is_not_fit_to_be_published_leaves_the_older_model_alone(case, tmp_path):
    note, sentence = UNFIT[case]
    folder = publish(finished_run(tmp_path / "good"), tmp_path / "checkpoints" / "tiny")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    run = finished_run(tmp_path / "run", seed=1, **note)
    if case == "no export":
        (run / "export" / CONFIG).unlink()
    with pytest.raises(ValueError, match=sentence):
        publish(run, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_code_in_no_commit_is_refused_in_a_run_that_it_was_started_from_too(tmp_path):
    first = finished_run(tmp_path / "first", git_sha=f"{SHA}-dirty")
    with pytest.raises(ValueError, match="in no commit"):
        publish(finished_run(tmp_path / "run", start=first), tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_a_run_of_a_study_is_published_with_its_quantizer(tmp_path, monkeypatch):
    clean = {"command": "python train.py -m experiment=scaling", "git_sha": SHA, "seed": 0}
    monkeypatch.setattr("studies.quantizers.provenance", lambda seed: clean)
    quantizer = shared(tmp_path / "study", "scaling.tokens=2e6")
    run, config = finished_run(tmp_path / "run"), tmp_path / "run" / "config" / "resolved.yaml"
    OmegaConf.save(OmegaConf.merge(OmegaConf.load(config), {"quantizer": str(quantizer)}), config)
    folder = publish(run, tmp_path / "checkpoints" / "tiny")
    (part,) = read_export(folder)[0]["note"]["made_from"]
    assert part["decided_by"]["steps"] == 4
    assert "no real frame was ever seen" in (folder / "README.md").read_text()
    about = json.loads((quantizer / CONFIG).read_text())
    about["note"]["made_from"] = about["note"].pop("decided_by")  # as it was once written
    (quantizer / CONFIG).write_text(json.dumps(about))
    assert lineage_of(run)[0] == part


def test_models_side_by_side_have_a_limit_and_one_that_is_replaced_does_not_count(
    tmp_path, monkeypatch
):
    run, beside = finished_run(tmp_path / "run"), tmp_path / "checkpoints"
    size = size_of(publish(run, beside / "one"))
    monkeypatch.setattr(door, "MOST_BYTES", size + 10)
    publish(run, beside / "one")
    with pytest.raises(ValueError, match=r"in .*, and at most"):
        publish(run, beside / "two")
    assert [path.name for path in beside.iterdir()] == ["one"]


def test_a_folder_of_somebody_elses_model_is_left_alone(tmp_path):
    theirs = tmp_path / "checkpoints" / "theirs"
    theirs.mkdir(parents=True)
    (theirs / "model.safetensors").write_bytes(b"theirs")
    with pytest.raises(ValueError, match="of another model than ours"):
        publish(finished_run(tmp_path / "run"), theirs)
    assert (theirs / "model.safetensors").read_bytes() == b"theirs"


def test_a_model_that_a_killed_process_had_moved_away_comes_back(tmp_path):
    folder = publish(finished_run(tmp_path / "run"), tmp_path / "checkpoints" / "tiny")
    folder.rename(folder.with_name(".tiny.old"))  # killed between two renames
    with pytest.raises(ValueError, match="unfinished"):
        publish(finished_run(tmp_path / "unfit", step=1), folder)
    assert is_export(folder) and [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_a_folder_on_its_way_does_not_count_as_a_model(tmp_path, monkeypatch):
    run, beside = finished_run(tmp_path / "run"), tmp_path / "checkpoints"
    monkeypatch.setattr(door, "MOST_BYTES", size_of(publish(run, beside / "one")) + 10)
    publish(run, beside / "one").rename(beside / ".other.old")
    publish(run, beside / "one")


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    leftover = tmp_path / "checkpoints" / ".tiny.partial"
    leftover.mkdir(parents=True)
    (leftover / "model.safetensors.partial").write_bytes(b"cut off")
    publish(finished_run(tmp_path / "run"), tmp_path / "checkpoints" / "tiny")
    assert [path.name for path in leftover.parent.iterdir()] == ["tiny"]


# --- figures -----------------------------------------------------------------------------------


def row(name: str, epe: float, paired: bool = True) -> dict:
    difference = {"name": "kl@64x64", "difference": epe - 2.0, "interval": [epe - 2.5, epe - 1.5]}
    own = {"name": name, "epe": epe, "epe_interval": [epe - 0.5, epe + 0.5], "seconds": 30.0}
    return own | {"paired_vs": difference if paired else None, "hit": 0.5, "oa": None}


def evaluation(controls_px: float = 40.0) -> dict:
    names = {"rgb@64x64": 2.5, "zero_motion": 4.0, "dis@native": 1.0, "dis@64x64": 3.0}
    names |= {"farneback@native": 1.5}
    how = {"tracer_config": {"num_masks": 8}, "zoom": {"scales": 3, "num_masks": 4}}
    return {
        "dataset": {"num_pairs": 10, "num_points": 320, "input_hw": [64, 64]},
        "protocol": how,
        "floor": 1.25,
        "tracers": [row("kl@64x64", 2.0, paired=False), *(row(*each) for each in names.items())],
        "controls": [row(name, controls_px) for name in claims_reference.CONTROLS],
    }


def result_file(folder: Path, sets: dict, weights: str) -> Path:
    model = {"name": "tiny", "fingerprint": weights}
    content = {"figures": {"model": model, "sets": sets}, "git_sha": SHA, "seeds": [0]}
    path = folder / "reference_tiny.json"
    path.write_text(json.dumps(content | {"machine": MACHINE}))
    return path


def test_figures_keep_intervals_and_paired_differences_of_every_row():
    found = figures_of_part("flow_gt_zoom", evaluation())
    said = "10 pairs, 8 masks, frames squeezed to 64x64 px for models"
    said += ", 3 scales, 4 masks in crops"
    assert (found["points"], found["protocol"], found["tracing_minutes"]) == (320, said, 4.5)
    assert found["tracers"]["dis@native"] == {
        "epe_px": 1.0, "epe_ci95_px": [0.5, 1.5], "hit": 0.5,
        "minus_kl_px": -1.0, "minus_kl_ci95_px": [-1.5, -0.5],
    }  # fmt: skip
    assert "minus_kl_px" not in found["tracers"]["kl@64x64"]
    assert list(found["controls"]) == list(claims_reference.CONTROLS)
    assert found["command"].startswith("python eval.py ckpt=checkpoints/NAME task=flow_pairs")
    assert "task.root=../shared/data/flow_gt" in found["command"]


def test_tracks_get_intervals_over_the_videos_that_can_be_scored():
    results, names = evaluation(), ("kl@64x64", "zero_motion")
    videos = [(1.0, 3.0), (2.0, 6.0), (3.0, 9.0), (2.0, 6.0)]
    results["videos"] = [
        {"num_points": 1, "scores": {n: {"epe": e} for n, e in zip(names, pair, strict=True)}}
        for pair in videos
    ]
    results["videos"].append({"num_points": 0, "scores": {}})
    results["dataset"] |= {"num_videos": 5}
    results["tracers"] = [each for each in results["tracers"] if each["name"] in names]
    for each in results["tracers"] + results["controls"]:
        each["epe_interval"] = None
    found = figures_of_part("tracks_long", results)
    low, high = found["tracers"]["zero_motion"]["epe_ci95_px"]
    assert 3 <= low < 6 < high <= 9
    low, high = found["tracers"]["zero_motion"]["minus_kl_ci95_px"]  # twice KL's in every video
    assert 2 <= low < 4 < high <= 6
    assert found["controls"]["untrained"]["epe_ci95_px"] is None
    assert "intervals over 4 videos" in found["protocol"]


def test_the_card_shows_the_figures_of_these_weights_and_of_no_others(tmp_path):
    folder = publish(finished_run(tmp_path / "run"), tmp_path / "tiny")
    sets = {"flow_gt": figures_of_part("flow_gt", evaluation())}
    own = fingerprint(read_export(folder)[1])
    write_card(folder, result_file(tmp_path, sets, own))
    cells = ["flow_gt: 320 points", "2.00 [1.50, 2.50]", "2.50 [2.00, 3.00]", "4.00 [3.50, 4.50]"]
    cells += ["1.00 [0.50, 1.50]", "-", "1.50 [1.00, 2.00]", "1.25"]
    said = (folder / "README.md").read_text()
    assert f"| {' | '.join(cells)} |" in said
    with pytest.raises(ValueError, match=r"is about weights 0000 and .* measure these"):
        write_card(folder, result_file(tmp_path, sets, "0000"))
    assert (folder / "README.md").read_text() == said


def test_the_promises_count_intervals_and_see_a_control_that_does_not_fail():
    figures = {"sets": {"flow_gt": figures_of_part("flow_gt", evaluation())}}
    assert claims_reference.with_interval("flow_gt")(figures).value == 5
    assert claims_reference.beside_zero("flow_gt")(figures).value == 0.5
    assert claims_reference.best_control("flow_gt")(figures).value == 10
    leaked = {"sets": {"flow_gt": figures_of_part("flow_gt", evaluation(controls_px=2.0))}}
    assert claims_reference.best_control("flow_gt")(leaked).value == 0.5
    figures["sets"]["flow_gt"]["tracers"]["dis@native"]["epe_ci95_px"][0] = float("nan")
    assert claims_reference.with_interval("flow_gt")(figures).value == 4


def test_parts_of_a_tree_that_differs_from_its_commit_are_not_those_of_the_commit():
    clean, dirty = (work_of("tiny", "00ff", sha).name for sha in (SHA, f"{SHA}-dirty"))
    assert (clean, dirty) == ("reference-tiny-00ff-01234567", "reference-tiny-00ff-01234567-dirty")


def test_every_set_that_is_promised_is_measured():
    assert claims_reference.SETS.keys() <= PARTS.keys()


def study(epe) -> list[dict]:
    """Sixteen runs; ``epe`` of parameters and budget."""
    rows = []
    for size in range(4):
        for budget in (1e6, 2e6):
            for seed in (0, 1):
                blocks = 100_000 * 2**size
                own = {"size": f"d{size}", "budget_unit": "tokens", "budget": budget, "seed": seed}
                rows.append(own | {"blocks": blocks, "easy/epe_px": float(epe(blocks, budget))})
    return rows


def test_the_trend_that_is_promised_is_the_one_on_the_page(tmp_path):
    def law(blocks, tokens, generator):
        return 1.0, (1 + 500 * blocks**-0.5) * np.exp(0.02 * generator.standard_normal())

    write_study(tmp_path / "runs", law, seeds=2, sizes=dict(list(SIZES.items())[:4]))
    found = collect(tmp_path / "runs")
    write_rows(rows_of(found, 0.5), tmp_path / "runs.csv")
    figure = claims_reference.trend(read_rows(tmp_path / "runs.csv"), num_draws=20)
    assert figure.value == 2
    page = findings(found, "easy", 0.5, 0, 20)
    for budget in ("1M tokens", "4M tokens"):
        (exponent,) = page.fit("EPE", "parameters", budget).exponents
        rho = page.ranks[budget].rho
        said = f"{budget}: exponent {interval(exponent, '.2g')}, rank correlation "
        assert said + interval(rho, "+.2f") in figure.note


def test_errors_that_have_nothing_to_do_with_size_are_not_called_a_trend():
    """Each run is given the error of one of the study's runs, drawn at random."""
    errors = [row["easy/epe_px"] for row in claims_reference.study_rows()]
    draw, told = np.random.default_rng(0), []
    for _ in range(6):
        rows = study(lambda *_: draw.choice(errors))
        for budget in (1e6, 2e6):
            own = [row for row in rows if row["budget"] == budget]
            law, rank = claims_reference.with_size(own, "easy/epe_px", num_draws=40)
            told += [law.has_trend, rank.is_told]
    assert sum(told) <= 3  # of 24; more would happen by chance 3 times in 100, at the 5 % promised


def test_a_study_of_too_few_sizes_is_told_so_and_has_no_interval():
    rows = [row for row in study(lambda blocks, _: blocks**-0.5) if row["size"] != "d3"]
    figure = claims_reference.trend(rows, num_draws=20)
    assert figure.value == 0 and "1M tokens: 3 distinct points for a law" in figure.note


def test_a_study_counts_the_sizes_that_are_complete():
    rows = study(lambda *_: 1.0)
    assert claims_reference.full_cells(rows).value == 4
    assert claims_reference.full_cells(rows[:-1]).value == 3


def test_a_study_or_a_model_that_is_not_there_is_not_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_reference, "STUDY", tmp_path / "study.csv")
    monkeypatch.setattr(claims_reference, "LAWS", (tmp_path / "laws.py",))
    words = {judge(claim).word for claim in claims_reference.study_claims()}
    words |= {judge(claim).word for claim in claims_reference.model_claims("none.json", "none")}
    assert words == {"NOT MEASURED"}


# --- what is committed -------------------------------------------------------------------------

COMMITTED = sorted(path.name for path in CHECKPOINTS.iterdir() if is_export(path))


def test_the_best_model_is_there_and_all_of_them_stay_small():
    assert BEST in COMMITTED
    assert sum(size_of(CHECKPOINTS / name) for name in COMMITTED) <= MOST_BYTES


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_model_loads_and_its_card_is_the_one_its_facts_give(name):
    folder = CHECKPOINTS / name
    about, weights = read_export(folder)
    load(folder)
    for part in [*about["note"]["made_from"], about["note"]]:
        door.check_commit(part)
    path = ROOT / "benchmarks" / "results" / f"reference_{name}.json"
    measured = json.loads(path.read_text()) if path.is_file() else None
    count = sum(value.numel() for value in weights.values())
    assert (folder / "README.md").read_text() == card(name, about, count, measured)
    if measured:
        assert measured["figures"]["model"]["fingerprint"] == fingerprint(weights)
    words = re.findall(r"(?<![\w.])/(?:tmp|home|work|root|mnt)/\S*", json.dumps(about))
    assert words == []
