"""Hidden points of videos by one cue or two, with thresholds from halves or from another file."""

import json
import math

import pytest
import torch
from fake_datasets import fake_track, write_tracks
from jaxtyping import TypeCheckError

from tests.tiny_model import tiny_model
from tracing.baselines import ZeroMotion
from tracing.benchmarks.tapvid import TapVid
from tracing.config import TracerConfig, Traces
from tracing.consistency import ForwardBackward
from tracing.kl_tracer import KLTracer

SHIFTS = ((2, 1), (1, 0), (-1, 2), (0, 1))
NEAR, FAR = 0.5, 9.0  # px


class Telling:
    """Follows a ``fake_track`` of known shift; its cues of the hidden point are what ``by`` says.

    ``by`` maps a shift to (peak, distance) at the hidden point, the last one asked for over a gap
    of 3 frames; elsewhere they are 3.0 and near.
    """

    name, needs_model = "telling", False

    def __init__(self, by, cues=("peak_kl", "return_px")):
        self.by, self.cues = by, cues

    def __call__(self, frame0, frame1, points, seed=0):
        ((u, v, gap),) = (
            (u, v, gap)
            for u, v in SHIFTS
            for gap in range(1, 4)
            if torch.equal(frame0.roll((gap * v, gap * u), (2, 3)), frame1)
        )
        peak, away = torch.full(points.shape[:2], 3.0), torch.full(points.shape[:2], NEAR)
        if gap == 3:
            peak[0, -1], away[0, -1] = self.by[u, v]
        told = {"peak_kl": peak, "return_px": away}
        told = {cue: values for cue, values in told.items() if cue in self.cues}
        xy = points + gap * torch.tensor([u, v])
        return Traces(xy=xy, visible=torch.ones_like(peak, dtype=torch.bool), **told)


def videos(path, *shifts):
    return write_tracks(path, [fake_track(shift, seed=i) for i, shift in enumerate(shifts)])


def score(task, *tracers, seed=0):
    return task.score(tracers, task.parts, seed, patch_px=4)


PEAK_TELLS, RETURN_TELLS, SILENT = (1.0, NEAR), (3.0, FAR), (3.0, NEAR)
HALF_AND_HALF = dict(zip(SHIFTS, (PEAK_TELLS, PEAK_TELLS, RETURN_TELLS, RETURN_TELLS), strict=True))
MISSED = (1 + 7 / 8) / 2  # OA where half the videos tell nothing: 1 of 8 frames is hidden


@pytest.mark.parametrize(
    "cues, oa, chosen",
    [
        ("peak_kl", MISSED, {"thresholds": [2.0, 2.0]}),
        ("forward_backward", MISSED, {"return_px": [4.75, 4.75]}),
        ("both", 1.0, {"thresholds": [2.0, 2.0], "return_px": [4.75, 4.75]}),
    ],
)
def test_each_rule_is_cross_fitted_with_thresholds_of_its_own(cues, oa, chosen, tmp_path):
    task = TapVid(videos(tmp_path / "a.pkl", *SHIFTS), seed=0, cues=cues)
    row, zero = score(task, Telling(HALF_AND_HALF), ZeroMotion())
    assert row.scores["oa"] == pytest.approx(oa)
    assert row.occlusion["cues"] == cues and row.occlusion["split"] == "every second video"
    assert {key: row.occlusion.get(key) for key in chosen} == chosen
    assert len({"thresholds", "return_px"} & set(row.occlusion)) == len(chosen)
    assert zero.occlusion == {"rule": "everything is called visible"}
    each = row.occlusion["by_cues"]
    assert each[cues]["oa"] == row.scores["oa"] and each[cues]["aj"] == row.scores["aj"]
    assert [each[rule]["oa"] for rule in ("peak_kl", "forward_backward", "both")] == [
        pytest.approx(MISSED), pytest.approx(MISSED), 1.0,
    ]  # fmt: skip
    assert cues in task.about()["occlusion"]
    json.dumps(row.as_dict(), allow_nan=False)


def test_a_point_that_never_came_back_is_hidden_and_its_row_is_json(tmp_path):
    lost = dict.fromkeys(SHIFTS, (3.0, math.inf))
    task = TapVid(videos(tmp_path / "a.pkl", *SHIFTS), seed=0, cues="forward_backward")
    (row,) = score(task, Telling(lost))
    assert row.scores["oa"] == 1.0 and row.occlusion["return_px"] == [math.inf] * 2
    record = json.loads(json.dumps(row.as_dict(), allow_nan=False))
    assert record["occlusion"]["return_px"] == [None, None]


def test_a_tracer_that_lacks_the_cue_is_told_how_to_give_it(tmp_path):
    task = TapVid(videos(tmp_path / "a.pkl", *SHIFTS), seed=0, cues="both")
    with pytest.raises(ValueError, match=r"task\.cues=both.*tracer\.occlusion=both"):
        score(task, Telling(HALF_AND_HALF, cues=("peak_kl",)))


