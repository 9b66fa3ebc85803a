"""Our modules in a bare lightning.Trainer, without the doors; the probe; checkpoints."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
from torch.nn.utils import get_total_norm

from data.curriculum import Stage, SyntheticDataModule
from data.datamodule import ClipDataModule
from data.synthetic import SceneConfig
from data.types import PointPairs
from lras.checkpoint import CONFIG, WEIGHTS, load, save
from lras.config import QuantizerConfig
from lras.next_frame import NextFrame
from lras.optim import adamw, muon
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer
from lras.quantizer_module import QuantizerModule
from tests.fake_datasets import write_clip_shards
from tests.tiny_model import states_equal, tiny_model
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.config import TracerConfig
from tracing.probe import FlowProbe, probe_set
from tracing.reveal import draw_masks

SCENE = SceneConfig(size=16, max_motion_px=4.0, snap_px=4, still=0.0, texels_per_px=(2.0, 4.0))


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
    return ClipDataModule(folder, batch_size=4, max_gap=2)


def predictor_module(seed: int = 0) -> PredictorModule:
    model = tiny_model(seed)
    return PredictorModule(model.predictor, model.quantizer, warmup_steps=2, seed=seed)


def probe_of(pairs: PointPairs) -> FlowProbe:
    sets = {"held_out": probe_set([pairs], "held_out")}
    return FlowProbe(sets, 2, TracerConfig(num_masks=2), max_share=None)


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

    probe = probe_of(pairs)
    assert states_equal(trained(), trained(probe))
    assert [point["step"] for point in probe.history] == [0, 2, 4, 6]
    assert json.loads((tmp_path / "probe.json").read_text()) == probe.history


def test_plain_trainer_probes_in_full_precision_whatever_the_trainer_uses(tmp_path):
    pairs = synthetic_pairs(SCENE, num_pairs=2, points_per_pair=2, seed=7)
    probe = probe_of(pairs)
    module, seen = predictor_module(), set()
    layer = module.predictor.blocks[0].attention.out
    layer.register_forward_hook(
        lambda own, given, out: None if own.training else seen.add(out.dtype)
    )
    trainer = plain_trainer(2, probe, precision="bf16-mixed", default_root_dir=tmp_path)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # as if a hook ran inside the step
        trainer.fit(module, scenes(2).train_dataloader())
    assert seen == {torch.float32}


@pytest.mark.parametrize("optimizer", [muon, adamw])
def test_gradients_are_clipped_in_bfloat16_whatever_the_optimizer(optimizer):
    norms = []

    class Norms(L.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            norms.append(get_total_norm(p.grad for p in module.parameters() if p.grad is not None))

        def on_train_batch_end(self, trainer, module, *_):
            norms.append(get_total_norm(p.grad for p in module.parameters() if p.grad is not None))

    module = predictor_module()
    module.make_optimizer = optimizer
    plain_trainer(1, Norms(), precision="bf16-mixed", gradient_clip_val=1e-3).fit(module, scenes(1))
    before, after = norms
    assert before > 1e-2 and after.item() == pytest.approx(1e-3, rel=1e-3)


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
