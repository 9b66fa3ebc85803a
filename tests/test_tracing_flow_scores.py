"""The task over every pixel: who is asked for what, when, and what comes of the answers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from rich.console import Console

from data.coords import pixel_centers
from tests import fake_flow
from tests.fake_datasets import write_flow_pair
from tests.reference.slow_flow_metrics import slow_set
from tracing.baselines import DIS, Farneback, ZeroMotion
from tracing.benchmarks.flow import FlowPairs
from tracing.benchmarks.flow_tables import PAIRS_SHOWN, print_dense
from tracing.config import Traces

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")


class Knows:
    """A tracer that moves points by a function of (points, seed), and notes what it was asked."""

    needs_model = False

    def __init__(self, flow_at, name="knows", dense=True, log=None):
        self.flow_at, self.name, self.log = flow_at, name, [] if log is None else log
        if dense:
            self.dense_flow = None  # only its being there is looked at

    def __call__(self, frame0, frame1, points, seed=0):
        self.log.append((self.name, tuple(frame0.shape[-2:]), points.clone(), seed))
        xy = points + self.flow_at(points, seed)
        return Traces(xy=xy, visible=torch.ones(xy.shape[:2], dtype=torch.bool))


def noise(points, seed):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(points.shape, generator=generator)


def affine(points, seed):
    return points @ torch.tensor([[0.1, -0.2], [0.3, 0.05]]) + 1.5


@pytest.fixture
def pairs(tmp_path):
    for number, name in enumerate("abc"):
        write_flow_pair(tmp_path / name, (4 + number, 1), size=(16 + 2 * number, 20), masks=True)
    return tmp_path


def task_of(root, **options):
    return FlowPairs(root, points_per_pair=4, seed=7, **options)


def score(task, *tracers):
    return task.score(tracers, task.parts, 7, patch_px=4)


def test_dense_scores_are_the_slow_ones_of_what_the_tracer_said(pairs):
    tracer, task = Knows(noise), task_of(pairs)
    (row,) = score(task, tracer)
    said = []
    for part, (_, _, points, seed) in zip(task.parts, tracer.log[1::2], strict=True):
        height, width = part.truth.valid.shape
        assert torch.equal(points[0], pixel_centers(height, width).flatten(0, 1))
        pred = ((points + noise(points, seed)) - points)[0].T.reshape(2, height, width)
        said.append([x.numpy() for x in (pred, part.truth.flow, part.truth.valid)])
        said[-1].append(part.truth.visible.numpy())
    expected = slow_set(said)
    assert row.dense == {key: pytest.approx(value) for key, value in expected.items()}
    assert row.as_dict()["dense"] == row.dense and row.dense["pairs"] == 3
    assert [seed for *_, seed in tracer.log] == [7, 7, 8, 8, 9, 9]


def test_scores_pair_by_pair_name_the_pair_and_its_size(pairs):
    task = task_of(pairs)
    rows = score(task, ZeroMotion(), Knows(noise, "sparse", dense=False))
    table = task.dense_pairs(rows)
    assert [(pair["name"], pair["resolution_hw"]) for pair in table] == [
        ("a", [16, 20]), ("b", [18, 20]), ("c", [20, 20]),
    ]  # fmt: skip
    assert [list(pair["scores"]) for pair in table] == [["zero_motion"]] * 3
    b = table[1]["scores"]["zero_motion"]
    assert b["epe"] == pytest.approx(26**0.5) and b["pixels"] == 17 * 20 and b["s40"] is None
    assert rows[1].dense is None and rows[1].as_dict()["dense"] is None
    assert task.dense_pairs(rows[1:]) == []


def test_a_part_is_asked_about_by_all_before_the_next_is_taken(pairs):
    task, log = task_of(pairs), []

    def parts():
        for part in task.parts:
            log.append(part.name)
            yield part

    tracers = [Knows(noise, "one", log=log), Knows(noise, "two", log=log)]
    task.score(tracers, parts(), 7, patch_px=4)
    who = [entry if isinstance(entry, str) else entry[0] for entry in log]
    assert who == [x for name in "abc" for x in (name, "one", "two", "one", "two")]


@pytest.mark.parametrize("stride, asked", [(1, 16), (2, 4)])
def test_a_model_is_asked_on_a_grid_and_interpolated(pairs, stride, asked):
    task = task_of(pairs, input_px=16, dense_stride=stride)
    tracer = Knows(affine, "kl@16x16", dense=False)
    (row,) = score(task, tracer)
    assert [entry[2].shape[1] for entry in tracer.log[1::2]] == [asked] * 3
    assert {entry[1] for entry in tracer.log} == {(16, 20), (18, 20), (20, 20)}
    part = task.parts[0]
    flow = affine(pixel_centers(16, 20), 0).movedim(-1, 0)  # known everywhere from the grid
    off = (flow - part.truth.flow).norm(dim=0)[part.truth.valid]
    assert row.by_pair[0].scores()["epe"] == pytest.approx(off.mean().item(), abs=1e-4)


def test_a_model_is_not_asked_for_pixels_unless_that_is_wanted(pairs):
    task = task_of(pairs, input_px=16)
    tracer = Knows(affine, "kl@16x16", dense=False)
    (row,) = score(task, tracer)
    assert len(tracer.log) == 3 and row.dense is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_answer_that_is_no_number_is_refused_naming_tracer_and_pair(pairs, bad):
    def broken(points, seed):
        flow = torch.zeros_like(points)
        flow[:, -1] = bad if seed == 8 and points.shape[1] > 4 else 0.0
        return flow

    with pytest.raises(ValueError, match=r"tracer broken gave .* NaN or infinite .* of b,"):
        score(task_of(pairs), Knows(broken, "broken"))


def test_too_few_answers_are_refused(pairs):
    class Short(Knows):
        def __call__(self, frame0, frame1, points, seed=0):
            few = points if points.shape[1] == 4 else points[:, 1:]
            return Traces(xy=few, visible=torch.ones(few.shape[:2], dtype=torch.bool))

    with pytest.raises(ValueError, match=r"tracer short gave positions of shape \(1, 319, 2\)"):
        score(task_of(pairs), Short(noise, "short"))


@pytest.mark.parametrize("tracer", [ZeroMotion(), DIS(), Farneback()], ids=lambda t: t.name)
def test_pixels_asked_as_points_are_the_dense_flow(pairs, tracer):
    part = task_of(pairs).parts[0]
    points = pixel_centers(16, 20).flatten(0, 1)[None]
    asked = (tracer(part.frame0, part.frame1, points).xy - points)[0].T.reshape(2, 16, 20)
    torch.testing.assert_close(asked, tracer.dense_flow(part.frame0, part.frame1)[0])


def test_a_smaller_task_keeps_names_and_points(pairs):
    task = task_of(pairs)
    smaller = task.only(["c"])
    (part,) = list(smaller.parts)
    assert smaller.parts.names_of_parts == ["c"] and task.parts.names_of_parts == [*"abc"]
    assert torch.equal(part.points, task.parts[2].points) and len(task.parts) == 3
    assert not torch.equal(part.points, task_of(pairs).parts.only(["a"])[0].points)


def test_the_table_shows_both_means_and_the_first_row_pair_by_pair(pairs):
    rows = score(task_of(pairs), ZeroMotion(), DIS(), Knows(noise, "sparse", dense=False))
    console = Console(record=True, width=110)
    print_dense(rows, console)
    text = console.export_text()
    for said in ("3 pairs", "mean over pairs", "pooled over pixels", "zero_motion, pair by pair"):
        assert said in text
    assert "sparse" not in text and "s40+" not in text and "occ." in text
    mean = next(line for line in text.splitlines() if line.startswith("zero_motion "))
    expected = np.mean([17**0.5, 26**0.5, 37**0.5])
    assert f"{expected:.3f}" in mean
    assert max(map(len, text.splitlines())) <= 110

    console = Console(record=True, width=110)
    print_dense(rows[2:], console)
    assert console.export_text() == ""


def test_the_table_of_many_pairs_is_cut_and_says_so(tmp_path):
    for number in range(PAIRS_SHOWN + 2):
        write_flow_pair(tmp_path / f"p{number:02d}", (1, 0))
    rows = score(task_of(tmp_path), ZeroMotion())
    console = Console(record=True, width=110)
    print_dense(rows, console)
    text = console.export_text()
    assert "p29" in text and "p30" not in text
    assert f"the first 30 of {PAIRS_SHOWN + 2} pairs" in text


def named_task(name, root, *words):
    with initialize_config_dir(CONFIGS, version_base=None):
        cfg = compose("eval", [f"task={name}", f"task.root={root}", *words])
    return instantiate(cfg.task, _convert_="object")


@pytest.mark.parametrize("name", fake_flow.DATASETS)
def test_the_config_of_every_data_set_reads_it(tmp_path, name):
    task = named_task(name, fake_flow.DATASETS[name](tmp_path))
    (row,) = score(task, ZeroMotion())
    about = task.about()
    assert about["dataset"].startswith(name) and about["resolution_hw"] == [*fake_flow.SIZE]
    moved = np.hypot(*fake_flow.SHIFT)
    if name != "spring":
        assert row.dense["epe"] == row.dense["epe_pooled"] == pytest.approx(moved)


def test_of_springs_four_vectors_the_nearest_counts(tmp_path):
    task = named_task("spring", fake_flow.DATASETS["spring"](tmp_path))
    u, v = fake_flow.SHIFT
    near, far = (
        Knows(lambda points, seed, off=off: torch.tensor([u + off, v + off]).expand_as(points), n)
        for off, n in ((0.25, "near"), (5.0, "far"))
    )
    rows = score(task, near, far)
    assert rows[0].dense["epe"] == pytest.approx(0.25 * 2**0.5)
    assert rows[1].dense["epe"] == pytest.approx(3 * 2**0.5)  # of 5 and 8 - 5 px
    assert rows[1].dense["s10_40"] and rows[1].dense["s0_10"] is None  # speed of that vector


def test_settings_reach_the_data_set_and_the_results(tmp_path):
    root = fake_flow.DATASETS["sintel"](tmp_path)
    task = named_task("sintel", root, "task.pass=final", "task.num_pairs=1")
    about = task.about()
    assert about["dataset"] == "sintel_final" and about["settings"] == {"pass": "final"}
    assert about["part"] == "1 of 2 pairs" and about["num_pairs"] == len(task.parts) == 1
    assert "final" in str(task.parts.pairs[0].frame0)
    with pytest.raises(InstantiationException, match=r"task\.pass=albedo is not known"):
        named_task("sintel", root, "task.pass=albedo")


@pytest.mark.parametrize("key", ["points_per_pair", "num_pairs", "dense_stride"])
def test_limits_that_leave_nothing_are_refused(pairs, key):
    with pytest.raises(ValueError, match=rf"task\.{key}=0 leaves nothing"):
        FlowPairs(pairs, **{"points_per_pair": 4, "seed": 0} | {key: 0})