def test_with_one_cue_alone_nothing_is_said_of_the_others(tmp_path):
    task = TapVid(videos(tmp_path / "a.pkl", *SHIFTS), seed=0)
    (row,) = score(task, Telling(HALF_AND_HALF, cues=("peak_kl",)))
    assert "by_cues" not in row.occlusion and "return_px" not in row.occlusion


def test_a_fixed_rule_names_the_thresholds_it_goes_by(tmp_path):
    task = TapVid(videos(tmp_path / "a.pkl", *SHIFTS), 0, occlusion="fixed", cues="both")
    (row,) = score(task, Telling(HALF_AND_HALF))
    assert row.scores["oa"] == pytest.approx(7 / 8)  # the tracer calls everything visible
    for key in ("tracer.cfg.occlusion_threshold", "tracer.return_px"):
        assert key in row.occlusion["rule"]


# --- thresholds of another file ----------------------------------------------------------------


def test_thresholds_of_another_file_are_chosen_on_it_alone(tmp_path):
    """Hidden points peak at 1 there and at 2.5 here: halves would find it, the other cannot."""
    here, there = SHIFTS[:2], SHIFTS[2:]
    by = dict.fromkeys(here, (2.5, NEAR)) | dict.fromkeys(there, (1.0, FAR))
    path, other = videos(tmp_path / "here.pkl", *here), videos(tmp_path / "there.pkl", *there)
    (own,) = score(TapVid(path, seed=0), Telling(by))
    assert own.scores["oa"] == 1.0
    for cues, chosen in (
        ("peak_kl", {"thresholds": [2.0]}),
        ("forward_backward", {"return_px": [4.75]}),
    ):
        task = TapVid(path, seed=0, cues=cues, calibrate_on=other)
        row, zero = score(task, Telling(by), ZeroMotion())
        assert row.scores["oa"] == pytest.approx(7 / 8)
        assert row.occlusion["split"] == "there.pkl" and "there.pkl" in row.occlusion["rule"]
        assert {key: row.occlusion[key] for key in chosen} == chosen
        assert "there.pkl" in task.about()["occlusion"]
        assert zero.occlusion == {"rule": "everything is called visible"}


def test_the_limits_hold_in_the_other_file_too(tmp_path):
    path, other = videos(tmp_path / "a.pkl", *SHIFTS), videos(tmp_path / "b.pkl", *SHIFTS)
    task = TapVid(path, seed=0, num_videos=1, points_per_video=2, every=2, calibrate_on=other)
    assert len(task.split.videos) == 1 and len(task.split) == len(task.parts)
    assert task.split.kept[0].tolist() == task.parts.kept[0].tolist()


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"cues": "guess"}, "guess"),
        ({"calibrate_on": "a.pkl"}, "is the file that is scored"),
        ({"calibrate_on": "b.pkl", "occlusion": "fixed"}, r"task\.occlusion=fixed"),
        ({"calibrate_on": "gone.pkl"}, "gone"),
    ],
)
def test_a_split_that_cannot_be_one_is_refused(options, sentence, tmp_path):
    videos(tmp_path / "b.pkl", *SHIFTS)
    if "calibrate_on" in options:
        options = options | {"calibrate_on": tmp_path / options["calibrate_on"]}
    wrong = (ValueError, TypeCheckError, FileNotFoundError)
    with pytest.raises(wrong, match=sentence):
        TapVid(videos(tmp_path / "a.pkl", *SHIFTS), seed=0, **options)


# --- through a model ---------------------------------------------------------------------------


def test_a_model_that_traces_back_takes_part_from_end_to_end(tmp_path):
    path, other = videos(tmp_path / "a.pkl", *SHIFTS[:2]), videos(tmp_path / "b.pkl", SHIFTS[2])
    model = tiny_model().eval()
    for split in ({}, {"calibrate_on": other}):
        task = TapVid(path, seed=0, input_px=16, cues="both", **split)
        (kl,) = task.adapt(KLTracer(model, TracerConfig(num_masks=2)))
        (row,) = score(task, ForwardBackward(kl, "both"))
        assert row.name == "kl@16x16" and row.target_revealed_share is not None
        assert len(row.occlusion["return_px"]) == 2 - len(split)
        assert set(row.occlusion["by_cues"]) == {"peak_kl", "forward_backward", "both"}


def test_a_query_annotated_outside_its_frame_is_asked_at_the_border(tmp_path):
    track = fake_track((2, 1))
    track["points"][0, 0] = [1.25, -0.5]
    path = write_tracks(tmp_path / "a.pkl", [track])
    pair = TapVid(path, seed=0).parts[0]
    width = pair.frame0.shape[-1]
    assert pair.points[0, 0].tolist() == [width, 0.0]
    assert pair.points[0, 1].tolist() == [10.5, 8.5]  # of the others nothing changes
    task = TapVid(path, seed=0, input_px=16)
    (kl,) = task.adapt(KLTracer(tiny_model().eval(), TracerConfig(num_masks=1)))
    assert score(task, kl)[0].scores["num_points"] == 7
