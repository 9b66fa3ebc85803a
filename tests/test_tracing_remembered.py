"""Answers kept on disk while tracing goes on: the same bits again, and never a wrong one."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from data.types import PointPairs
from tracing.benchmarks import predictions
from tracing.benchmarks.base import evaluate
from tracing.benchmarks.predictions import Given, Key, Predictions, file_name
from tracing.benchmarks.remembered import AllTraced, Course, Remembered, Shard
from tracing.config import Traces

ASKED = {"seed": 5, "tracer": {"sigma_px": 1.0}}


def part(name, seed=0, points=3, hw=(6, 8)):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.rand(2, 1, 3, *hw, generator=generator)
    where = 5 * torch.rand(2, 1, points, 2, generator=generator)
    seen = torch.ones(1, points, dtype=torch.bool)
    return PointPairs(*frames, *where, seen, seen, name)


class Guess:
    """Answers that depend on the question and the seed, and a count of what it was asked."""

    needs_model = False

    def __init__(self, name="guess"):
        self.name, self.asked, self.input_hw = name, [], (6, 8)

    def __call__(self, frame0, frame1, points, seed=0):
        self.asked.append(seed)
        moved = frame1.mean() + seed + torch.arange(points.shape[1])[:, None]
        maps = torch.ones(*points.shape[:2], 2, 2)
        hidden = torch.zeros(len(points), 12, dtype=torch.bool)
        kl = (points[..., 0] * seed).double()
        return Traces(xy=points + moved, visible=kl > 9, peak_kl=kl, maps=maps, never_hidden=hidden)


def remembered(folder, parts, tracer=None, **limits):
    memory = Predictions(folder, ASKED)
    course = Course(parts, 5, **limits)
    return Remembered(tracer or Guess(), memory.of("guess"), course), course, memory


def scored(folder, parts, tracer=None, **limits):
    one, course, memory = remembered(folder, parts, tracer, **limits)
    try:
        (row,) = evaluate([one], course, 5, patch_px=2)
    finally:
        memory.flush()
    return row, one, course


PARTS = [part("goat/000-001", 1), part("goat/000-002", 2), part("cow/000-001", 3), part("dog", 4)]


def test_what_was_asked_is_answered_from_disk_with_the_same_bits(tmp_path):
    plain = evaluate([Guess()], PARTS, 5, patch_px=2)[0]
    first, asked, course = scored(tmp_path, PARTS)
    assert asked.tracer.asked == [5, 6, 7, 8] and course.traced == {"goat", "cow", "dog"}
    again, tracer, course = scored(tmp_path, PARTS)
    assert tracer.tracer.asked == [] and not course.traced
    assert tracer.seconds == asked.seconds > 0 and tracer.points == 12
    for row in (first, again):
        assert torch.equal(row.xy, plain.xy) and torch.equal(row.errors, plain.errors)
        assert row.target_revealed_share == plain.target_revealed_share == 0
    names = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert names == ["asked.json", "guess/cow.npz", "guess/dog.npz", "guess/goat.npz"]


def test_every_field_but_the_maps_comes_back_as_it_was(tmp_path):
    for known in (False, True):
        tracer, course, memory = remembered(tmp_path, PARTS[:1])
        for one in course:
            traces = tracer(one.frame0, one.frame1, one.points, 5)
            expected = Guess()(one.frame0, one.frame1, one.points, 5)
        memory.flush()
        assert tracer.tracer.asked == ([] if known else [5])
        assert traces.maps is None
        for name, value in vars(replace(expected, maps=None)).items():
            got = getattr(traces, name)
            assert value is got or (torch.equal(value, got) and value.dtype == got.dtype)


def changed(what):
    one = PARTS[3]
    frame = one.frame0.clone()
    frame[0, 2, 5, 7] += 1e-6
    return {
        "points": replace(one, points=one.points + 1e-5),
        "fewer points": part("dog", 4, points=2),
        "frame 0": replace(one, frame0=frame),
        "frame 1": replace(one, frame1=frame),
        "name": replace(one, name="dog/other"),
    }[what]


@pytest.mark.parametrize("what", ["points", "fewer points", "frame 0", "frame 1", "name"])
def test_a_changed_question_is_asked_anew_and_the_old_one_stays(what, tmp_path):
    scored(tmp_path, PARTS[3:])
    other = [changed(what)]
    assert scored(tmp_path, other)[1].tracer.asked == [5]
    assert scored(tmp_path, other)[1].tracer.asked == []
    assert scored(tmp_path, PARTS[3:])[1].tracer.asked == []


def test_another_seed_is_another_question(tmp_path):
    scored(tmp_path, PARTS[3:])
    assert scored(tmp_path, [PARTS[0], PARTS[3]])[1].tracer.asked == [5, 6]


def test_many_questions_about_one_part_are_kept_apart(tmp_path):
    """Points and every pixel of one pair, as dense flow is asked for."""
    for known in (False, True):
        tracer, course, memory = remembered(tmp_path, PARTS[:1])
        for one in course:
            few = tracer(one.frame0, one.frame1, one.points, 5)
            many = tracer(one.frame0, one.frame1, torch.rand(1, 50, 2) * 0 + 3, 5)
        memory.flush()
        assert len(tracer.tracer.asked) == (0 if known else 2)
        assert few.xy.shape[1] == 3 and many.xy.shape[1] == 50


def test_a_question_about_other_frames_finds_its_own_file(tmp_path):
    """Such as those that thresholds are chosen on, which are no parts of the task."""
    for known in (False, True):
        tracer, course, memory = remembered(tmp_path, PARTS[:1])
        for one in course:
            tracer(one.frame0, one.frame1, one.points, 5)
        other = part("split", 9)
        answer = tracer(other.frame0, other.frame1, other.points, 5)
        memory.flush()
        assert tracer.tracer.asked == ([] if known else [5, 5])
        assert torch.equal(answer.xy, Guess()(other.frame0, other.frame1, other.points, 5).xy)
    assert len(list(tmp_path.glob("guess/apart_*.npz"))) == 1


def test_attributes_of_the_tracer_show_through(tmp_path):
    tracer, _, _ = remembered(tmp_path, [])
    assert tracer.input_hw == (6, 8) and tracer.name == "guess"
    assert not hasattr(tracer, "dense_flow") and not hasattr(tracer, "forward_only")


class Broken(Guess):
    def __init__(self, bad):
        super().__init__()
        self.bad = bad

    def __call__(self, frame0, frame1, points, seed=0):
        traces = super().__call__(frame0, frame1, points, seed)
        if seed < 6:
            return traces
        if self.bad == "short":
            return Traces(xy=traces.xy[:, 1:], visible=traces.visible[:, 1:])
        traces.xy[0, 1, 0] = self.bad
        return traces


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "short"])
def test_an_answer_that_cannot_be_scored_is_refused_and_not_kept(bad, tmp_path):
    said = "1 of 3 points of goat/000-002" if bad != "short" else "goat/000-002 of shape"
    for _ in range(2):
        with pytest.raises(ValueError, match=f"tracer guess gave .*{said}"):
            scored(tmp_path, PARTS, Broken(bad))
    assert scored(tmp_path, PARTS)[1].tracer.asked == [6, 7, 8]  # the first answer was good


# --- when it is written ------------------------------------------------------------------------


def test_a_kill_costs_no_more_than_a_unit_that_was_under_way(tmp_path):
    tracer, course, _ = remembered(tmp_path, PARTS)
    for one in course:
        tracer(one.frame0, one.frame1, one.points, 5 + len(course.places) - 1)
        if one.name.startswith("cow"):
            break  # and nobody flushes
    assert scored(tmp_path, PARTS)[1].tracer.asked == [7, 8]


def test_a_long_unit_is_written_now_and_then(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(predictions.time, "monotonic", lambda: now[0])
    memory = Predictions(tmp_path, ASKED, flush_s=20.0)
    answers, path = memory.of("guess"), tmp_path / "guess" / "goat.npz"
    given = Given(Traces(xy=torch.zeros(1, 1, 2), visible=torch.ones(1, 1).bool()), 1.0)
    there = []
    for second in range(0, 50, 5):
        now[0] = float(second)
        answers.keep("goat", Key(second, "a"), given)
        there.append(len(np.load(path)["keys"]) if path.is_file() else 0)
    assert there == [0, 0, 0, 0, 5, 5, 5, 5, 5, 10]


def test_a_kill_while_a_file_is_written_leaves_the_one_before(tmp_path, monkeypatch):
    scored(tmp_path, PARTS[:1])

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", killed)
        with pytest.raises(KeyboardInterrupt):
            scored(tmp_path, PARTS[:2])
    assert scored(tmp_path, PARTS[:2])[1].tracer.asked == [6]


def test_what_a_killed_process_left_half_written_goes(tmp_path):
    scored(tmp_path, PARTS[:1])
    old, young = (tmp_path / "guess" / f".goat.npz.partial-{n}" for n in (1, 2))
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    Predictions(tmp_path, ASKED)
    assert not old.exists() and young.exists()  # another process may be writing that one


def test_a_damaged_file_is_named(tmp_path):
    scored(tmp_path, PARTS)
    path = tmp_path / "guess" / "goat.npz"
    for content in (path.read_bytes()[:200], b"", b"PK nothing"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"goat\.npz is damaged .*; delete it"):
            scored(tmp_path, PARTS)


def test_answers_to_something_else_are_refused_before_anything_is_traced(tmp_path):
    scored(tmp_path, PARTS)
    with pytest.raises(ValueError, match=r"another question: tracer\.sigma_px was 1\.0 and is 2"):
        Predictions(tmp_path, {"seed": 5, "tracer": {"sigma_px": 2.0}})
    Predictions(tmp_path, {"seed": 5, "tracer": {"sigma_px": 2.0}}, free=("tracer.sigma",))
    (tmp_path / "asked.json").write_text("{")
    with pytest.raises(ValueError, match=r"asked\.json is damaged"):
        Predictions(tmp_path, ASKED)


def test_nothing_is_written_before_the_first_answer(tmp_path):
    Predictions(tmp_path / "predictions", ASKED).flush()
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize("name", ["a/b", "..", ".", "ptlflow:raft", "x\0y", "%2F", "naïve café"])
def test_names_become_files_of_their_folder_and_stay_different(name, tmp_path):
    path = tmp_path / f"{file_name(name)}.npz"
    path.write_bytes(b"")
    assert path.parent.resolve() == tmp_path.resolve() and "/" not in file_name(name)
    others = {file_name(other) for other in ("a_b", "a%2Fb", "2F", "/", "ptlflow_raft")}
    assert file_name(name) not in others


# --- shares of it ------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_together_trace_every_question_once(count, tmp_path):
    asked = []
    for index in range(count):
        tracer, course, memory = remembered(tmp_path, PARTS, shard=Shard(index, count))
        with pytest.raises(AllTraced):
            evaluate([tracer], course, 5, patch_px=2)
        memory.flush()
        asked += tracer.tracer.asked
    assert sorted(asked) == [5, 6, 7, 8]
    row, tracer, course = scored(tmp_path, PARTS)
    assert tracer.tracer.asked == []
    assert torch.equal(row.xy, evaluate([Guess()], PARTS, 5, patch_px=2)[0].xy)


class Listed(list):
    """Parts whose names are known; says which were read."""

    def __init__(self, parts):
        super().__init__(parts)
        self.read = []

    @property
    def names_of_parts(self):
        return [one.name for one in list(self)]

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def test_a_shard_reads_no_more_than_its_own_units(tmp_path):
    parts = Listed(PARTS)
    tracer, course, _ = remembered(tmp_path, parts, shard=Shard(0, 3))
    with pytest.raises(AllTraced):
        evaluate([tracer], iter(course), 5, patch_px=2)
    assert parts.read == [0, 1] and tracer.tracer.asked == [5, 6]
    assert course.own_units() == ["goat"] and len(course.order) == 3


def test_without_tracing_what_is_missing_is_counted(tmp_path):
    scored(tmp_path, PARTS[:3])
    tracer, course, _ = remembered(tmp_path, PARTS, recall_only=True)
    with pytest.raises(AllTraced):
        evaluate([tracer], course, 5, patch_px=2)
    assert tracer.tracer.asked == [] and course.missing == {"dog"}
    assert course.coverage() == {"units": 2, "of_units": 3, "share": 2 / 3}
    row, _, course = scored(tmp_path, PARTS[:3], recall_only=True)
    assert course.coverage()["share"] == 1 and len(row.xy) == 9


def test_what_stands_beside_the_parts_must_be_there_to_grade(tmp_path):
    scored(tmp_path, PARTS[:1])
    tracer, course, _ = remembered(tmp_path, PARTS[:1], recall_only=True)
    evaluate([tracer], course, 5, patch_px=2)
    other = part("split", 9)
    with pytest.raises(ValueError, match=r"task\.calibrate_on, are missing and grade_only=true"):
        tracer(other.frame0, other.frame1, other.points, 5)


def test_fewer_parts_are_graded_by_answers_of_other_seeds(tmp_path):
    full, _, _ = scored(tmp_path, PARTS)
    row, tracer, _ = scored(tmp_path, PARTS[2:], recall_only=True, any_seed=True)
    assert torch.equal(row.xy, full.xy[6:]) and tracer.tracer.asked == []


def test_progress_is_told_part_by_part_and_what_was_known(tmp_path):
    scored(tmp_path, PARTS[:2])
    told = []
    scored(tmp_path, PARTS, tell=lambda count, known: told.append((count, known)))
    assert told == [(1, True), (1, True), (1, False), (1, False)]
