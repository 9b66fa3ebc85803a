"""FLOPs from sizes alone against a counter that watches every matrix product."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lras import prefix
from lras.config import PredictorConfig
from lras.flops import (
    attention_flops,
    block_parameters,
    extend_flops,
    group_tokens,
    head_flops,
    prediction_flops,
    prediction_tokens,
    read_flops,
)
from lras.predictor import FramePredictor

SIZES = {"image_size": 32, "patch_px": 8, "num_codes": 24, "dim": 32, "num_heads": 2}
# Without a view of the codes' pixels: that product belongs to the embedding, which is left out.
MODERN = PredictorConfig.modern(**SIZES, num_layers=3, embed_pixels=False)
OFFICIAL = PredictorConfig.official(**SIZES, num_layers=2)
FLAVORS = pytest.mark.parametrize("cfg", [MODERN, OFFICIAL], ids=["modern", "official"])
REVEALED = 5


def seen(run) -> int:
    """FLOPs of the matrix products that torch is asked for."""
    with (
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        run()
    return counter.get_total_flops()


def scene(cfg: PredictorConfig, rows: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes grouped by patch, and an order of the patches."""
    patches = cfg.grid.num_patches
    codes = torch.randint(cfg.num_codes, (rows, patches, cfg.codes_per_patch))
    return codes, torch.randperm(patches).expand(rows, -1)


def whole_square(cfg: PredictorConfig, new: int) -> int:
    """What a causal pass with plain matrix products computes in vain: the scores of the future."""
    return attention_flops(cfg, new * (new - 1) // 2)


@FLAVORS
def test_the_parameters_of_the_blocks_are_those_of_the_model(cfg):
    model = FramePredictor(cfg)
    weights = [p for n, p in model.named_parameters() if n.startswith("blocks.") and p.ndim == 2]
    assert block_parameters(cfg) == sum(weight.numel() for weight in weights)


@FLAVORS
@pytest.mark.parametrize("codes_read", [1, 4])
def test_a_prediction_costs_what_the_counter_sees_less_the_future_half(cfg, codes_read):
    model, (codes, order) = FramePredictor(cfg), scene(cfg)
    shown, hidden = order[:, :REVEALED], order[:, REVEALED:]
    asked = codes, codes, order, shown, hidden, cfg.grid, codes_read
    counted = seen(lambda: model.read_patches(*asked))
    patches = cfg.grid.num_patches
    given = patches * group_tokens(cfg, 0) + REVEALED * group_tokens(cfg, 1)
    ours = prediction_flops(cfg, patches, REVEALED, codes_read)
    assert ours + whole_square(cfg, given) == counted


@FLAVORS
def test_a_continuation_costs_its_own_tokens_only(cfg):
    model, (codes, order) = FramePredictor(cfg), scene(cfg)
    first, then = order[:, :9], order[:, 9:]
    given = prefix.extend(model, prefix.Given(), codes, first, 0, cfg.grid, "math")
    counted = seen(lambda: prefix.extend(model, given, codes, then, 1, cfg.grid, "math"))
    new = then.shape[1] * group_tokens(cfg, 1)
    assert given.length == 9 * group_tokens(cfg, 0)
    assert extend_flops(cfg, new, given.length) + whole_square(cfg, new) == counted


@FLAVORS
def test_rows_that_share_a_prefix_pay_for_their_own_groups_only(cfg):
    model, (codes, order) = FramePredictor(cfg), scene(cfg, rows=3)
    given = prefix.extend(model, prefix.Given(), codes[:1], order[:1], 0, cfg.grid, "math")
    asked = order[:, :6]
    read = 4, cfg.num_codes, "math"
    counted = seen(lambda: prefix.read(model, given, codes, asked, cfg.grid, *read))
    each = read_flops(cfg, 6, 4, given.length) + head_flops(cfg, 6 * 4)
    assert 3 * each == counted


@FLAVORS
@pytest.mark.parametrize("codes_read", [1, 4])
def test_tokens_of_a_prediction_are_those_that_enter_the_blocks(cfg, codes_read):
    model, (codes, order) = FramePredictor(cfg), scene(cfg)
    tokens = []
    model.blocks[0].mlp_norm.register_forward_hook(
        lambda module, given, out: tokens.append(out.shape[1])
    )
    shown, hidden = order[:, :REVEALED], order[:, REVEALED:]
    with torch.no_grad():
        model.read_patches(codes, codes, order, shown, hidden, cfg.grid, codes_read)
    assert sum(tokens) == prediction_tokens(cfg, cfg.grid.num_patches, REVEALED, codes_read)


def test_the_head_is_counted_over_the_columns_that_are_read():
    assert head_flops(OFFICIAL, 3) == 2 * 3 * OFFICIAL.dim * OFFICIAL.num_codes
    assert head_flops(OFFICIAL, 3, columns=40) == 2 * 3 * OFFICIAL.dim * 40
