"""One probe of one checkpoint, on any number of processes; rank 0 writes what came out.

python benchmarks/probe_on_ranks.py CKPT OUT.json
torchrun --standalone --nproc-per-node 2 benchmarks/probe_on_ranks.py CKPT OUT.json
"""

import json
import os
import sys
from pathlib import Path

import lightning as L
import torch
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.synthetic import SceneConfig
from lras.checkpoint import load
from lras.predictor_module import PredictorModule
from tracing.config import TracerConfig
from tracing.probe import FlowProbe, synthetic

NUM_PAIRS = 5  # odd, so that two ranks have unequal numbers of them


def probe_checkpoint(ckpt: str, out: Path) -> None:
    """Validate the checkpoint with a probe of two sets; write scores, answers and arg-max."""
    torch.set_num_threads(1)
    model = load(ckpt)
    side = model.image_size
    scene = SceneConfig(size=side, max_motion_px=side / 4, sprites=1, still=0.0)
    sets = {
        "several": synthetic(scene, NUM_PAIRS, points_per_pair=3),
        "single": synthetic(scene, 1, points_per_pair=2, seed=8),  # the second rank has none
    }
    probe = FlowProbe(sets, tracer=TracerConfig(num_masks=2), pictures=NUM_PAIRS)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        logger=False,
        callbacks=[probe],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=out.parent / "probe",
    )
    batch = {
        "frames": torch.zeros(1, 2, 3, side, side, dtype=torch.uint8),
        "gap": torch.ones(1, dtype=torch.long),
        "key": ["black"],
    }
    module = PredictorModule(model.predictor, model.quantizer)
    trainer.validate(module, DataLoader([batch], batch_size=None), verbose=False)
    if not trainer.is_global_zero:
        return
    found = {"world": trainer.world_size, "scores": probe.history[-1]}
    for name, answers in probe.answers.items():
        peaks = [answer.maps.flatten(1).argmax(1).tolist() for answer in answers]
        found[name] = {"xy": [a.xy.tolist() for a in answers], "argmax": peaks}
    out.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    probe_checkpoint(sys.argv[1], Path(sys.argv[2]))
