"""A tracer that changes no code says nothing, and every result says how often that was."""

import io
import json
from dataclasses import replace

import pytest
import torch
from fake_datasets import fake_track, write_tracks
from rich.console import Console

from data.types import PointPairs
from tests.test_tracing_report import results, row
from tracing.baselines import ZeroMotion
from tracing.benchmarks.base import evaluate, print_table
from tracing.benchmarks.flips import flip_shares, flips_line
from tracing.benchmarks.tapvid import TapVid
from tracing.benchmarks.track_tables import print_track_table
from tracing.config import TracerConfig, Traces
from tracing.kl_tracer import KLTracer
from tracing.oracle import ShiftOracle
from tracing.planting import ATTEMPTS
from tracing.probe.scores import Answer, scores
from tracing.probe.sets import probe_set
from tracing.report import write_report


class Counting:
    """Stays where it is; its tracers flip what it was told, point by point."""

    name, needs_model = "counting", False

    def __init__(self, flipped, attempt=None, kept=None):
        self.flipped = torch.tensor(flipped)
        self.attempt = None if attempt is None else torch.tensor(attempt)
        self.kept = None if kept is None else torch.tensor(kept)

    def __call__(self, frame0, frame1, points, seed=0):
        def told(values):
            return None if values is None else values[: points.shape[1]].expand(len(points), -1)

        return Traces(
            xy=points.clone(),
            visible=torch.ones_like(points[..., 0], dtype=torch.bool),
            flipped_codes=told(self.flipped),
            attempt=told(self.attempt),
            kept_hidden_share=told(self.kept),
        )


