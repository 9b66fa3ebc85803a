"""LPQ: strictly local codes, the published bit order, a decoder for any grid."""

import pytest
import torch
from vector_quantize_pytorch import LFQ as PublishedLFQ

from lras.config import PredictorConfig
from lras.lpq import LPQ, LPQConfig
from lras.next_frame import NextFrame
from lras.predictor import FramePredictor
from tracing.protocol import NextFrameModel

SMALL = LPQConfig(
    num_codes=64,
    encoder_blocks=[["ResBlock", 8, 8, 16, 1, 1, 0]],
    decoder_blocks=[["ResBlock", 8, 8, 16, 3, 1, 1], ["Upsample", 8, 6], ["Upsample", 6, 4]],
)


@pytest.fixture
def quantizer() -> LPQ:
    torch.manual_seed(0)
    made = LPQ(SMALL)
    torch.nn.init.zeros_(made.project_in.bias)
    return made.eval()


def frames(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def test_a_changed_cell_changes_its_own_code_and_no_other(quantizer):
    clean = frames(1, 3, 16, 24)
    codes = quantizer.encode(clean)
    assert codes.unique().numel() > 4
    changed = 0
    for row, col in ((0, 0), (1, 3), (3, 5)):
        other = clean.clone()
        other[..., 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] = 0.0
        differs = quantizer.encode(other) != codes
        changed += int(differs[0, row, col])
        differs[0, row, col] = False
        assert not differs.any()
    assert changed


def test_codes_and_code_vectors_are_those_of_the_library_the_authors_used(quantizer):
    theirs = PublishedLFQ(codebook_size=64, dim=6, spherical=True).eval()
    latent = quantizer.latent(frames(2, 3, 16, 16)).flatten(0, 2).detach()
    vectors, codes, _ = theirs(latent[None])
    assert torch.equal(quantizer.encode(frames(2, 3, 16, 16)).flatten(), codes[0])
    assert torch.allclose(quantizer.bottleneck.embed(codes[0]), vectors[0], atol=1e-6)


@pytest.mark.parametrize("rows, cols", [(1, 1), (3, 5), (8, 2)])
def test_any_grid_of_codes_is_painted_in_the_range_of_images(quantizer, rows, cols):
    codes = torch.randint(0, 64, (2, rows, cols), generator=torch.Generator().manual_seed(0))
    painted = quantizer.decode(codes)
    assert painted.shape == (2, 3, 4 * rows, 4 * cols)
    assert painted.min() >= 0 and painted.max() <= 1


def test_certain_logits_paint_what_decode_paints_and_uncertain_ones_do_not(quantizer):
    codes = torch.randint(0, 64, (1, 3, 3), generator=torch.Generator().manual_seed(0))
    certain = torch.nn.functional.one_hot(codes, 64).float()
    assert torch.allclose(quantizer.expected_frames(certain), quantizer.decode(codes), atol=1e-6)
    even = torch.full((1, 3, 3, 64), 1 / 64)
    assert not torch.allclose(quantizer.expected_frames(even), quantizer.decode(codes), atol=1e-3)


def test_code_pixels_are_what_a_code_paints_alone(quantizer):
    pixels = quantizer.code_pixels()
    alone = quantizer.decode(torch.full((1, 1, 1), 37))
    assert torch.allclose(pixels[37] + 0.5, alone.flatten(), atol=1e-6)


def test_codes_do_not_depend_on_autocast(quantizer):
    picture = frames(4, 3, 64, 64)
    codes = quantizer.encode(picture)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(quantizer.encode(picture), codes)
        rough = quantizer.bottleneck(quantizer.latent(picture).float().flatten(0, 2))[1]
    assert not torch.equal(rough.view_as(codes), codes)  # bfloat16 would have flipped some


def test_codes_and_paintings_are_the_same_in_training_mode(quantizer):
    picture = frames(2, 3, 16, 16)
    chance = torch.rand(1, 4, 4, 64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    calls = (
        lambda: quantizer.encode(picture),
        lambda: quantizer.decode(quantizer.encode(picture)),
        lambda: quantizer.expected_frames(chance),
        quantizer.code_pixels,
    )
    calm = [call() for call in calls]
    quantizer.train()
    assert all(torch.equal(call(), before) for call, before in zip(calls, calm, strict=True))
    assert not torch.equal(quantizer(picture)[0], quantizer(picture)[0])  # it does drop in learning


@pytest.fixture
def precision():
    """Precisions of the process, given back afterwards."""
    backends = torch.backends
    parts = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv)
    parts += (backends.mkldnn.matmul, backends)
    before = [part.fp32_precision for part in parts]
    yield parts
    torch.set_float32_matmul_precision("highest")
    for part, value in zip(parts, before, strict=True):
        part.fp32_precision = value


@pytest.mark.parametrize("way", ["products", "everything"])
def test_codes_are_made_in_full_precision_whatever_is_allowed(
    quantizer, precision, monkeypatch, way
):
    codes = quantizer.encode(frames(1, 3, 16, 16))
    if way == "products":
        torch.set_float32_matmul_precision("medium")
    else:
        torch.backends.fp32_precision = "tf32"
    allowed = [part.fp32_precision for part in precision]
    seen, latent = [], quantizer.latent

    def watched(picture: torch.Tensor) -> torch.Tensor:
        seen.extend(part.fp32_precision for part in precision[:4])
        return latent(picture)

    monkeypatch.setattr(quantizer, "latent", watched)
    assert torch.equal(quantizer.encode(frames(1, 3, 16, 16)), codes)
    assert seen == 4 * ["ieee"]
    assert [part.fp32_precision for part in precision] == allowed
    if way == "products":
        assert torch.get_float32_matmul_precision() == "medium"


def test_training_it_lowers_the_error_and_reaches_every_weight(quantizer):
    quantizer.train()
    picture = frames(2, 3, 4, 4).round().repeat_interleave(4, -1).repeat_interleave(4, -2)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=1e-2)
    errors = []
    for _ in range(40):
        error, penalty, codes = quantizer(picture)
        optimizer.zero_grad()
        (error + penalty).backward()
        assert all(weight.grad is not None for weight in quantizer.parameters())
        optimizer.step()
        errors.append(error.item())
    assert codes.shape == (2, 4, 4) and errors[-1] < 0.8 * errors[0]


