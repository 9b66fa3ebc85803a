"""``task=pair``: flow files from two images, an interruption survived, mistakes in one sentence."""

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from PIL import Image
from rich.console import Console

import eval as door
from data.readers.flow_files import read_flow, write_flow
from doors.asking_pair import Pair, fits_kitti
from doors.kept import Kept
from doors.progress import progress
from lras.checkpoint import save
from tests.tiny_model import tiny_model
from tracing.asking import Asking
from tracing.config import Traces

ROOT = Path(__file__).resolve().parents[1]


class Slanted:
    """An affine motion; stops with an error at call number ``breaks_at``."""

    name, needs_model = "slanted", False

    def __init__(self, breaks_at=None, shift=(3.0, 0.0)):
        self.breaks_at, self.shift, self.calls = breaks_at, torch.tensor(shift), 0

    def __call__(self, frame0, frame1, points, seed=0):
        if self.calls == self.breaks_at:
            raise KeyboardInterrupt
        self.calls += 1
        xy = points + 0.125 * points.flip(-1) + self.shift
        return Traces(xy=xy, visible=xy[..., 0] < 40, peak_kl=(xy**2).sum(-1).double() / 3)


@pytest.fixture
def images(tmp_path):
    paths = []
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (32, 48, 3)).astype(np.uint8)
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(paths[-1])
    return paths


def answered(images, folder, tracer):
    question = Pair(*images)
    how = Asking(seed=1, back=False, block=7, memory=Kept(folder, question.inputs()))
    return question.answer(tracer, (4, 6), how)


def test_an_interrupted_run_goes_on_and_ends_with_the_same_bits(images, tmp_path):
    whole = answered(images, tmp_path / "whole", Slanted())
    with pytest.raises(KeyboardInterrupt):
        answered(images, tmp_path / "twice", Slanted(breaks_at=2))
    second = Slanted()
    resumed = answered(images, tmp_path / "twice", second)
    assert second.calls == 2  # of four blocks
    for name, value in vars(whole).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(resumed, name)), name
    third = Slanted()
    answered(images, tmp_path / "twice", third)
    assert third.calls == 0


def test_other_images_are_another_question(images, tmp_path):
    answered(images, tmp_path / "answers", Slanted())
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(images[1])
    with pytest.raises(ValueError, match="frame1_sha256 was"):
        answered(images, tmp_path / "answers", Slanted())


def test_every_format_holds_the_flow(images, tmp_path):
    result = answered(images, tmp_path / "answers", Slanted())
    written = Pair(*images).write(tmp_path, result, Console(quiet=True))
    names = ["flow.flo", "flow.png", "flow.npz", "flow_color.png", "pair.png"]
    assert [path.name for path in written] == names
    for name, off in (("flow.flo", 0.0), ("flow.png", 1 / 128), ("flow.npz", 0.0)):
        flow, valid = read_flow(tmp_path / name)
        assert (flow - result.flow).abs().max() <= off and valid.all()
    stored = np.load(tmp_path / "flow.npz")
    assert stored["points"].shape == (4, 6, 2) and stored["grid_flow"].shape == (2, 4, 6)
    assert (stored["visible"] == (stored["confidence"] >= 0.5)).all()
    assert "peak_kl" in stored and "return_px" not in stored
    assert Image.open(tmp_path / "flow_color.png").size == (48, 32)


def test_a_lost_point_bleaches_no_color(images, tmp_path):
    result = answered(images, tmp_path / "answers", Slanted())
    question, colors, pictures = Pair(*images, formats=["color", "picture"]), [], []
    for lost_px in (50.0, 500.0):
        flow = result.flow.clone()
        flow[:, 0, 0] = lost_px
        shown = replace(result, flow=flow, visible=torch.ones_like(result.visible))
        color, picture = question.write(tmp_path, shown, Console(quiet=True))
        colors.append(np.asarray(Image.open(color)))
        pictures.append(picture.read_bytes())
    assert np.array_equal(*colors) and pictures[0] == pictures[1]
    assert (colors[0].min(-1) == 0).any()  # full color is reached


def test_flow_too_long_for_kitti_is_left_out_with_a_word(images, tmp_path):
    result = answered(images, tmp_path / "answers", Slanted(shift=(600.0, 0.0)))
    console = Console(width=200, record=True, file=io.StringIO())
    question = Pair(*images, formats=["flo", "kitti"])
    assert [path.name for path in question.write(tmp_path, result, console)] == ["flow.flo"]
    said = console.export_text()
    assert "warning: flow.png left out" in said and len(said.strip().splitlines()) == 1
    assert not (tmp_path / "flow.png").exists()


