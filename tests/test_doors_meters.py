"""Speed as it is logged: sizes counted exactly, time without what is no training, few looks."""

import logging
import time
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from data.curriculum import Stage, SyntheticDataModule
from doors import meters
from doors.meters import Meters, SparingProgressBar, StepClock
from doors.profiling import TraceSteps
from lras.config import PredictorConfig
from lras.flops import PEAK_FLOPS, peak_flops, training_flops
from lras.optim import adamw
from lras.predictor import FramePredictor
from lras.predictor_module import PredictorModule
from tests.test_lras_flops import seen
from tests.test_plain_trainer import SCENE, plain_trainer
from tests.tiny_model import tiny_model

STEPS, BATCH, SEQUENCE = 6, 8, 16 + 2 * 16


class Slow(L.Callback):
    """Another callback that takes its time, as a probe does."""

    def on_train_batch_end(self, *_):
        time.sleep(0.3)


class Figures(L.Callback):
    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, *_):
        logged = trainer.logged_metrics
        self.rows.append({k: float(v) for k, v in logged.items()} | {"at": time.perf_counter()})


def fitted(*callbacks, parts: int = 1, folder=None, **extra) -> PredictorModule:
    model = tiny_model()
    module = PredictorModule(model.predictor, model.quantizer, adamw, warmup_steps=2)
    stages = [Stage(steps=STEPS, batch=BATCH, scene=SCENE)]
    data = SyntheticDataModule(stages, val_batches=1, textures=4)
    extra |= {"logger": CSVLogger(folder)} if folder else {}
    trainer = plain_trainer(
        STEPS, *callbacks, log_every_n_steps=3, accumulate_grad_batches=parts, **extra
    )
    trainer.fit(module, data)
    return module


def test_tokens_and_flops_are_those_of_the_sequences(tmp_path):
    own, sums = Meters(peak=1e12), []
    reset = own._reset

    def remember() -> None:
        if hasattr(own, "tokens"):
            sums.append((own.samples, own.tokens, dict(own.flops)))
        reset()

    own._reset = remember
    module = fitted(own, folder=tmp_path)
    cfg = module.predictor.cfg
    each = {k: training_flops(cfg, 16, 16, 16, k == "full_square") for k in own.flops}
    window = 3 * BATCH, 3 * BATCH * SEQUENCE, {k: 3 * BATCH * v for k, v in each.items()}
    assert sums[-2:] == [window, window]
    assert each["full_square"] > each["causal"]


@pytest.mark.parametrize("parts", [1, 2])
def test_time_in_other_callbacks_is_not_counted(parts, tmp_path, monkeypatch):
    logged = []
    log_dict = PredictorModule.log_dict

    def remember(module, values, *rest, **named) -> None:
        logged.append((time.perf_counter(), values))
        log_dict(module, values, *rest, **named)

    monkeypatch.setattr(PredictorModule, "log_dict", remember)
    figures = Figures()
    fitted(Meters(peak=1e12), figures, Slow(), parts=parts, folder=tmp_path, limit_val_batches=0)
    (then, _), (now, last) = logged
    counted_s = 3 * BATCH / last["speed/samples_per_s"]
    assert 0 < counted_s < now - then - 0.85  # three steps: at least three naps of 0.3 s
    assert last["speed/tokens_per_s"] / last["speed/samples_per_s"] == pytest.approx(SEQUENCE)
    assert 0 < last["speed/data_wait"] < 1 and last["speed/memory_gb"] > 0.05
    assert last["speed/mfu_full_square"] > last["speed/mfu_causal"] > 0
    assert figures.rows[-1]["train/grad_norm"] > 0


