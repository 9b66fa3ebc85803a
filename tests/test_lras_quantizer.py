"""The quantizer is strictly local, and its codes are those of independent implementations."""

import pytest
import torch
from vector_quantize_pytorch import FSQ as RefereeFSQ
from vector_quantize_pytorch import LFQ as RefereeLFQ

from lras.bottleneck import FSQ, LFQ, _bit_entropy
from lras.config import QuantizerConfig
from lras.quantizer import Quantizer
from lras.quantizer_module import QuantizerModule, used_share

CONFIGS = [
    QuantizerConfig(bottleneck="kmeans", num_codes=32),
    QuantizerConfig(bottleneck="kmeans", num_codes=32, hidden=24),
    QuantizerConfig(bottleneck="lfq", num_codes=256, hidden=24),
    QuantizerConfig(bottleneck="fsq", num_codes=120, levels=(8, 5, 3), hidden=24),
]


def quantizer(cfg: QuantizerConfig) -> tuple[Quantizer, torch.Tensor]:
    torch.manual_seed(0)
    made, frames = Quantizer(cfg), torch.rand(2, 3, 16, 24)
    made.initialize(frames, torch.Generator().manual_seed(0))
    return made, frames


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: f"{c.bottleneck}{c.hidden}")
def test_changing_one_cell_changes_no_other_code(cfg):
    made, frames = quantizer(cfg)
    if cfg.hidden:  # fresh cell MLPs hardly speak; let different pixels have different codes
        with torch.no_grad():
            made.encoder[-1].weight *= 100
    before = made.encode(frames)
    changed = set()
    for value in (0.0, 0.5, 1.0):
        frames[1, :, 4:8, 8:12] = value
        changed |= {tuple(where) for where in (made.encode(frames) != before).nonzero().tolist()}
    assert changed == {(1, 1, 2)}  # its own code does follow the pixels
    with_codes = made.decode(before)
    altered = before.clone()
    altered[0, 2, 3] = (altered[0, 2, 3] + 1) % cfg.num_codes
    moved = (made.decode(altered) != with_codes).any(1).nonzero()
    assert len(moved)
    assert (
        (moved[:, 0] == 0).all() and (moved[:, 1] // 4 == 2).all() and (moved[:, 2] // 4 == 3).all()
    )


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: f"{c.bottleneck}{c.hidden}")
def test_what_a_code_paints_is_the_same_in_every_cell(cfg):
    made, frames = quantizer(cfg)
    codes = made.encode(frames)
    painted = made.to_frames(made.code_pixels()[codes])
    assert torch.allclose(painted, made.decode(codes), atol=1e-6)


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda c: f"{c.bottleneck}{c.hidden}")
def test_a_few_steps_of_training_lower_the_reconstruction_error(cfg):
    made, frames = quantizer(cfg)
    optimizer = torch.optim.Adam(made.parameters(), lr=3e-3)
    errors = []
    for _ in range(60):
        error, penalty, _ = made(frames)
        optimizer.zero_grad()
        (error + 0.25 * penalty).backward()
        optimizer.step()
        errors.append(error.item())
    # A codebook started by Lloyd's algorithm is already at a minimum.
    assert (
        errors[-1] < (1.0001 if cfg.bottleneck == "kmeans" and not cfg.hidden else 0.95) * errors[0]
    )


def test_autocast_does_not_flip_codes():
    made, frames = quantizer(CONFIGS[0])
    plain = made.encode(frames)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(made.encode(frames), plain)


def test_lfq_codes_and_vectors_equal_the_referee():
    referee = RefereeLFQ(codebook_size=256, dim=8, spherical=True).eval()
    latent = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    vectors, codes, _ = referee(latent[None])
    ours, our_codes, _ = LFQ(8, 0.1)(latent)
    assert torch.equal(our_codes, codes[0])
    assert torch.allclose(LFQ(8, 0.1).embed(our_codes), vectors[0], atol=1e-6)
    assert torch.allclose(ours, vectors[0], atol=1e-6)


def test_a_bit_at_exactly_zero_is_off():
    assert LFQ(4, 0.1)(torch.tensor([[0.0, 1.0, -1.0, 0.5]]))[1].item() == 0b0101


def test_the_factorized_entropy_is_the_entropy_over_all_codes():
    chance = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)).double()
    bits = LFQ(6, 0.1).embed(torch.arange(64)) > 0
    joint = torch.where(bits, chance[:, None], 1 - chance[:, None]).prod(-1)
    full = -(joint * joint.log()).sum(-1)
    assert torch.allclose(_bit_entropy(chance).sum(-1), full)


def test_fsq_reaches_as_many_codes_as_the_referee_and_round_trips():
    levels = (8, 5, 3)
    ours, referee = FSQ(levels), RefereeFSQ(levels=list(levels))
    assert referee.codebook_size == 120
    vectors = ours.embed(torch.arange(120))
    assert len(vectors.unique(dim=0)) == 120
    inverse = torch.atanh((vectors * 0.999).clamp(-0.999, 0.999))  # sigmoid(2x) = (1 + tanh x) / 2
    assert torch.equal(ours(inverse)[1], torch.arange(120))


@pytest.mark.parametrize(
    "wrong",
    [
        {"bottleneck": "lfq", "num_codes": 500, "hidden": 8},
        {"bottleneck": "fsq", "num_codes": 100, "levels": (8, 8), "hidden": 8},
        {"bottleneck": "lfq", "num_codes": 512},
    ],
)
def test_an_impossible_config_says_what_to_type(wrong):
    with pytest.raises(ValueError, match=r"num_codes=|hidden="):
        QuantizerConfig(**wrong)


def test_the_fingerprint_follows_the_weights():
    made, _ = quantizer(CONFIGS[0])
    before = made.fingerprint()
    with torch.no_grad():
        made.bottleneck.codebook[0, 0] += 1
    assert made.fingerprint() != before


@pytest.mark.parametrize("bottleneck", ["kmeans", "fsq"])
def test_a_training_step_on_tensors_without_values_asks_for_none(bottleneck):
    """On meta, every .item() and bool(), and torch.bincount, raises: what would wait on a GPU."""
    levels = {"levels": (4, 3, 2)} if bottleneck == "fsq" else {}
    with torch.device("meta"):
        cfg = QuantizerConfig(bottleneck=bottleneck, num_codes=24, hidden=8, **levels)
        module = QuantizerModule(Quantizer(cfg))
        frames = torch.zeros(2, 2, 3, 8, 8, dtype=torch.uint8)
    module.log = lambda *_, **__: None
    loss = module.training_step({"frames": frames}, 0)
    loss.backward()
    assert loss.is_meta


def test_the_share_of_codes_in_use_is_counted_and_updates_are_fused():
    assert used_share(torch.tensor([[3, 3], [0, 3]]), 8).item() == 0.25
    optimizer = QuantizerModule(Quantizer(QuantizerConfig(num_codes=16))).configure_optimizers()
    assert optimizer.defaults["fused"] and not optimizer._step_supports_amp_scaling