@pytest.mark.parametrize(
    "u, fits", [(511.98, True), (511.995, False), (-512.0, True), (-512.02, False)]
)
def test_kitti_files_are_asked_for_only_where_they_can_be_written(u, fits, tmp_path):
    flow = torch.zeros(2, 4, 5)
    flow[0, 1, 1] = u
    assert fits_kitti(flow) == fits
    if fits:
        write_flow(tmp_path / "a.png", flow)
    else:
        with pytest.raises(ValueError, match="512"):
            write_flow(tmp_path / "a.png", flow)


def test_bad_input_is_refused_before_anything_is_asked(images, tmp_path):
    small = tmp_path / "small.png"
    Image.fromarray(np.zeros((32, 40, 3), np.uint8)).save(small)
    with pytest.raises(ValueError, match=r"one size, got 48x32 px .* and 40x32 px .*small\.png"):
        Pair(images[0], small)
    with pytest.raises(ValueError, match=r"gone\.png is not a file"):
        Pair(images[0], tmp_path / "gone.png")
    with pytest.raises(ValueError, match="task=pair needs two images"):
        Pair(images[0], None)
    with pytest.raises(ValueError, match=r"task\.formats: 'exr' is not known"):
        Pair(*images, formats=["flo", "exr"])


def evaluate(out: Path, *words: str) -> str:
    """What eval.py says, run in this process."""
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        cfg = compose("eval", ["task=pair", *words])
    console = Console(width=200, record=True, file=io.StringIO())
    out.mkdir(exist_ok=True)
    door.run(cfg, out, console)
    return console.export_text()


def test_the_door_writes_goes_on_and_refuses_another_question(images, tmp_path):
    export = save(tiny_model(), tmp_path / "export")
    out, (frame0, frame1) = tmp_path / "out", images
    words = [f"ckpt={export}", f"task.frame0={frame0}", f"task.frame1={frame1}", "task.block=6"]
    words += ["tracer.cfg.num_masks=2"]
    assert f"the same command with hydra.run.dir={out} goes on" in evaluate(out, *words)
    results = json.loads((out / "results.json").read_text())
    assert results["task"] == "pair" and results["tracer"] == "kl@16x16"
    assert results["num_points"] == 16 and results["traced_back"] and results["return_px"] == 12
    assert results["floor"]["cell_hw_px"] == [8.0, 12.0]
    assert results["floor"]["largest_px"] == pytest.approx((4**2 + 6**2) ** 0.5)
    assert results["points_per_second"] > 0 and results["protocol"]["fingerprint"]
    assert results["protocol"]["grid_hw"] == [4, 4] and "git_sha" in results["provenance"]
    assert len(list((out / "answers").glob("*.npz"))) == 3
    flow = (out / "flow.flo").read_bytes()
    (out / "answers" / "points-000001.npz").unlink()
    (out / "flow.flo").unlink()

    said = evaluate(out, *words, "task.formats=[flo,npz]", "tracer.engine.max_tokens=4096")
    assert "10 of 16 answers were there already" in said
    assert (out / "flow.flo").read_bytes() == flow

    with pytest.raises(ValueError, match="another question: seed was 0 and is 1 now"):
        evaluate(out, *words, "seed=1")
    assert (out / "flow.npz").exists()


def test_a_log_gets_lines_with_the_time_left(monkeypatch):
    clock = iter([0.0, 20.0, 40.0, 60.0, 80.0])
    monkeypatch.setattr("doors.progress.time.monotonic", lambda: next(clock))
    console = Console(width=200, record=True, file=io.StringIO())
    with progress(100, console) as tell:
        for count, known in ((50, True), (10, False), (10, False), (10, False), (20, False)):
            tell(count, known)
    said = console.export_text().splitlines()
    assert said == [
        "70 of 100 answers, 60 s left",  # 20 in 40 s, 30 to come
        "100 of 100 answers, 0 s left",
        "50 of 100 answers were there already",
    ]


def test_ctrl_c_ends_with_how_to_go_on(images, tmp_path, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("doors.asking_pair.dense_flow", interrupted)
    with pytest.raises(SystemExit) as stopped:
        evaluate(tmp_path, f"task.frame0={images[0]}", f"task.frame1={images[1]}", "tracer=dis")
    assert stopped.value.code == 130


def test_a_baseline_needs_no_checkpoint(images, tmp_path):
    words = [f"task.frame0={images[0]}", f"task.frame1={images[1]}", "tracer=dis", "patch_px=8"]
    evaluate(tmp_path, *words, "task.stride=2")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_points"] == 6 and results["floor"] is None


@pytest.mark.slow
def test_a_mistake_on_the_command_line_is_one_sentence_and_leaves_nothing(images, tmp_path):
    command = [sys.executable, "eval.py", "task=pair", f"hydra.run.dir={tmp_path / 'out'}"]
    command += ["ckpt=null", f"task.frame0={images[0]}", f"task.frame1={images[1]}"]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    failed = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert failed.returncode == 1 and len(failed.stderr.splitlines()) == 1
    assert failed.stderr.startswith("error: tracer=kl needs a model")
    assert not (tmp_path / "out").exists()