def pairs(num_points):
    frames = torch.rand(2, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    points = torch.full((1, num_points, 2), 8.0)
    yes = torch.ones(1, num_points, dtype=torch.bool)
    return PointPairs(*frames, points, points + 1, yes, yes, "few")


BRIGHT, DARK, WIDE, NONE = range(4)
FLIPPED, TRIED = [4, 2, 0, 1, 3, 0, 2, 4], [BRIGHT, DARK, NONE, WIDE, DARK, NONE, DARK, BRIGHT]
SHARES = {"mean_codes": 2.0, "silent": 2 / 8, "dark": 3 / 8, "wide": 1 / 8}


def printed(print_rows, rows):
    console = Console(file=io.StringIO(), width=110)
    print_rows(rows, console=console)
    return console.file.getvalue()


def test_attempts_are_numbered_as_the_tests_have_them():
    assert ATTEMPTS == ("bright", "dark", "wide", "none")


def test_shares_are_of_the_points():
    assert flip_shares(torch.tensor(FLIPPED), torch.tensor(TRIED)) == SHARES
    once = flip_shares(torch.tensor(FLIPPED), None)
    assert once == SHARES | {"dark": 0.0, "wide": 0.0}


def test_rows_count_every_valid_point_in_view_or_not():
    asked = pairs(8)
    asked = replace(asked, visible=torch.arange(8)[None] < 2)
    counting, zero = evaluate([Counting(FLIPPED, TRIED), ZeroMotion()], asked, 0, patch_px=4)
    assert counting.flips == SHARES and zero.flips is None
    assert len(counting.errors) == 2
    half = replace(asked, valid=torch.arange(8)[None] < 4)  # the others only pad
    (counting,) = evaluate([Counting(FLIPPED, TRIED)], half, 0, patch_px=4)
    assert counting.flips == {"mean_codes": 7 / 4, "silent": 0.25, "dark": 0.25, "wide": 0.25}


def test_parts_of_a_data_set_count_by_their_points():
    parts = [pairs(8), pairs(2), pairs(2)]
    (counting,) = evaluate([Counting(FLIPPED, TRIED, [0.5] * 2 + [0.25] * 6)], parts, 0, patch_px=4)
    assert counting.flips["mean_codes"] == pytest.approx((16 + 6 + 6) / 12)
    assert counting.flips["dark"] == pytest.approx((3 + 1 + 1) / 12)
    assert counting.kept_hidden_share == pytest.approx((6 * 0.5 + 6 * 0.25) / 12)
    record = json.loads(json.dumps(counting.as_dict()))
    assert record["flips"] == counting.flips
    assert record["kept_hidden_share"] == counting.kept_hidden_share
    (zero,) = evaluate([ZeroMotion()], parts, 0, patch_px=4)
    assert zero.as_dict()["flips"] is None and zero.as_dict()["kept_hidden_share"] is None


def test_a_line_below_the_table_says_what_went_wrong_and_only_that():
    line = "counting: tracers 37.5 % dark, 12.5 % wide, 25.0 % flipped nothing"
    assert flips_line("counting", SHARES) == line
    assert flips_line("kl", SHARES | {"silent": 0.0, "wide": 0.0}) == "kl: tracers 37.5 % dark"
    assert flips_line("kl", {"mean_codes": 3.0, "silent": 0.0, "dark": 0.0, "wide": 0.0}) is None
    assert flips_line("zero_motion", None) is None
    rows = evaluate([Counting(FLIPPED, TRIED), ZeroMotion()], pairs(8), 0, patch_px=4)
    text = printed(print_table, rows)
    assert line in text and text.count("tracers ") == 1
    assert "tracers " not in printed(
        print_table, evaluate([Counting([4] * 8)], pairs(8), 0, patch_px=4)
    )


def test_tables_of_videos_and_pages_say_it_too(tmp_path):
    task = TapVid(write_tracks(tmp_path / "a.pkl", [fake_track(), fake_track((1, 0))]), seed=0)
    (counting,) = task.score([Counting(FLIPPED, TRIED, [0.5] * 8)], task.parts, 0, patch_px=4)
    assert counting.flips["dark"] > 0  # the second of the two points of a frame
    assert counting.as_dict()["flips"] == counting.flips
    assert counting.as_dict()["kept_hidden_share"] == 0.5
    assert "counting: tracers" in printed(print_track_table, [counting])
    page = tmp_path / "report.html"
    write_report(results(tracers=[row("k<l", 1.0, flips=SHARES), row("dis", 2.0)]), page)
    said = page.read_text()
    assert "<p>k&lt;l: tracers 37.5 % dark" in said and said.count(": tracers") == 1


def test_a_probe_logs_the_attempts_that_its_answers_tell():
    sets = probe_set([replace(pairs(4), name="a"), replace(pairs(4), name="b")], "few")
    told = [torch.tensor(TRIED[:4]), torch.tensor(TRIED[4:])]
    flipped = [torch.tensor(FLIPPED[:4]), torch.tensor(FLIPPED[4:])]
    xy, peak = pairs(4).points[0], torch.ones(4).double()
    answers = [Answer(i, xy, peak, flipped[i], attempt=told[i]) for i in range(2)]
    figures = scores(sets, answers, patch_px=4)
    assert {key: figures[key] for key in ("silent", "dark", "wide")} == {
        key: SHARES[key] for key in ("silent", "dark", "wide")
    }
    assert figures["flipped_codes"] == SHARES["mean_codes"]
    mute = scores(sets, [replace(answer, attempt=None) for answer in answers], patch_px=4)
    assert "dark" not in mute and mute["silent"] == SHARES["silent"]


def test_a_white_wall_is_told_from_a_tracer_that_never_flips():
    """On white the bright tracer changes nothing; a dark one does; one of no amplitude never."""
    frames = torch.ones(1, 3, 32, 32)
    points = torch.tensor([[[12.0, 12.0], [20.0, 20.0]]])
    yes = torch.ones(1, 2, dtype=torch.bool)
    wall = PointPairs(frames, frames, points, points + 1, yes, yes, "wall")
    oracle = ShiftOracle((0, 0), 8, 4)
    for cfg, shares in (
        (TracerConfig(num_masks=1), {"silent": 0.0, "dark": 1.0, "wide": 0.0}),
        (TracerConfig(num_masks=1, retry=False), {"silent": 1.0, "dark": 0.0, "wide": 0.0}),
        (TracerConfig(num_masks=1, amplitude=0.0), {"silent": 1.0, "dark": 0.0, "wide": 0.0}),
    ):
        (traced,) = evaluate([KLTracer(oracle, cfg)], wall, 0, patch_px=8)
        assert {key: traced.flips[key] for key in shares} == shares
        assert (traced.flips["mean_codes"] > 0) == (shares["silent"] == 0)
