"""Cached read-outs answer as whole passes do, and see no more than the published ones."""

from functools import partial

import pytest
import torch

from lras.config import PredictorConfig, QuantizerConfig
from lras.next_frame import NextFrame
from lras.official.read_out import (
    Cache,
    PatchParallelNextFrame,
    patch_parallel,
    predict_frame1,
    read,
    read_condition,
    roll_out,
)
from lras.official.sampling import Sampler
from lras.predictor import FramePredictor
from lras.quantizer import Quantizer
from lras.vocab import TokenRanges
from tests.reference.four_forwards import four_forwards, token_by_token, whole_pass
from tracing.protocol import NextFrameModel

CODES = 32
SIZES = {"image_size": 32, "patch_px": 8, "code_px": 4, "num_codes": CODES}


def loud(cfg: PredictorConfig) -> FramePredictor:
    """Random weights large enough for attention to matter."""
    predictor = FramePredictor(cfg)
    generator = torch.Generator().manual_seed(0)
    for weight in predictor.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.3
    return predictor.eval()


@pytest.fixture(scope="module")
def predictor() -> FramePredictor:
    return loud(PredictorConfig.official(**SIZES, dim=32, num_heads=2, num_layers=3))


@pytest.fixture(scope="module")
def scene(predictor):
    """codes0, codes1, order0, revealed, asked, grid; a batch of one."""
    grid, draw = predictor.cfg.grid, torch.Generator().manual_seed(1)
    codes = torch.randint(CODES, (2, 1, grid.num_patches, grid.codes_per_patch), generator=draw)
    order0, order1 = (torch.randperm(grid.num_patches, generator=draw)[None] for _ in range(2))
    return *codes, order0, order1[:, :3], order1[:, 3:], grid


def by_whole_passes(read_out, predictor, scene):
    """The slow twin of a read-out."""
    run = partial(whole_pass, predictor)
    return read_out(run, *scene[:5], predictor.cfg.num_codes, scene[5])


def begin(predictor, scene):
    codes0, codes1, order0, revealed, asked, grid = scene
    return read_condition(predictor, codes0, codes1, order0, revealed, grid), asked, grid


def test_patch_parallel_prediction_is_that_of_four_whole_passes(predictor, scene):
    expected = by_whole_passes(four_forwards, predictor, scene)
    steps = list(patch_parallel(predictor, *begin(predictor, scene)))
    assert len(steps) == len(expected) == 4
    for step, (logits, tokens) in zip(steps, expected, strict=True):
        assert torch.allclose(step.logits, logits, atol=1e-4)
        assert torch.equal(step.tokens, tokens)


def test_nothing_revealed_and_everything_asked_works_too(predictor, scene):
    codes0, codes1, order0, revealed, asked, grid = scene
    every = torch.cat([revealed, asked], dim=1)
    bare = codes0, codes1, order0, revealed[:, :0], every, grid
    expected = by_whole_passes(four_forwards, predictor, bare)
    steps = patch_parallel(predictor, *begin(predictor, bare))
    for step, (logits, _) in zip(steps, expected, strict=True):
        assert torch.allclose(step.logits, logits, atol=1e-4)


def test_a_roll_out_is_that_of_whole_passes(predictor, scene):
    expected = by_whole_passes(token_by_token, predictor, scene)
    steps = list(roll_out(predictor, *begin(predictor, scene)))
    assert len(steps) == len(expected)
    for step, (logits, tokens) in zip(steps, expected, strict=True):
        assert torch.allclose(step.logits, logits, atol=1e-4)
        assert torch.equal(step.tokens, tokens)


def test_a_batch_is_read_row_by_row(predictor, scene):
    codes0, codes1, order0, revealed, asked, grid = scene
    other = codes1, codes0, order0.flip(1), revealed.flip(1), asked.flip(1)
    both = [torch.cat(pair) for pair in zip(scene[:5], other, strict=True)]
    together = list(patch_parallel(predictor, *begin(predictor, (*both, grid))))
    for row, single in enumerate((scene, (*other, grid))):
        alone = patch_parallel(predictor, *begin(predictor, single))
        for a, b in zip(together, alone, strict=True):
            assert torch.allclose(a.logits[row], b.logits[0], atol=1e-4)


def test_a_patch_sees_the_pointers_of_those_before_it_only(predictor, scene):
    asked, grid = scene[4:]
    swapped = asked.clone()
    swapped[:, [4, 5]] = asked[:, [5, 4]]
    one, two = (
        next(patch_parallel(predictor, *begin(predictor, (*scene[:4], order, grid)))).logits[0]
        for order in (asked, swapped)
    )
    assert torch.allclose(one[:4], two[:4], atol=1e-5)
    assert not torch.allclose(one[4], two[5], atol=1e-3)  # the same patch, after one more
    assert not torch.allclose(one[6], two[6], atol=1e-5)


def test_a_mixed_prediction_rolls_out_first_and_reads_the_rest_at_once(predictor, scene):
    codes0, codes1, order0, revealed, asked, grid = scene
    rolled = by_whole_passes(token_by_token, predictor, (*scene[:4], asked[:, :2], grid))
    filled = codes1.clone()
    for n, patch in enumerate(asked[0, :2]):
        filled[0, patch] = torch.stack(
            [tokens[0, 0] for _, tokens in rolled[5 * n + 1 : 5 * n + 5]]
        )
    shown = torch.cat([revealed, asked[:, :2]], dim=1)
    known = codes0, filled, order0, shown, asked[:, 2:], grid
    rest = by_whole_passes(four_forwards, predictor, known)
    filled[0, asked[0, 2:]] = torch.stack([tokens[0] for _, tokens in rest], dim=-1)
    assert torch.equal(predict_frame1(predictor, *scene, num_sequential=2), filled)
    assert torch.equal(filled[0, revealed[0]], codes1[0, revealed[0]])


