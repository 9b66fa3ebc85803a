"""The doors from end to end, bad input at them, and our modules in a bare lightning.Trainer."""

import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir

import eval as eval_door
import train as train_door
from data.curriculum import Stage, SyntheticDataModule
from data.datamodule import ClipDataModule
from data.synthetic import SceneConfig
from lras.checkpoint import CONFIG, WEIGHTS, load, save
from lras.config import PredictorConfig, QuantizerConfig
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer
from lras.quantizer_module import QuantizerModule
from tests.fake_datasets import write_clip_shards, write_flow_pair
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.config import TracerConfig
from tracing.probe import FlowProbe
from tracing.reveal import draw_masks

ROOT = Path(__file__).resolve().parents[1]
SCENE = SceneConfig(size=16, max_motion_px=4.0, snap_px=4, still=0.0, texels_per_px=(2.0, 4.0))


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
    assert [point["step"] for point in history] == [6, 12]
    header, *rows = (smoke_run / "metrics.csv").read_text().splitlines()
    column = header.split(",").index("flow/held_out/epe")
    assert len([row for row in rows if row.split(",")[column]]) == 2
    exported, resumable = load(smoke_run), load(smoke_run / "checkpoints" / "last.ckpt")
    assert states_equal(exported, resumable)
    note = json.loads((smoke_run / "export" / CONFIG).read_text())["note"]
    assert note["step"] == 12 and note["machine"]


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
    assert [point["step"] for point in results["curve"]] == [6, 12]
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


def tiny_model(seed: int = 0) -> NextFrame:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        quantizer = Quantizer(QuantizerConfig(num_codes=16))
        quantizer.bottleneck.initialize(
            torch.randn(400, 48) / 4, torch.Generator().manual_seed(seed)
        )
        predictor = FramePredictor(
            PredictorConfig(image_size=16, num_codes=16, dim=16, num_heads=2, num_layers=1)
        )
    predictor.set_code_pixels(quantizer.code_pixels())
    return NextFrame(quantizer, predictor)


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
    "no ckpt": (lambda p: ("tracer=kl",), "pass ckpt=RUN"),
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
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert set(left) <= {"config.yaml", "hydra.yaml", "overrides.yaml", "train.log"}


@pytest.mark.slow
def test_a_door_in_a_process_of_its_own_shows_no_traceback(tmp_path):
    done = command("eval.py", "tracer=kl", f"hydra.run.dir={tmp_path / 'out'}")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: tracer=kl needs a model")
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


# --- a plain Trainer ---------------------------------------------------------------------------


class Losses(L.Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, *_):
        self.values.append(outputs["loss"].item())

    def fell(self) -> bool:
        third = len(self.values) // 3
        return sum(self.values[-third:]) < sum(self.values[:third])


def plain_trainer(steps: int, *callbacks: L.Callback, **extra) -> L.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
    return L.Trainer(
        accelerator="cpu", devices=1, max_steps=steps, callbacks=list(callbacks), **(quiet | extra)
    )


def scenes(steps: int) -> SyntheticDataModule:
    stage = Stage(steps=steps, batch=8, scene=SCENE)
    return SyntheticDataModule([stage], seed=0, val_batches=2, textures=20)


def clips(folder: Path) -> ClipDataModule:
    for split in ("train", "val"):
        write_clip_shards(folder / split, num_clips=8, size=16)
    return ClipDataModule(folder, batch_size=4, max_gap=2, shuffle=4)


def predictor_module(seed: int = 0) -> PredictorModule:
    model = tiny_model(seed)
    return PredictorModule(model.predictor, model.quantizer, warmup_steps=2, seed=seed)


def states_equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_plain_trainer_fits_validates_and_tests_the_quantizer_on_scenes():
    # Unlike a k-means codebook, which starts near its optimum, this one has all to learn.
    cfg = QuantizerConfig(bottleneck="fsq", num_codes=16, levels=(4, 4), hidden=32)
    module, losses = QuantizerModule(Quantizer(cfg), lr=0.01), Losses()
    trainer, data = plain_trainer(24, losses), scenes(24)
    trainer.fit(module, data)
    assert losses.fell()
    (validated,) = trainer.validate(module, data, verbose=False)
    (tested,) = trainer.test(module, data, verbose=False)
    assert validated == tested and validated["quantizer/val_psnr_db"] > 5


