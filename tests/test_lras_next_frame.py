"""NextFrame: logits land on their cells, expected RGB is the mean of what codes paint."""

import pytest
import torch

from lras.config import PredictorConfig, QuantizerConfig
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor, split_revealed
from lras.quantizer import Quantizer
from tracing.protocol import NextFrameModel
from tracing.reveal import draw_masks


def model(patch_px: int = 8) -> NextFrame:
    torch.manual_seed(0)
    cfg = PredictorConfig(
        image_size=24, patch_px=patch_px, num_codes=20, dim=16, num_heads=2, num_layers=1
    )
    predictor = FramePredictor(cfg)
    for parameter in predictor.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return NextFrame(Quantizer(QuantizerConfig(num_codes=20)), predictor).eval()


def test_it_is_what_tracing_asks_for():
    assert isinstance(model(), NextFrameModel)


@pytest.mark.parametrize("patch_px", [4, 8])
@pytest.mark.parametrize("read_out", ["all", "first"])
def test_each_patch_finds_its_own_logits_on_the_grid(patch_px, read_out):
    made = model(patch_px)
    frames = torch.rand(2, 2, 3, 24, 24)
    codes0, codes1 = made.encode(frames[0]), made.encode(frames[1])
    grid = made.predictor.cfg.grid
    masks = draw_masks(grid.num_patches, 2, 0.3, seed=0)
    logits = made.frame1_logits(codes0, codes1, masks.reveal, masks.order0, masks.order1, read_out)
    revealed, hidden = split_revealed(masks.order1, masks.reveal)
    patches0, patches1 = grid.to_patches(codes0), grid.to_patches(codes1)
    for sample in range(2):
        one = slice(sample, sample + 1)
        for patch in hidden[sample].tolist():
            asked = torch.tensor([[patch]])
            alone = made.predictor.read_patches(
                patches0[one], patches1[one], masks.order0[one], revealed[one], asked, grid
            )[0, 0]
            row, col = divmod(patch, grid.cols)
            side = 1 if read_out == "first" else grid.side
            found = logits[
                sample, row * side : (row + 1) * side, col * side : (col + 1) * side
            ].flatten(0, 1)
            assert torch.allclose(found, alone[: side * side], atol=1e-5)


def test_certain_logits_paint_what_decode_paints():
    made = model()
    codes = torch.randint(0, 20, (1, 6, 6))
    certain = 100.0 * torch.nn.functional.one_hot(codes, 20)
    assert torch.allclose(made.expected_rgb(certain), made.decode(codes), atol=1e-5)


def test_parts_of_different_models_are_refused():
    with pytest.raises(ValueError, match="train them together"):
        NextFrame(Quantizer(QuantizerConfig(num_codes=30)), model().predictor)