def test_our_next_frame_takes_it(quantizer):
    cfg = PredictorConfig.official(
        image_size=16, patch_px=8, code_px=4, num_codes=64, dim=16, num_heads=2, num_layers=1
    )
    model = NextFrame(quantizer, FramePredictor(cfg)).eval()
    assert isinstance(model, NextFrameModel)
    codes = model.encode(frames(2, 3, 16, 16))
    order = torch.arange(4)[None]
    reveal = torch.tensor([[True, False, False, False]])
    logits = model.frame1_logits(codes[:1], codes[1:], reveal, order, order)
    assert logits.shape == (1, 4, 4, 64)
    assert model.expected_rgb(logits).shape == (1, 3, 16, 16)


def test_flow_is_read_and_painted_in_pixels():
    torch.manual_seed(0)
    cfg = {"encoder_blocks": SMALL.encoder_blocks, "decoder_blocks": SMALL.decoder_blocks}
    quantizer = LPQ(LPQConfig(num_codes=32, channels=2, **cfg)).eval()
    flow = 200 * frames(1, 2, 16, 16) - 100
    codes = quantizer.encode(flow)
    latent = quantizer.project_in(quantizer.encoder(flow / 20).movedim(1, -1))
    assert torch.equal(codes, ((latent > 0) * torch.tensor([16, 8, 4, 2, 1])).sum(-1))
    painted = quantizer.decode(codes)
    assert torch.allclose(painted, 20 * quantizer.paint(quantizer.bottleneck.embed(codes)))
    assert painted.min() < 0  # not clamped as colors are


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"num_codes": 60}, "num_codes=128|num_codes=64"),
        ({"channels": 4}, "channels=4"),
        ({"code_px": 8}, "doubles 2 times"),
        ({"decoder_blocks": []}, "at least one block"),
        ({"encoder_blocks": [["ResBlock", 8, 8, 16, 3, 1, 1]]}, "beyond its cell"),
        ({"encoder_blocks": [["ResBlock", 9, 9, 16, 1, 1, 0]]}, "reading 8 channels"),
        ({"encoder_blocks": [["ResBlock", 8, 9, 16, 1, 1, 0]]}, "as many channels out"),
        ({"encoder_blocks": [["Downsample", 8, 8]]}, "not one of this network"),
        ({"encoder_blocks": [["ResBlock", 8, 8, 16, 1, 1]]}, "not one of this network"),
        ({"encoder_blocks": 1001 * [["ResBlock", 8, 8, 16, 1, 1, 0]]}, "at most 1000 blocks"),
        ({"num_codes": 2**60}, "num_codes=1152921504606846976"),
    ],
)
def test_sizes_that_make_no_network_are_one_sentence(change, sentence):
    sizes = {"encoder_blocks": SMALL.encoder_blocks, "decoder_blocks": SMALL.decoder_blocks}
    with pytest.raises(ValueError, match=sentence):
        LPQConfig(**(sizes | change))


def test_frames_of_half_cells_are_refused(quantizer):
    with pytest.raises(ValueError, match="multiples of 4"):
        quantizer.encode(frames(1, 3, 18, 16))


def test_the_published_size_is_the_default():
    with torch.device("meta"):
        weights = LPQ(LPQConfig()).state_dict()
    assert sum(value.numel() for value in weights.values()) == 39_743_891
