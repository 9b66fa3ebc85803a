"""A model of a few hundred weights for tests of what is done with models, and their comparison."""

import torch

from lras.config import PredictorConfig, QuantizerConfig
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer


def tiny_model(seed: int = 0) -> NextFrame:
    """16-px frames, 4-px patches of one code, 16 codes; the codebook is started on noise."""
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


def states_equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
