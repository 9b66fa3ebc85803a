"""The evaluation door traces with published checkpoints as they come."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from rich.console import Console

import doors.loading
from doors.loading import load_model, untrained_like
from lras.checkpoint import load_predictor, save
from lras.memory import Need, check_memory, needed
from lras.next_frame import NextFrame
from lras.official.read_out import PatchParallelNextFrame
from lras.predictor import FramePredictor
from tests.official_files import PREDICTOR, QUANTIZER, write_file
from tests.tiny_model import tiny_model

ROOT = Path(__file__).resolve().parents[1]
TINY = ("task=synthetic", "scene.size=16", "scene.max_motion_px=4", "num_pairs=2", "threads=1")


def evaluate(*words: str) -> subprocess.CompletedProcess:
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "eval.py", *TINY, *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)


@pytest.fixture
def files(tmp_path):
    return write_file(tmp_path / "p.pt", PREDICTOR), write_file(tmp_path / "q.pt", QUANTIZER)


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("dtype=bfloat16",),
        ("offload=true",),
        ("hidden_patches=published",),
        ("vocabulary=full", "hidden_patches=published"),
    ],
)
def test_a_published_predictor_and_quantizer_are_traced_with(tmp_path, files, words):
    out = tmp_path / "out"
    named = (f"ckpt={files[0]}", f"quantizer={files[1]}", f"hydra.run.dir={out}")
    done = evaluate(*named, *words, "tracer.cfg.num_masks=1")
    assert done.returncode == 0, done.stderr
    results = json.loads((out / "results.json").read_text())
    assert [row["name"] for row in results["tracers"]][:2] == ["kl", "rgb"]
    assert {"untrained", "zero_amplitude"} <= {row["name"] for row in results["controls"]}
    protocol = results["protocol"]
    assert protocol["ckpt"] == str(files[0]) and protocol["quantizer"] == str(files[1])
    assert protocol["dtype"] == ("bfloat16" if "dtype=bfloat16" in words else "float32")
    assert protocol["hidden_patches"] == ("published" if "hid" in words[-1] else "apart")
    assert protocol["vocabulary"] == ("full" if "voc" in words[0] else "content")
    assert "mean code vector" in protocol["rgb"]


def configured(*words: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        return compose("eval", list(words))


@pytest.mark.parametrize("offload", ["true", "false"])
def test_hidden_patches_are_read_as_published_in_the_model_and_its_untrained_control(
    files, offload
):
    words = (f"ckpt={files[0]}", f"quantizer={files[1]}", f"offload={offload}")
    frames = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    order, reveal = torch.tensor([[1, 3, 0, 2]]), torch.tensor([[False, True, False, False]])
    answers = {}
    for how in ("apart", "published"):
        model = load_model(configured(*words, f"hidden_patches={how}"), Console())
        untrained = untrained_like(model, seed=0, offload=offload == "true")
        assert isinstance(untrained, PatchParallelNextFrame) == (how == "published")
        assert not any(value.requires_grad for value in model.parameters())
        codes = [model.encode(frame[None]) for frame in frames]
        for each, name in ((model, "model"), (untrained, "untrained")):
            answers[name, how] = each.frame1_logits(*codes, reveal, order, order)
    for name in ("model", "untrained"):
        assert not torch.allclose(answers[name, "apart"], answers[name, "published"], atol=1e-4)
    twin = PatchParallelNextFrame(model.quantizer, load_predictor(files[0]))
    assert torch.equal(
        answers["model", "published"], twin.frame1_logits(*codes, reveal, order, order)
    )


def test_a_model_without_slots_is_not_read_as_published(tmp_path):
    folder = save(tiny_model(), tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"needs positions=slot .* got positions=rotary") as error:
        load_model(configured(f"ckpt={folder}", "hidden_patches=published"), Console())
    assert str(error.value).count(". ") == 0 and "hidden_patches=apart" in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    "which, sentence",
    [
        ((0, None, ""), "pass quantizer=FILE as well"),
        ((1, 0, ""), "pass it as quantizer=, not as ckpt="),
        ((0, 0, ""), "pass it as ckpt=, not as quantizer="),
        ((0, 1, "dtype=float7"), "use float64, float32, bfloat16 or float16"),
        ((0, 1, "hidden_patches=first"), "hidden_patches=first is not known; use apart or publ"),
        ((0, 1, "vocabulary=flow"), "vocabulary=flow is not known; use content or full"),
        (
            (0, 1, "max_batch=100000000"),
            "try dtype=bfloat16 or max_batch=50000000 or controls=false.",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(tmp_path, files, which, sentence):
    ckpt, quantizer, word = which
    words = [f"ckpt={files[ckpt]}", f"hydra.run.dir={tmp_path / 'out'}", *([word] if word else [])]
    words += [] if quantizer is None else [f"quantizer={files[quantizer]}"]
    done = evaluate(*words)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


# --- the vocabulary -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["apart", "published"])
@pytest.mark.parametrize("read_out", ["all", "first"])
def test_the_full_vocabulary_adds_pointers_behind_the_codes(files, how, read_out):
    words = (f"ckpt={files[0]}", f"quantizer={files[1]}", f"hidden_patches={how}")
    order, reveal = torch.tensor([[1, 3, 0, 2]]), torch.tensor([[False, True, False, False]])
    frames = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    found = {}
    for vocabulary in ("content", "full"):
        model = load_model(configured(*words, f"vocabulary={vocabulary}"), Console())
        codes = [model.encode(frame) for frame in frames]
        found[vocabulary] = model.frame1_logits(*codes, reveal, order, order, read_out)
        assert untrained_like(model, seed=0).vocabulary == vocabulary
    content, full = found.values()
    codes = PREDICTOR["rgb_range"][1]
    assert content.shape[-1] == codes and full.shape[-1] == PREDICTOR["vocab_size"]
    torch.testing.assert_close(full[..., :codes], content)
    assert full[..., codes:].any()
    if read_out == "all":  # an expected color is one among the codes
        torch.testing.assert_close(model.expected_rgb(full), model.expected_rgb(content))


def test_a_model_that_scores_no_pointers_has_no_full_vocabulary():
    model = tiny_model()
    with pytest.raises(ValueError, match=r"got positions=rotary and tied_head=True; use") as error:
        NextFrame(model.quantizer, model.predictor, "full")
    assert "vocabulary=content" in str(error.value) and "\n" not in str(error.value)


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("offload", [True, False])
def test_the_untrained_control_is_never_larger_than_the_model(files, monkeypatch, offload):
    kinds = []

    class Watched(FramePredictor):
        def __init__(self, cfg):
            super().__init__(cfg)
            kinds.extend(value.dtype for value in self.parameters())

    words = (f"ckpt={files[0]}", f"quantizer={files[1]}", "dtype=bfloat16")
    model = load_model(configured(*words, f"offload={str(offload).lower()}"), Console())
    monkeypatch.setattr(doors.loading, "FramePredictor", Watched)
    untrained = untrained_like(model, seed=0, offload=offload)
    assert kinds and set(kinds) == {torch.bfloat16}
    assert {value.dtype for value in untrained.predictor.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32
    assert all(weight.any() for weight in untrained.predictor.blocks.parameters())


def refused(need: Need, device: str, offload: bool = False) -> str:
    with pytest.raises(ValueError) as error:
        check_memory(need, device, offload)
    assert "\n" not in str(error.value)
    return str(error.value).split("; try ")[1]


def test_only_what_still_helps_is_suggested(monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 10)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 100))
    large = Need(weights=1000, work=800, sequences=8, copies=2)
    every = "dtype=bfloat16 or max_batch=4 or controls=false or offload=true."
    assert refused(large, "cuda") == every
    assert refused(large, "cpu") == every.replace(" or offload=true", "")
    small = Need(weights=500, work=100, sequences=1, copies=1, itemsize=2)
    assert refused(small, "cuda") == "offload=true."
    assert refused(small, "cpu") == "a smaller model or a larger machine."
    assert refused(small, "cuda", offload=True) == "a smaller model or a larger machine."


def test_blocks_that_wait_in_main_memory_are_counted_there(files, monkeypatch):
    pages = {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": 10**9}
    monkeypatch.setattr("os.sysconf", pages.get)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    one, two = (needed(files[0], 8, offload=True, copies=copies) for copies in (1, 2))
    assert two.waiting == 2 * one.waiting > 0
    assert needed(files[0], 8, copies=2).waiting == 0
    check_memory(two, "cuda", offload=True)
    pages["SC_PHYS_PAGES"] = two.waiting - 1
    # fewer sequences at a time would not make the waiting blocks fewer
    assert refused(two, "cuda", offload=True) == "dtype=bfloat16 or controls=false."
    check_memory(one, "cuda", offload=True)
    check_memory(needed(files[0], 8, copies=2), "cuda")
    assert needed(files[0], 8, torch.bfloat16, offload=True).itemsize == 2
