"""The doors from end to end, and bad input at them."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import eval as eval_door
import train as train_door
from lras.checkpoint import CONFIG, load, save
from tests.fake_datasets import write_flow_pair
from tests.tiny_model import states_equal, tiny_model
from tracing.config import TracerConfig

ROOT = Path(__file__).resolve().parents[1]


def command(*words: str) -> subprocess.CompletedProcess:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=env, capture_output=True, text=True
    )


# --- the doors ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smoke_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    done = command("train.py", "experiment=smoke", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_training_leaves_metrics_a_probe_history_checkpoints_and_an_export(smoke_run):
    history = json.loads((smoke_run / "probe.json").read_text())
    assert [point["step"] for point in history] == [0, 6, 12]
    header, *rows = (smoke_run / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("flow/held_out/epe")
    assert len([row for row in rows if row.split(",")[column]]) == 3
    assert "memory: a process is planned to take 0.00" in (smoke_run / "train.log").read_text()
    exported, resumable = load(smoke_run), load(smoke_run / "checkpoints" / "last.ckpt")
    assert states_equal(exported, resumable)
    note = json.loads((smoke_run / "export" / CONFIG).read_text())["note"]
    assert note["step"] == 12 and note["machine"]
    assert note["flow_epe_px"] == {
        "held_out": pytest.approx(history[-1]["flow/held_out/epe"], abs=1e-4)
    }
    card = str(exported.generate_model_card())
    facts = [note["data"], f"{note['tokens']:,}", note["protocol"], "held_out "]
    assert all(f"| {fact}" in card for fact in facts)


@pytest.mark.slow
def test_evaluation_of_a_run_on_scenes_leaves_all_it_promises(smoke_run, tmp_path):
    words = (f"ckpt={smoke_run}", "task=synthetic", "scene.size=16", "scene.max_motion_px=4")
    words += ("num_pairs=6", "report=true", "tracer.cfg.num_masks=2", f"hydra.run.dir={tmp_path}")
    done = command("eval.py", *words)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    baselines = ["zero_motion", "dis", "dis_x4", "best_translation", "nearest_patch_color"]
    assert [row["name"] for row in results["tracers"]] == ["kl", "rgb", *baselines]
    controls = {row["name"]: row for row in results["controls"]}
    assert list(controls) == ["untrained", "random_point", "zero_amplitude"]
    assert controls["zero_amplitude"]["ratio_to_zero"] == 1
    assert controls["untrained"]["epe"] != controls["zero_amplitude"]["epe"]  # it does speak
    assert results["dataset"] == {
        "name": "easy", "num_pairs": 6, "num_points": 24, "resolution_hw": [16, 16],
    }  # fmt: skip
    assert results["protocol"]["tracer_config"]["num_masks"] == 2
    assert results["protocol"]["ckpt"] == str(smoke_run)
    assert [point["step"] for point in results["curve"]] == [0, 6, 12]
    assert results["curve_lines"].keys() == {"zero motion", "DIS", "read-out floor"}
    assert "eval.py" in results["provenance"]["command"]
    assert all(row["paired_vs"]["name"] == "kl" for row in results["tracers"][1:])
    check_files(tmp_path, results, maps=4, arrows=2)


@pytest.mark.slow
def test_evaluation_of_a_run_on_flow_pairs_gives_one_table_in_native_pixels(smoke_run, tmp_path):
    for name, size in (("a", (24, 32)), ("b", (20, 28))):
        write_flow_pair(tmp_path / "pairs" / name, size=size, masks=True)
    out = tmp_path / "out"
    words = (f"ckpt={smoke_run}", "task=flow_pairs", f"task.root={tmp_path / 'pairs'}")
    words += ("report=true", "tracer=rgb", f"hydra.run.dir={out}")
    done = command("eval.py", *words)
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    names = [row["name"] for row in results["tracers"]]
    assert names[:2] == ["rgb@16x16", "kl@16x16"]
    assert {"zero_motion", "dis@native", "dis@16x16"} <= set(names)
    assert results["dataset"]["resolution_hw"] is None
    assert results["dataset"]["input_hw"] == [16, 16]
    assert [pair["name"] for pair in results["pairs"]] == ["a", "b"]
    assert results["pairs"][0]["epe"]["zero_motion"] == pytest.approx(5**0.5)  # moved by (2, 1)
    check_files(out, results, maps=2, arrows=2)
    assert "24x32" in (out / "table.txt").read_text()


def check_files(out: Path, results: dict, maps: int, arrows: int) -> None:
    listed = [picture["file"] for picture in results["pictures"]]
    assert sum("kl_map" in name for name in listed) == maps
    assert sum("arrows" in name for name in listed) == arrows
    assert all((out / name).stat().st_size > 1000 for name in listed)
    for name in ("points.npz", "table.txt", "report.html"):
        assert (out / name).stat().st_size > 100
    assert not [path for path in out.rglob(".*")]  # nothing half-written


def test_every_field_of_the_tracer_can_be_set_and_starts_at_its_documented_value():
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        given = dict(compose("eval").tracer.cfg)
    given.pop("_target_")
    assert given == dataclasses.asdict(TracerConfig())


# --- bad input at the doors --------------------------------------------------------------------


@pytest.fixture
def knock(tmp_path, monkeypatch, capsys):
    """Run a door in this process; returns exit status and what stands on stderr."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(door, *words):
        # As an imported module a door would look for a package named configs.
        argv = [door.__name__, "--config-path", str(ROOT / "configs"), *words]
        monkeypatch.setattr(sys, "argv", [*argv, f"hydra.run.dir={tmp_path}/out"])
        with pytest.raises(SystemExit) as stop:
            door.main()
        said, code = capsys.readouterr().err, stop.value.code
        # The interpreter prints a string and exits with 1.
        return (1, said + code) if isinstance(code, str) else (code, said)

    yield run
    root.handlers[:], root.level = handlers, level


