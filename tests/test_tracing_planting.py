"""A tracer that flips nothing is planted again: dark, then wider; and that is counted."""

import pytest
import torch

from lras.grid import PatchGrid
from tests.reference.slow_tracing import RandomModel
from tracing.config import TracerConfig
from tracing.perturbation import add_tracer, count_flipped, isolate, touched_cells, tracer_centers
from tracing.planting import ATTEMPTS, NONE, TRIES, plant

GRID = PatchGrid(32, 32, 8, 4)
CENTERS = torch.tensor([[[4.0, 4.0], [12.0, 20.0], [28.0, 28.0]]])


class Coarse:
    """A code is the mean brightness of a cell in few levels: small changes flip nothing."""

    patch_px, code_px = GRID.patch_px, GRID.code_px

    def __init__(self, levels=24):
        self.levels, self.sizes = levels, []

    def encode(self, frames):
        self.sizes.append(len(frames))
        cells = torch.nn.functional.avg_pool2d(frames.mean(1, keepdim=True), GRID.code_px)
        return (cells[:, 0] * self.levels).round().long()

    def frame1_logits(self, *given):
        raise AssertionError("planting asks no prediction")

    expected_rgb = frame1_logits


def planted(model, frame0, points=CENTERS, **cfg):
    points = points.expand(len(frame0), -1, -1)
    codes0 = model.encode(frame0)
    got = plant(model, frame0, codes0, points, TracerConfig(**cfg))
    before = codes0[:, None].expand_as(got.codes)
    assert torch.equal(got.flipped, count_flipped(before, got.codes))
    assert torch.equal(got.attempt == NONE, got.flipped == 0)
    return got, before


def names(attempt):
    return [[ATTEMPTS[n] for n in row] for row in attempt.tolist()]


@pytest.mark.parametrize("placement", ["patch", "query"])
@pytest.mark.parametrize("isolated", [True, False])
@pytest.mark.parametrize("rounding", ["none", "truncate_uint8"])
def test_where_a_bright_bump_shows_it_is_the_published_one(placement, isolated, rounding):
    generator = torch.Generator().manual_seed(0)
    model, frame0 = RandomModel(8, 4), 0.5 * torch.rand(2, 3, 32, 32, generator=generator)
    points = 32 * torch.rand(2, 4, 2, generator=generator)
    cfg = TracerConfig(placement=placement, isolated=isolated, round=rounding, sigma_px=1.5)
    codes0 = model.encode(frame0)

    got = plant(model, frame0, codes0, points, cfg)

    assert (got.attempt == ATTEMPTS.index("bright")).all() and got.flipped.min() > 0
    for b in range(2):
        for n in range(4):
            center = tracer_centers(points[b, n], GRID, placement)
            bumped = add_tracer(frame0[b], center, 1.5, 1.0, rounding)
            codes = torch.where(
                touched_cells(frame0[b], bumped, GRID), model.encode(bumped[None])[0], codes0[b]
            )
            if isolated:
                codes = isolate(codes0[b], codes, GRID.patch_index(points[b, n]), GRID)
            assert torch.equal(got.codes[b, n], codes)


def test_on_white_the_bump_is_dark_and_on_black_it_is_bright():
    frame0 = torch.stack([torch.ones(3, 32, 32), torch.zeros(3, 32, 32)])
    got, before = planted(Coarse(), frame0)
    assert names(got.attempt) == [["dark"] * 3, ["bright"] * 3]
    assert (got.codes[0] <= before[0]).all() and (got.codes[1] >= before[1]).all()


def test_what_only_a_wider_bump_flips_is_planted_wide_first_bright_then_dark():
    """Two levels: half a cell must change. A bump of 0.6 px cannot, one of 1.2 px can."""
    gray = [0.3, 0.7]  # up from 0.3, down from 0.7
    frame0 = torch.stack([torch.full((3, 32, 32), level) for level in gray])
    small = {"sigma_px": 0.6, "placement": "query"}
    cell = torch.tensor([[[6.0, 6.0]]])
    got, before = planted(Coarse(levels=1), frame0, cell, **small)
    assert names(got.attempt) == [["wide"], ["wide"]]
    assert (got.codes[0] - before[0]).sum() == 1 and (got.codes[1] - before[1]).sum() == -1

    narrow = [add_tracer(frame0, cell[0, 0].expand(2, 2), 0.6, sign) for sign in (1.0, -1.0)]
    assert all(torch.equal(Coarse(1).encode(frame), before[:, 0]) for frame in narrow)
    wide = add_tracer(frame0[0], cell[0, 0], 1.2, 1.0)
    assert torch.equal(Coarse(1).encode(wide[None])[0], got.codes[0, 0])