def test_waiting_for_the_device_counts_as_the_training_that_it_waited_for(tmp_path, monkeypatch):
    now, rates = [0.0], []

    def spends(name: str, seconds: float) -> None:
        run = getattr(PredictorModule, name)

        def slow(*given):
            now[0] += seconds
            return run(*given)

        monkeypatch.setattr(PredictorModule, name, slow)

    def wait(device: torch.device) -> None:
        now[0] += 10.0

    class Probe(L.Callback):
        def on_train_batch_end(self, *_):
            now[0] += 100.0

    spends("training_step", 1.0)
    spends("validation_step", 1000.0)
    monkeypatch.setattr(
        PredictorModule,
        "log_dict",
        lambda self, values, **_: rates.append(values.get("speed/samples_per_s")),
    )
    monkeypatch.setattr(meters, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(meters, "wait_for", wait)
    fitted(Probe(), Meters(), Probe(), folder=tmp_path, val_check_interval=4)
    # Each window of three steps is waited for, the second one also before its validation.
    assert [3 * BATCH / rate for rate in rates if rate] == pytest.approx([13.0, 23.0])


def test_the_norm_is_that_of_all_gradients_before_clipping(tmp_path):
    norms, figures = [], Figures()

    class Norm(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            grads = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
            norms.append(torch.cat(grads).norm().item())

    fitted(Norm(), Meters(), figures, folder=tmp_path, gradient_clip_val=1e-3)
    assert figures.rows[-1]["train/grad_norm"] == pytest.approx(norms[-1], rel=1e-5)


def test_the_clock_keeps_data_and_callbacks_apart(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    clock = StepClock()

    def spend(name: str, seconds: float) -> None:
        clock.start(name)
        now[0] += seconds
        clock.stop(name)

    spend("[Callback]Probe.on_train_batch_end", 3.0)
    spend("[_TrainingEpochLoop].train_dataloader_next", 5.0)
    spend("run_training_batch", 7.0)
    assert (clock.data_s, clock.callbacks_s) == (5.0, 3.0)
    spend("[Callback]Meters.on_train_batch_end", 13.0)
    assert clock.callbacks_s == 3.0
    clock.nested = 1  # during validation, which is left out as a whole
    spend("[Callback]Probe.on_validation_end", 11.0)
    assert clock.callbacks_s == 3.0


def test_the_progress_bar_looks_at_figures_only_where_they_are_logged(monkeypatch):
    looks = []
    whole = SparingProgressBar.__mro__[1].get_metrics
    monkeypatch.setattr(
        SparingProgressBar.__mro__[1],
        "get_metrics",
        lambda self, trainer, module: (
            looks.append(trainer.global_step) or whole(self, trainer, module)
        ),
    )
    fitted(SparingProgressBar(), enable_progress_bar=True, limit_val_batches=0)
    assert set(looks) <= {0, 1, 3, 6} and 3 in looks


def test_a_trace_is_written_on_request(tmp_path):
    fitted(TraceSteps(start=1, steps=2), default_root_dir=tmp_path)
    assert (tmp_path / "trace.json.gz").stat().st_size > 1000
    assert "aten::" in (tmp_path / "trace.txt").read_text()


def test_a_trace_that_never_begins_is_said_and_a_resumed_run_counts_from_where_it_goes_on(
    tmp_path, caplog
):
    class At(L.Trainer):
        global_step = 0

    own, module = At(accelerator="cpu", default_root_dir=tmp_path), L.LightningModule()
    trace = TraceSteps(start=2, steps=1)
    with caplog.at_level(logging.WARNING, logger="train"):
        trace.on_train_start(own, module)
        trace.on_train_end(own, module)
    (said,) = (each.getMessage() for each in caplog.records if each.name == "train")
    assert "this training took 0 steps and a trace begins after 2" in said
    for step in range(40, 44):  # of a run that was resumed past ``start``
        own.global_step = step
        if step == 40:
            trace.on_train_start(own, module)
        trace.on_train_batch_start(own, module, None, 0)
        assert (trace.running is not None) == (step == 42)
        own.global_step = step + 1
        trace.on_train_batch_end(own, module)
    assert (tmp_path / "trace.json.gz").is_file()
    trace.on_train_end(own, module)
    assert len([each for each in caplog.records if each.name == "train"]) == 1


@pytest.mark.parametrize("flavor", ["modern", "official"])
def test_flops_of_a_step_are_those_a_counter_sees(flavor):
    sizes = {"image_size": 32, "patch_px": 8, "num_codes": 24, "dim": 32, "num_heads": 2}
    extra = {"embed_pixels": False} if flavor == "modern" else {}
    cfg = getattr(PredictorConfig, flavor)(**sizes, num_layers=2, **extra)
    net = FramePredictor(cfg)
    codes = torch.zeros(1, 16, 4, dtype=torch.long)
    order = torch.arange(16)[None]
    forward = seen(lambda: net(codes, codes, order[:, :10], order[:, :7], cfg.grid))
    assert training_flops(cfg, 10, 7, len(net.head_weight()), full_square=True) == 3 * forward


def test_peaks_are_found_by_the_more_special_name():
    assert peak_flops("NVIDIA H200") == 989e12 == peak_flops("NVIDIA H100 80GB HBM3")
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA GB200") == PEAK_FLOPS["GB200"] != peak_flops("NVIDIA B200")
    assert peak_flops("NVIDIA H800") is None is peak_flops("NVIDIA GeForce RTX 4090 Laptop GPU")


@pytest.mark.parametrize(
    "name, teraflops",
    [
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA L4", 121),
        ("NVIDIA L40", 181),
        ("NVIDIA L40S", 362),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("Quadro RTX 6000", None),
        ("NVIDIA GeForce RTX 3080 Ti", 68.2),
        ("NVIDIA GeForce RTX 4070 SUPER", None),
        ("NVIDIA GeForce RTX 4080 SUPER", 104.4),
        ("NVIDIA GeForce RTX 4090 D", 147.1),
        ("NVIDIA GeForce RTX 5090 D", None),
        ("NVIDIA GeForce RTX 5080", 112.6),
    ],
)
def test_the_longest_name_counts_and_slices_and_variants_have_no_peak(name, teraflops):
    assert peak_flops(name) == (teraflops and pytest.approx(teraflops * 1e12))
