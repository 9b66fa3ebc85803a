"""Who is in the table, in which order, and with which options."""

import pytest

from tracing.benchmarks.line_up import check_tracer, chosen_baseline, line_up, options_of
from tracing.tracers import TracerSetup

CLASSICAL = ["zero_motion", "dis", "dis_x4", "best_translation", "nearest_patch_color"]


class MadeScenes:
    """A task that takes every tracer as it is."""

    name, parts = "made", ()

    def adapt(self, tracer):
        return [tracer]

    def floor(self, patch_px, cfg, map_px):
        return 0.0

    def for_model(self):
        return []

    def about(self):
        return {}

    def pairs_table(self, rows):
        return []

    def pictures(self, rows):
        return {}


class StoredFrames(MadeScenes):
    input_hw = None


def names(chosen, task=None, **rest):
    tracers, paired = line_up(chosen, None, TracerSetup(), 4, task or MadeScenes(), **rest)
    assert paired is None
    return [tracer.name for tracer in tracers]


def test_the_chosen_baseline_is_first_and_stands_there_once():
    assert names("dis") == ["dis", "zero_motion", *CLASSICAL[2:]]
    assert names("farneback") == ["farneback", *CLASSICAL]


def test_farneback_is_beside_the_others_where_frames_are_as_stored():
    assert names("zero_motion", StoredFrames()) == [*CLASSICAL, "farneback"]
    assert names("zero_motion") == CLASSICAL
    assert names("farneback", StoredFrames()).count("farneback") == 1


def test_options_are_those_of_the_chosen_one():
    assert names("dis", options={"enlarge": 2}) == ["dis_x2", *CLASSICAL]
    assert names("dis", options={"enlarge": 4})[:2] == ["dis_x4", "zero_motion"]
    untrained = {"model": "raft_small", "weights": None}
    assert names("raft", options=untrained, compare=False) == ["raft_small"]
    assert chosen_baseline("nearest_patch_color", 8, {}).patch_px == 8
    assert chosen_baseline("nearest_patch_color", 8, {"patch_px": 2}).patch_px == 2


def test_what_tracers_share_is_no_option():
    shared = {"name": "raft", "cfg": {}, "zoom": {}, "engine": {}, "occlusion": "peak_kl"}
    assert options_of(shared | {"return_px": 4.0, "weights": "C_T_V1"}) == {"weights": "C_T_V1"}


def test_an_unknown_tracer_is_told_the_nearest_name_and_all_others():
    with pytest.raises(ValueError, match=r"'farnback'.*nearest is farneback; choose .*kl, rgb"):
        check_tracer("farnback", None)
    with pytest.raises(ValueError, match=r"tracer=kl needs a model"):
        check_tracer("kl", None)
    check_tracer("cotracker3", None)