def test_a_seed_repeats_a_random_roll_out(predictor, scene):
    def drawn(seed: int) -> torch.Tensor:
        sampler = Sampler(top_k=None, generator=torch.Generator().manual_seed(seed))
        return predict_frame1(predictor, *scene, num_sequential=13, choose=sampler)

    assert torch.equal(drawn(0), drawn(0))
    assert not torch.equal(drawn(0), drawn(1))


def test_longer_tables_answer_the_same_for_an_rgb_sequence(predictor, scene):
    ranges = TokenRanges(
        contents=(0, 32), pointers0=(32, 48), pointers1=(48, 64), places0=(0, 80),
        places1=(80, 160), flow=(64, 96), flow_pointers=(96, 112), flow_places=(160, 300),
    )  # fmt: skip
    tables = {"vocab_size": 112, "num_places": 300, "ranges": ranges}
    longer = loud(PredictorConfig.official(**SIZES, dim=32, num_heads=2, num_layers=3, **tables))
    state, own = predictor.state_dict(), longer.state_dict()
    for name, value in state.items():
        own[name][: len(value)] = value
    steps = patch_parallel(longer, *begin(longer, scene))
    expected = by_whole_passes(four_forwards, predictor, scene)
    first, (logits, _) = next(steps), expected[0]
    assert first.logits.shape[-1] == 112
    assert torch.allclose(first.logits[..., :64], logits, atol=1e-4)


def test_tokens_of_any_kind_can_be_read_in_chunks(predictor):
    draw = torch.Generator().manual_seed(2)
    tokens = torch.randint(64, (1, 40), generator=draw)
    places = torch.randint(160, (1, 40), generator=draw)
    cache = Cache(40)
    parts = zip(tokens.split([7, 1, 20, 12], 1), places.split([7, 1, 20, 12], 1), strict=True)
    hidden = torch.cat([read(predictor, *part, cache) for part in parts], dim=1)
    expected = whole_pass(predictor, tokens, places, 40)
    assert torch.allclose(hidden @ predictor.head.weight.T, expected, atol=1e-4)
    assert torch.equal(cache.last, hidden[:, -1:])
    assert cache.block(2)[0].shape == (1, 2, 40, 16)


def test_a_full_cache_and_a_rotary_model_are_refused(predictor):
    tokens = torch.zeros(1, 9, dtype=torch.long)
    with pytest.raises(ValueError, match=r"9 tokens do not fit the cache; .*Cache\(9\)"):
        read(predictor, tokens, tokens, Cache(8))
    rotary = FramePredictor(PredictorConfig.modern(**SIZES, dim=32, num_heads=2))
    with pytest.raises(ValueError, match="need a slot table, got positions='rotary'"):
        read(rotary, tokens, tokens, Cache(9))


# --- as a model for tracing -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(predictor) -> PatchParallelNextFrame:
    quantizer = Quantizer(QuantizerConfig(code_px=4, num_codes=CODES))
    return PatchParallelNextFrame(quantizer, predictor).eval()


def asked_of(model: NextFrame, scene, codes1, read_out: str) -> torch.Tensor:
    codes0, _, order0, revealed, asked, grid = scene
    reveal = torch.zeros(1, grid.num_patches, dtype=torch.bool)
    reveal[0, revealed[0]] = True
    order1 = torch.cat([revealed, asked], dim=1)
    cells = grid.to_cells(codes0), grid.to_cells(codes1)
    return model.frame1_logits(*cells, reveal, order0, order1, read_out)


def test_it_is_what_tracing_asks_for(model, scene):
    assert isinstance(model, NextFrameModel)
    grid, hidden = scene[5], scene[4][0]
    every, first = (asked_of(model, scene, scene[1], kind) for kind in ("all", "first"))
    assert every.shape == (1, 8, 8, CODES) and first.shape == (1, 4, 4, CODES)
    assert torch.equal(every[:, ::2, ::2], first)
    expected = by_whole_passes(four_forwards, model.predictor, scene)
    for code, (logits, _) in enumerate(expected):
        patches = grid.to_patches(every.movedim(-1, 1)[0])[:, hidden, code].T
        assert torch.allclose(patches, logits[0, :, :CODES], atol=1e-4)


def test_true_codes_of_hidden_patches_are_never_seen(model, scene):
    codes1, hidden = scene[1].clone(), scene[4][0]
    codes1[0, hidden] = (codes1[0, hidden] + 1) % CODES
    before, after = (asked_of(model, scene, codes, "all") for codes in (scene[1], codes1))
    assert torch.equal(before, after)
    codes1[0, scene[3][0]] = 0
    assert not torch.equal(before, asked_of(model, scene, codes1, "all"))


def test_its_first_code_of_the_first_asked_patch_is_the_plain_read_outs(model, scene):
    plain = NextFrame(model.quantizer, model.predictor)
    one, other = (asked_of(m, scene, scene[1], "first").flatten(1, 2) for m in (model, plain))
    first, last = scene[4][0, 0], scene[4][0, -1]
    assert torch.allclose(one[0, first], other[0, first], atol=1e-4)
    assert not torch.allclose(one[0, last], other[0, last], atol=1e-3)