def test_each_query_keeps_the_first_tracer_that_flips():
    frame0 = torch.zeros(1, 3, 32, 32)
    frame0[..., 8:] = 1.0  # black on the left
    frame0[..., 24:, 24:] = 0.3  # and gray where only a wide one shows
    model = Coarse(levels=1)
    got, _ = planted(model, frame0, CENTERS + torch.tensor([2.0, 2.0]), sigma_px=1.0)
    alone = [planted(model, frame0, CENTERS[:, n : n + 1] + 2.0)[0] for n in range(3)]
    for n, one in enumerate(alone):
        assert torch.equal(got.codes[:, n], one.codes[:, 0])
        assert got.attempt[0, n] == one.attempt[0, 0]


def test_a_model_that_never_flips_gets_all_tries_and_none_of_them():
    model, frame0 = Coarse(levels=0), torch.rand(1, 3, 32, 32)
    got, before = planted(model, frame0)
    assert names(got.attempt) == [["none"] * 3] and torch.equal(got.codes, before)
    assert model.sizes == [1] + [3] * len(TRIES)


@pytest.mark.parametrize("amplitude, expected", [(1.0, "none"), (-1.0, "bright")])
def test_without_retry_the_configured_bump_alone_is_tried(amplitude, expected):
    model, white = Coarse(), torch.ones(1, 3, 32, 32)
    got, _ = planted(model, white, retry=False, amplitude=amplitude)
    assert names(got.attempt) == [[expected] * 3] and model.sizes == [1, 3]


def test_no_amplitude_flips_nothing_however_often_it_is_tried():
    got, _ = planted(Coarse(), torch.rand(1, 3, 32, 32), amplitude=0.0)
    assert names(got.attempt) == [["none"] * 3]


def test_isolated_keeps_only_the_patch_of_the_query():
    frame0 = torch.ones(1, 3, 32, 32)
    point = torch.tensor([[[8.5, 8.5]]])  # near a corner of four patches
    spread, before = planted(Coarse(), frame0, point, isolated=False, placement="query")
    alone, _ = planted(Coarse(), frame0, point, isolated=True, placement="query")
    changed = [GRID.to_patches(p.codes != before).any(-1)[0, 0] for p in (spread, alone)]
    assert changed[0].nonzero()[:, 0].tolist() == [0, 1, 4, 5]
    assert changed[1].nonzero()[:, 0].tolist() == [5]


@pytest.mark.parametrize("max_batch", [1, 2, 5])
def test_the_number_of_frames_at_a_time_does_not_matter(max_batch):
    generator = torch.Generator().manual_seed(3)
    frame0 = torch.rand(2, 3, 32, 32, generator=generator)
    frame0[1, :, 16:] = 1.0
    points, model = 32 * torch.rand(2, 4, 2, generator=generator), Coarse()
    codes0, cfg = model.encode(frame0), TracerConfig()
    whole = plant(model, frame0, codes0, points, cfg)
    model.sizes.clear()
    parts = plant(model, frame0, codes0, points, cfg, max_batch)
    for one, other in zip(whole, parts, strict=True):
        assert torch.equal(one, other)
    assert max(model.sizes) == max_batch and len(whole.attempt.unique()) > 1


def test_codes_that_a_batch_rounds_otherwise_far_from_the_bump_are_not_the_tracers():
    class Rounding(Coarse):
        """The last cell's code depends on how many frames stand together."""

        def encode(self, frames):
            codes = super().encode(frames)
            codes[:, -1, -1] = len(frames)
            return codes

    model, frame0 = Rounding(), torch.zeros(1, 3, 32, 32)
    codes0 = model.encode(frame0)
    got = plant(model, frame0, codes0, CENTERS[:, :2], TracerConfig(isolated=False))
    assert torch.equal(got.codes[0, :, -1, -1], codes0[:, -1, -1].expand(2))


def test_no_points_are_planted_nowhere():
    got = plant(
        Coarse(), torch.zeros(2, 3, 32, 32), torch.zeros(2, 8, 8).long(), torch.zeros(2, 0, 2),
        TracerConfig(),
    )  # fmt: skip
    assert got.codes.shape == (2, 0, 8, 8) and got.flipped.shape == (2, 0)