def test_plain_trainer_fits_validates_and_tests_the_predictor_on_scenes():
    module, losses = predictor_module(), Losses()
    trainer, data = plain_trainer(24, losses), scenes(24)
    quantizer = module.quantizer.fingerprint()
    trainer.fit(module, data)
    assert losses.fell()
    (validated,) = trainer.validate(module, data, verbose=False)
    (tested,) = trainer.test(module, data, verbose=False)
    assert validated == tested and 0 < validated["val/nats_per_code"] < 3
    assert module.quantizer.fingerprint() == quantizer  # frozen


def test_plain_trainer_fits_validates_and_tests_both_modules_on_clip_shards(tmp_path):
    data = clips(tmp_path)
    first = QuantizerModule(Quantizer(QuantizerConfig(num_codes=16)))
    trainer, losses = plain_trainer(6), Losses()
    trainer.fit(first, data)
    trainer.validate(first, data, verbose=False)
    trainer.test(first, data.val_dataloader(), verbose=False)

    predictor = tiny_model().predictor
    module = PredictorModule(predictor, first.quantizer.eval(), warmup_steps=2)
    trainer = plain_trainer(24, losses)
    trainer.fit(module, data)
    assert losses.fell()
    (validated,) = trainer.validate(module, data, verbose=False)
    (tested,) = trainer.test(module, data.val_dataloader(), verbose=False)
    assert validated == tested


def test_plain_trainer_trains_the_same_weights_with_and_without_the_probe(tmp_path):
    pairs = synthetic_pairs(SCENE, num_pairs=2, points_per_pair=2, seed=7)

    def trained(*callbacks, **extra):
        module = predictor_module()
        plain_trainer(6, *callbacks, default_root_dir=tmp_path, **extra).fit(module, scenes(6))
        return module

    probe = FlowProbe({"held_out": pairs}, every_n_steps=2, tracer=TracerConfig(num_masks=2))
    assert states_equal(trained(), trained(probe))
    assert [point["step"] for point in probe.history] == [2, 4, 6]
    assert json.loads((tmp_path / "probe.json").read_text()) == probe.history


def test_plain_trainer_probes_in_full_precision_whatever_the_trainer_uses(tmp_path):
    pairs = synthetic_pairs(SCENE, num_pairs=2, points_per_pair=2, seed=7)
    probe = FlowProbe({"held_out": pairs}, every_n_steps=2, tracer=TracerConfig(num_masks=2))
    module, seen = predictor_module(), set()
    layer = module.predictor.blocks[0].attention.out
    layer.register_forward_hook(
        lambda own, given, out: None if own.training else seen.add(out.dtype)
    )
    trainer = plain_trainer(2, probe, precision="bf16-mixed", default_root_dir=tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as if a hook ran inside the step
        trainer.fit(module, scenes(2).train_dataloader())
    assert seen == {torch.float32}


def test_plain_trainer_checkpoint_loads_as_the_live_model(tmp_path):
    module = predictor_module()
    trainer = plain_trainer(4)
    trainer.fit(module, scenes(4))
    trainer.save_checkpoint(tmp_path / "some.ckpt")
    live, loaded = module.next_frame(), load(tmp_path / "some.ckpt")
    assert states_equal(live, loaded)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert torch.equal(logits(live.eval()), logits(loaded))


def test_an_export_loads_as_the_model_that_was_saved(tmp_path):
    model = tiny_model().eval()
    loaded = load(save(model, tmp_path / "export", {"step": 3}))
    assert states_equal(model, loaded)
    assert (loaded.predictor.cfg, loaded.quantizer.cfg) == (
        model.predictor.cfg,
        model.quantizer.cfg,
    )
    assert torch.equal(logits(model), logits(loaded))
    assert {path.name for path in (tmp_path / "export").iterdir()} == {CONFIG, WEIGHTS}


def logits(model: NextFrame) -> torch.Tensor:
    frames = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    codes0, codes1 = model.encode(frames[:1]), model.encode(frames[1:])
    masks = draw_masks(16, 1, 0.25, seed=0)
    return model.frame1_logits(codes0, codes1, masks.reveal, masks.order0, masks.order1, "all")
