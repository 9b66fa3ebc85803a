import io
import json
import re
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from data.types import PointPairs
from tracing.baselines import BestTranslation, ZeroMotion
from tracing.benchmarks.base import evaluate, print_table, readout_floor, save_points
from tracing.benchmarks.provenance import NOT_A_CHECKOUT, git_sha, provenance
from tracing.config import Traces


class Peeking:
    """A tracer that is off by a fixed error; it gets the truth for the test's sake."""

    needs_model = False

    def __init__(self, name, target, off, never_hidden=None):
        self.name, self.target, self.off = name, target, torch.tensor(off)
        self.never_hidden = never_hidden
        self.seeds = []

    def __call__(self, frame0, frame1, points, seed=0):
        self.seeds.append(seed)
        xy = self.target[: len(points)] + self.off
        visible = torch.ones_like(xy[..., 0], dtype=torch.bool)
        return Traces(xy=xy, visible=visible, never_hidden=self.never_hidden)


def point_pairs(num_pairs=6, num_points=5, seed=0, size=32, motion=8.0):
    generator = torch.Generator().manual_seed(seed)
    points = 8 + (size - 16) * torch.rand(num_pairs, num_points, 2, generator=generator)
    drift = motion * (2 * torch.rand(num_pairs, 1, 2, generator=generator) - 1)
    frames = torch.rand(2, num_pairs, 3, size, size, generator=generator)
    visible = torch.rand(num_pairs, num_points, generator=generator) < 0.8
    valid = torch.rand(num_pairs, num_points, generator=generator) < 0.9
    return PointPairs(frames[0], frames[1], points, points + drift, visible, valid, "random")


def part(pairs, rows):
    kept = (pairs.frame0, pairs.frame1, pairs.points, pairs.target, pairs.visible, pairs.valid)
    return PointPairs(*(t[rows] for t in kept), pairs.name)


def test_scores_are_those_of_the_scored_points():
    pairs = point_pairs()
    scored = pairs.visible & pairs.valid
    zero, off = evaluate(
        [ZeroMotion(), Peeking("off", pairs.target, (0.0, 3.0))], pairs, seed=0, patch_px=4
    )
    length = (pairs.points - pairs.target).double().norm(dim=-1)[scored]
    assert zero.epe == pytest.approx(length.mean().item(), abs=1e-12)
    assert zero.ratio_to_zero == 1.0
    assert len(zero.errors) == scored.sum()
    assert off.epe == pytest.approx(3.0, abs=1e-6)
    assert off.median == pytest.approx(3.0, abs=1e-5)
    assert off.ratio_to_zero == pytest.approx(3.0 / zero.epe, abs=1e-6)
    assert off.hit == 0.0
    assert off.delta_avg == 0.0  # 3 px of 32 are 24 px of 256
    assert off.target_revealed_share is None


def test_parts_of_a_data_set_score_as_the_whole_and_get_their_own_seed():
    pairs = point_pairs()
    parts = [part(pairs, slice(0, 2)), part(pairs, slice(2, 6))]
    (whole,) = evaluate([BestTranslation()], pairs, seed=0, patch_px=4)
    (split,) = evaluate([BestTranslation()], iter(parts), seed=0, patch_px=4)
    assert torch.equal(whole.errors, split.errors)
    assert torch.equal(whole.frame_pair, split.frame_pair)
    assert whole.epe_interval == split.epe_interval

    tracer = Peeking("seeded", pairs.target, (0.0, 0.0))
    evaluate([tracer], [part(pairs, slice(0, 2))] * 3, seed=10, patch_px=4)
    assert tracer.seeds == [10, 11, 12]


