"""What is measured on an accelerator, played through on a CPU with a tiny model."""

import json

import pytest
import torch

from benchmarks import claims_speed, training, training_cuda
from benchmarks.claim import judge
from benchmarks.result_file import CANNOT_MEASURE_HERE, read_result
from benchmarks.training_cuda import Accelerator, measure, measured_size
from lras.config import PredictorConfig

TINY = ("experiment=smoke", "callbacks.progress=null")


def h200(peak: int = 3_000_000, total: int = 2**40, asked: list | None = None) -> Accelerator:
    asked = [] if asked is None else asked
    reset = lambda: asked.append("reset")  # noqa: E731
    return Accelerator("NVIDIA H200", total, reset, lambda: asked.append("peak") or peak)


@pytest.fixture
def told(tmp_path, monkeypatch):
    """Verdicts on the promises for one H200, by the file in this test's folder."""
    monkeypatch.setattr(claims_speed, "read_result", lambda name: read_result(name, tmp_path))
    return lambda: {c.what: judge(c) for c in claims_speed.CLAIMS if "one H200" in c.what}


def test_without_a_file_each_promise_says_what_to_type(told):
    lines = [str(verdict) for verdict in told().values()]
    assert len(lines) == 6
    assert all(line.startswith("NOT MEASURED") for line in lines)
    assert all("python benchmarks/training.py --device cuda" in line for line in lines)


@pytest.mark.slow
def test_speed_memory_and_a_bare_loop_are_measured_judged_and_kept(tmp_path, told):
    path, asked = tmp_path / "speed_cuda.json", []
    words = {"85M": (*TINY, "trainer=cpu")}
    measure(path, words, h200(asked=asked), steps=20)
    figures = json.loads(path.read_text())["figures"]
    own = figures["sizes"]["85M"]
    assert asked == ["reset", "peak"]
    assert own["tokens_per_s"] == pytest.approx(8 * 48 / own["ms_per_step"] * 1e3)
    assert own["tokens_per_sequence"] == 16 + 16 * 2 and own["pairs"] == 8 and own["steps"] == 20
    assert 0 < own["mfu_causal"] < own["mfu_full_square"]
    assert own["memory_error"] == pytest.approx(own["planned_gb"] / 0.003 - 1)
    assert "aten::mm" in (tmp_path / own["operations"]).read_text()
    assert figures["step"]["pairs"] == 20 and figures["step"]["pairs_of_frames"] == 4
    verdicts = told()
    assert verdicts["one H200: 85M blocks: tokens/s"].word == "FAIL"  # this is a CPU
    assert "8 pairs of 48 tokens" in str(verdicts["one H200: 85M blocks: tokens/s"])
    assert verdicts["one H200: 302M blocks: tokens/s"].word == "NOT MEASURED"
    assert "--sizes 302M" in str(verdicts["one H200: memory plan's error"])
    assert verdicts["one H200: ours over a bare loop's, 85M"].word in ("PASS", "FAIL")
    # Another size of the same commit and device joins it; one of another device starts anew.
    assert training_cuda.kept(path, h200()) == figures
    assert training_cuda.kept(path, Accelerator("B200", 1, print, int)) == {}


def figures_of(speed: float = 1e6, steps: int = 20, error: float = 0.02, gpu="NVIDIA H200") -> dict:
    own = {"tokens_per_s": speed, "steps": steps, "memory_error": error, "pairs": 8}
    own |= {"tokens_per_sequence": 9216, "operations": "logs/x.txt"}
    step = {"ratio": 1.01, "ratio_ci95": [1.0, 1.02], "pairs": steps}
    return {"gpu": gpu, "sizes": dict.fromkeys(claims_speed.FLOORS, own), "step": step}


@pytest.mark.parametrize(
    "figures, words",
    [
        (figures_of(), {"PASS"}),
        (figures_of(speed=1e3, error=-0.2, steps=19), {"FAIL"}),
        (figures_of(steps=19, error=0.2), {"FAIL"}),
        (figures_of(gpu="NVIDIA A100"), {"NOT MEASURED"}),
        ({"gpu": "NVIDIA H200", "sizes": {}}, {"NOT MEASURED"}),
    ],
)
def test_figures_are_judged_by_device_number_of_steps_and_target(figures, words, told, monkeypatch):
    monkeypatch.setattr(claims_speed, "read_result", lambda name: {"figures": figures})
    assert {verdict.word for verdict in told().values()} == words


def test_what_was_planned_to_fit_but_does_not_is_halved(tmp_path, monkeypatch):
    tried = []

    def trained(words, pairs, *_):
        tried.append(pairs)
        if pairs > 2:
            raise torch.OutOfMemoryError
        return {"true_gb": 1.0, "pairs": pairs}

    monkeypatch.setattr(training_cuda, "trained", trained)
    monkeypatch.setattr(training_cuda, "plan_of", lambda words: lambda pairs: pairs * 450_000_000)
    found = measured_size(TINY, h200(), 20, tmp_path / "x.txt")
    assert tried == [8, 4, 2]
    assert found["pairs"] == 2 and found["pairs_that_were_planned_to_fit"] == 8
    assert found["memory_error"] == pytest.approx(-0.1)


def test_a_size_of_which_not_one_pair_fits_says_what_it_would_take(tmp_path, monkeypatch):
    monkeypatch.setattr(training_cuda, "plan_of", lambda words: lambda pairs: 10**9 * pairs)
    found = measured_size(TINY, h200(total=10**9), 20, tmp_path / "x.txt")
    assert found == {"planned_gb_of_one_pair": 1.0}


def test_without_cuda_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "speed_cuda.json"
    monkeypatch.setattr("sys.argv", ["training.py", "--device", "cuda", "--json", str(path)])
    assert training.main() == CANNOT_MEASURE_HERE
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "needs CUDA, and none is here; run it where there is a GPU." in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "size, millions", [("85M", 85), ("302M", 302), ("679M", 679), ("925M", 925)]
)
def test_the_sizes_are_those_of_the_promise(size, millions, tmp_path):
    from lras.flops import block_parameters

    words = (f"experiment={training_cuda.SIZES[size]}", "trainer=gpu", "trainer.devices=1")
    cfg = training_cuda.configured(tmp_path, *words)
    own = {k: v for k, v in cfg.model.predictor.cfg.items() if k != "_target_"}
    model = PredictorConfig.modern(**own)
    assert block_parameters(model) // 10**6 in (millions - 1, millions)
    assert training_cuda.work_of(cfg, 1).tokens(model) == 9216
    assert cfg.trainer.accelerator == "gpu" and "strategy" not in cfg.trainer
    assert (cfg.schedule.compile, cfg.trainer.precision) == ("block", "bf16-mixed")
