"""The predictor: parallel equals one at a time, order is not place, presets have their sizes."""

import pytest
import torch
from reference.slow_predictor import read_patch_by_full_forward

from lras.config import PredictorConfig, QuantizerConfig
from lras.grid import PatchGrid
from lras.layers import QUERY_SLICE, causal_attention, sliced_attention
from lras.predictor import FramePredictor, split_revealed
from lras.predictor_module import PredictorModule
from lras.quantizer import Quantizer
from lras.sequence import random_orders, two_frames

SIZES = {"image_size": 24, "patch_px": 8, "code_px": 4, "num_codes": 40}
SMALL = SIZES | {"dim": 32, "num_heads": 2, "num_layers": 2}


def predictor(preset: str, **changes) -> FramePredictor:
    """A predictor with weights large enough that every part matters."""
    torch.manual_seed(0)
    net = FramePredictor(getattr(PredictorConfig, preset)(**(SMALL | changes)))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    net.set_code_pixels(torch.rand(40, 48))
    return net.eval()


def example(net: FramePredictor, batch: int = 2):
    generator = torch.Generator().manual_seed(1)
    grid = net.cfg.grid
    shape = (2, batch, grid.num_patches, net.cfg.codes_per_patch)
    codes0, codes1 = torch.randint(0, net.cfg.num_codes, shape, generator=generator)
    order0, order1 = (random_orders(batch, grid.num_patches, generator) for _ in range(2))
    return codes0, codes1, order0, order1, grid


@pytest.mark.parametrize("preset", ["modern", "official"])
@pytest.mark.parametrize("patch_px", [4, 8])
def test_parallel_read_out_equals_one_patch_at_a_time(preset, patch_px):
    net = predictor(preset, patch_px=patch_px)
    codes0, codes1, order0, order1, grid = example(net, batch=1)
    revealed, asked = order1[:, :3], order1[:, 3:]
    logits = net.read_patches(codes0, codes1, order0, revealed, asked, grid)
    for index, patch in enumerate(asked[0].tolist()):
        slow = read_patch_by_full_forward(net, codes0, codes1, order0, revealed, patch, grid)
        assert torch.allclose(logits[0, index], slow, atol=2e-5)


@pytest.mark.parametrize("preset", ["modern", "official"])
def test_training_scores_equal_the_read_out_along_the_sequence(preset):
    net = predictor(preset, tied_head=True) if preset == "official" else predictor(preset)
    codes0, codes1, order0, order1, grid = example(net, batch=1)
    nats = net(codes0, codes1, order0, order1, grid)
    for k in (0, 4, 8):
        patch = order1[:, k : k + 1]
        logits = net.read_patches(codes0, codes1, order0, order1[:, :k], patch, grid)
        expected = -logits[0, 0].log_softmax(-1).gather(1, codes1[0, patch[0, 0], :, None])[:, 0]
        assert torch.allclose(nats[0, k], expected, atol=1e-4)


def test_a_later_patch_never_changes_an_earlier_score():
    net = predictor("modern")
    codes0, codes1, order0, order1, grid = example(net)
    before = net(codes0, codes1, order0, order1, grid)
    altered = codes1.clone()
    last = order1[0, -1]
    altered[0, last] = (altered[0, last] + 1) % 40
    after = net(codes0, altered, order0, order1, grid)
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[0, :-1], after[0, :-1])
    assert not torch.equal(before[0, -1], after[0, -1])


def test_rotary_answers_do_not_change_when_everything_moves_together():
    """The same patches, one row lower in a taller image: relative places, so equal scores."""
    net = predictor("modern", patch_px=4)
    generator = torch.Generator().manual_seed(2)
    small, tall = PatchGrid(8, 12, 4, 4), PatchGrid(12, 12, 4, 4)
    codes0, codes1 = torch.randint(0, 40, (2, 1, 6, 1), generator=generator)
    order = torch.randperm(6, generator=generator)[None]
    reference = net.read_patches(codes0, codes1, order, order[:, :3], order[:, 3:], small)

    def lower(codes):
        return torch.cat([torch.zeros_like(codes[:, :3]), codes], dim=1)

    shifted = order + 3
    moved = net.read_patches(
        lower(codes0), lower(codes1), shifted, shifted[:, :3], shifted[:, 3:], tall
    )
    assert torch.allclose(reference, moved, atol=2e-5)


def test_codes_are_embedded_by_one_look_up_with_the_gradient_of_picking_rows():
    net = predictor("modern")
    codes0, codes1, order0, order1, grid = example(net)
    seq = two_frames(codes0, codes1, order0, order1, net.cfg.vocab(grid), False)
    found = net.embed(seq, grid)
    vectors = torch.cat([net.code_vectors(), torch.zeros(1, net.cfg.dim)])
    places = net.place_table(seq.frame * (1 + net.cfg.codes_per_patch) + seq.slot)
    expected = (vectors[seq.tokens.clamp_max(net.cfg.num_codes)] + places) * net.cfg.dim**0.5
    assert torch.allclose(found, expected, atol=1e-5)
    pull = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    weights = net.token_table.weight, net.pixel_embed.weight
    ours = torch.autograd.grad((found * pull).sum(), weights)
    theirs = torch.autograd.grad((expected * pull).sum(), weights)
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_a_slot_table_refuses_another_image_size():
    net = predictor("official")
    codes = torch.zeros(1, 4, 4, dtype=torch.long)
    order = torch.arange(4)[None]
    with pytest.raises(ValueError, match="resize the frames to 24 px"):
        net(codes, codes, order, order, PatchGrid(16, 16, 8, 4))


def test_revealed_patches_come_first_in_their_own_order():
    order = torch.tensor([[3, 1, 0, 2], [0, 1, 2, 3]])
    reveal = torch.tensor([[True, False, True, False], [False, True, False, True]])
    revealed, hidden = split_revealed(order, reveal)
    assert revealed.tolist() == [[0, 2], [1, 3]] and hidden.tolist() == [[3, 1], [0, 2]]
    with pytest.raises(ValueError, match="expected one number"):
        split_revealed(order, torch.tensor([[True] * 4, [False] * 4]))


@pytest.mark.parametrize("length", [1, QUERY_SLICE, 2 * QUERY_SLICE + 5])
def test_attention_in_slices_equals_the_fused_kernel(length):
    generator = torch.Generator().manual_seed(0)
    tensors = torch.randn(3, 1, 2, length, 8, generator=generator)
    fused = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=True)
    assert torch.allclose(sliced_attention(*tensors), fused, atol=1e-5)
    low = causal_attention(*tensors.bfloat16())
    assert torch.allclose(low.float(), fused, atol=0.05)


def test_the_published_network_has_the_published_number_of_parameters():
    with torch.device("meta"):
        sizes = {"image_size": 256, "patch_px": 8, "num_codes": 65_536}
        net = FramePredictor(
            PredictorConfig.official(**sizes, num_layers=32, dim=4096, num_heads=32)
        )
    assert sum(p.numel() for p in net.parameters()) == 7_038_308_352


@pytest.mark.parametrize("preset, painted", [("modern", 1), ("official", 0)])
def test_codes_are_painted_only_for_a_predictor_that_looks_at_them(preset, painted, monkeypatch):
    asked, paint = [], Quantizer.code_pixels
    monkeypatch.setattr(Quantizer, "code_pixels", lambda self: asked.append(1) or paint(self))
    PredictorModule(predictor(preset), Quantizer(QuantizerConfig(num_codes=40)))
    assert len(asked) == painted