def test_revealed_targets_are_counted_and_stay_errors():
    pairs = point_pairs(num_pairs=1, num_points=8, size=24)
    grid_patch = (pairs.target[0] // 4).long().clamp(0, 5)
    never_hidden = torch.zeros(1, 36, dtype=torch.bool)
    never_hidden[0, grid_patch[0, 1] * 6 + grid_patch[0, 0]] = True
    scored = torch.arange(8)[None] != 0  # the point that chose the patch is not scored itself
    pairs = replace(pairs, visible=scored, valid=torch.ones_like(scored))
    (row,) = evaluate(
        [Peeking("model", pairs.target, (1.0, 0.0), never_hidden)], pairs, seed=0, patch_px=4
    )
    same_patch = (grid_patch[1:] == grid_patch[0]).all(-1).double().mean().item()
    assert row.target_revealed_share == same_patch
    assert 0 < row.target_revealed_share < 1
    assert len(row.errors) == 7
    with pytest.raises(ValueError, match="own patch_px"):
        evaluate(
            [Peeking("model", pairs.target, (1.0, 0.0), never_hidden)], pairs, seed=0, patch_px=8
        )


def test_rows_are_compared_on_the_same_points():
    pairs = point_pairs(num_pairs=12)
    tracers = [Peeking("near", pairs.target, (0.5, 0.0)), Peeking("far", pairs.target, (1.5, 0.0))]
    near, far = evaluate(tracers, pairs, seed=0, patch_px=4, paired_with="far")
    assert far.paired_vs is None
    assert near.paired_vs["name"] == "far"
    assert near.paired_vs["difference"] == pytest.approx(-1.0, abs=1e-6)
    assert near.paired_vs["excludes_zero"]


def test_the_floor_is_zero_for_whole_patch_motion_from_the_patch_only():
    pairs = point_pairs()
    whole = replace(pairs, target=pairs.points + torch.tensor([4.0, -4.0]))
    assert readout_floor(whole, patch_px=4) == pytest.approx(0, abs=1e-5)
    assert readout_floor(whole, patch_px=4, placement="query") > 1


def test_the_floor_of_a_point_is_its_distance_from_the_cell_center():
    frames = torch.zeros(1, 3, 32, 32)
    yes = torch.ones(1, 1, dtype=torch.bool)
    points, target = torch.tensor([[[9.0, 9.0]]]), torch.tensor([[[13.0, 17.0]]])
    pairs = PointPairs(frames, frames, points, target, yes, yes, "one")
    # query placement: target (13, 17) lies in the 8-px patch centered at (12, 20)
    assert readout_floor(pairs, 8, "query") == pytest.approx(10**0.5)
    # patch placement: center (12, 12) moves to (16, 20), the patch at (20, 20): 4 px too far in x
    assert readout_floor(pairs, 8, "patch") == 4.0
    # and with cells of 4 px to the cell centered at (18, 22): 2 px too far in both
    assert readout_floor(pairs, 8, "patch", map_px=4) == pytest.approx(8**0.5)


def test_the_share_of_perfect_answers_at_256_px_is_the_known_patch_floor():
    generator = torch.Generator().manual_seed(0)
    target = 256 * torch.rand(1, 20000, 2, generator=generator)
    yes = torch.ones(1, 20000, dtype=torch.bool)
    frames = torch.zeros(1, 3, 256, 256)
    pairs = PointPairs(frames, frames, target, target, yes, yes, "uniform")
    assert readout_floor(pairs, 8, "query") == pytest.approx(3.06, abs=0.03)
    assert readout_floor(pairs, 4, "query") == pytest.approx(1.53, abs=0.02)


def test_mistakes_are_named():
    pairs = point_pairs()
    nothing = replace(pairs, visible=torch.zeros_like(pairs.visible))
    with pytest.raises(ValueError, match="nothing to score"):
        evaluate([ZeroMotion()], nothing, seed=0, patch_px=4)
    with pytest.raises(ValueError, match="repeat"):
        evaluate([ZeroMotion(), ZeroMotion()], pairs, seed=0, patch_px=4)
    with pytest.raises(ValueError, match="pick one"):
        evaluate([ZeroMotion()], pairs, seed=0, patch_px=4, paired_with="raft")


def test_the_table_shows_every_row_and_the_floor():
    tracers, console = [ZeroMotion(), BestTranslation()], Console(file=io.StringIO(), width=80)
    rows = evaluate(tracers, point_pairs(), seed=0, patch_px=4, paired_with="best_translation")
    print_table(rows, floor=0.5, console=console)
    text = console.file.getvalue()
    for row in rows:
        numbers = f"{row.name} +{row.epe:.3f} .* {row.median:.2f} +{row.ratio_to_zero:.3f}"
        assert re.search(numbers, text)
    assert "EPE 0.500" in text
    low, high = rows[0].paired_vs["interval"]
    assert f"[{low:+.3f}, {high:+.3f}]" in text
    assert "…" not in text


def test_rows_become_json_and_points_a_file(tmp_path):
    rows = evaluate([ZeroMotion()], point_pairs(), seed=0, patch_px=4)
    record = json.loads(json.dumps(rows[0].as_dict()))
    assert record["epe_interval"][0] <= record["epe"] <= record["epe_interval"][1]
    save_points(rows, tmp_path / "points.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["points.npz"]
    saved = np.load(tmp_path / "points.npz")
    assert np.array_equal(saved["xy/zero_motion"], rows[0].xy.numpy())


def test_provenance_is_json_and_names_the_machine(tmp_path):
    record = json.loads(json.dumps(provenance(seed=7, command="python eval.py")))
    assert record["seed"] == 7
    assert record["command"] == "python eval.py"
    assert record["machine"]["torch"] == torch.__version__
    assert record["machine"]["cores"] >= 1
    assert git_sha(tmp_path) == NOT_A_CHECKOUT


def test_git_sha_is_that_of_this_checkout_and_says_when_files_differ(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "inner").mkdir()
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "first")
    assert git_sha(tmp_path) == git("rev-parse", "HEAD")
    assert git_sha(tmp_path / "inner") == NOT_A_CHECKOUT
    (tmp_path / "a").write_text("2")
    assert git_sha(tmp_path).endswith("-dirty")