def flow_folder(tmp_path: Path, **sizes) -> Path:
    return write_flow_pair(tmp_path / "pairs" / "a", **sizes).parent


def wrong_magic(tmp_path: Path) -> Path:
    root = flow_folder(tmp_path)
    content = (root / "a" / "flow.flo").read_bytes()
    (root / "a" / "flow.flo").write_bytes(b"NOPE" + content[4:])
    return root


def other_config(tmp_path: Path) -> Path:
    folder = save(tiny_model(), tmp_path / "export")
    about = json.loads((folder / CONFIG).read_text())
    about["predictor"]["dim"] = 32
    (folder / CONFIG).write_text(json.dumps(about))
    return folder


def empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


PAIRS = ("tracer=dis", "task=flow_pairs")
BAD_INPUT = {
    "missing folder": (lambda p: (*PAIRS, f"task.root={p}/none"), "no folder"),
    "no folder": (lambda p: PAIRS, "task.root=DIR"),
    "empty folder": (lambda p: (*PAIRS, f"task.root={empty(p)}"), "holds no flow pair"),
    "wrong magic": (lambda p: (*PAIRS, f"task.root={wrong_magic(p)}"), "is no .flo file"),
    "sizes differ": (
        lambda p: (*PAIRS, f"task.root={flow_folder(p, frame1_size=(10, 16))}"),
        "frame1.png is 10x16 px",
    ),
    "no ckpt": (lambda p: ("tracer=kl", "ckpt=null"), "pass ckpt=RUN"),
    "missing ckpt": (lambda p: (f"ckpt={p}/none",), "no checkpoint at"),
    "empty ckpt": (lambda p: (f"ckpt={empty(p)}",), "no checkpoint at"),
    "other config": (lambda p: (f"ckpt={other_config(p)}",), "do not fit their config"),
    "bad tracer": (
        lambda p: (*PAIRS, f"task.root={flow_folder(p)}", "tracer.cfg.num_masks=0"),
        "num_masks=0",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_ends_evaluation_with_one_sentence_and_nothing_written(case, knock, tmp_path):
    words, sentence = BAD_INPUT[case]
    status, said = knock(eval_door, *words(tmp_path))
    assert status == 1
    assert said.startswith("error: ") and sentence in said
    assert len(said.splitlines()) == 1 and "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("door", [eval_door, train_door])
@pytest.mark.parametrize("word", ["ckp=x", "paths.output=x"])
def test_a_misspelt_key_is_named_and_ends_the_command(door, word, knock, tmp_path):
    status, said = knock(door, word)
    assert status == 1
    assert word.split("=")[0].split(".")[-1] in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "word, sentence",
    [
        ("quantizer=/no/such/run", "no checkpoint at"),
        ("data.stages=[]", "data.stages is empty"),
        ("data.stages.0.scene.min_sprites=3", "min_sprites=3 is not between"),
    ],
)
def test_bad_input_ends_training_with_one_sentence_before_it_starts(
    word, sentence, knock, tmp_path
):
    extra = ("+" if "min_sprites" in word else "") + word
    status, said = knock(train_door, "experiment=smoke", extra)
    assert status == 1
    assert said.startswith("error: ") and sentence in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_training_without_an_experiment_says_which_there_are(knock, tmp_path):
    status, said = knock(train_door)
    assert status == 1 and said.startswith("error: no experiment is named") and "demo" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_door_in_a_process_of_its_own_shows_no_traceback(tmp_path):
    done = command("eval.py", "ckpt=null", f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: tracer=kl needs a model")
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_null_and_values_for_what_nobody_chose_are_no_callbacks():
    target = {"_target_": "lightning.pytorch.callbacks.DeviceStatsMonitor"}
    group = OmegaConf.create({"probe": {"sets": {}}, "pictures": None, "stats": target})
    (made,) = train_door.named(group)
    assert type(made).__name__ == "DeviceStatsMonitor"
