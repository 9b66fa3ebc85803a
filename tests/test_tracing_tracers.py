"""Which tracer a config gets, with which sizes, and what it is called."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from data.synthetic import SceneConfig
from tests.fake_datasets import write_flow_pair
from tests.tiny_model import tiny_model
from tracing.benchmarks.base import evaluate
from tracing.benchmarks.flow import FlowPairs, Resized
from tracing.benchmarks.line_up import control_tracers, line_up, options_of
from tracing.benchmarks.synthetic import SyntheticScenes
from tracing.config import TracerConfig
from tracing.consistency import ForwardBackward
from tracing.engine import EngineConfig, KLEngine
from tracing.ensemble import Zoom, ZoomConfig
from tracing.kl_tracer import KLTracer
from tracing.oracle import MatchingOracle
from tracing.rgb_tracer import RGBTracer
from tracing.tracers import TracerSetup, kl_tracer, rgb_tracer

CONFIGS = str(Path(__file__).resolve().parents[1] / "configs")
QUICK = TracerConfig(num_masks=1)


def composed(*overrides):
    with initialize_config_dir(CONFIGS, version_base=None):
        return compose("eval", list(overrides)).tracer


def test_a_model_that_forks_gets_the_engine_and_others_do_not():
    forking, engine = tiny_model(), EngineConfig(max_tokens=1000)
    tracer = kl_tracer(forking, QUICK, engine=engine, control="random_point")
    assert isinstance(tracer, KLEngine) and tracer.engine is engine
    assert tracer.name == "kl_random_point"
    other = kl_tracer(MatchingOracle(4, 4), QUICK, max_batch=3)
    assert isinstance(other, KLTracer) and other.max_batch == 3
    by_itself = kl_tracer(forking, replace(QUICK, order0="random"))
    assert isinstance(by_itself, KLTracer)
    assert isinstance(rgb_tracer(forking, QUICK), RGBTracer)


def test_a_model_that_says_it_does_not_fork_is_believed(monkeypatch):
    model = tiny_model()
    monkeypatch.setattr(type(model), "forks", False, raising=False)
    assert isinstance(kl_tracer(model, QUICK), KLTracer)


def test_several_scales_are_a_zoom_whose_crops_have_their_own_masks_and_no_window():
    cfg = TracerConfig(num_masks=6, window_px=8.0)
    tracer = kl_tracer(tiny_model(), cfg, zoom=ZoomConfig(scales=2, num_masks=3))
    assert isinstance(tracer, Zoom) and tracer.takes_native and tracer.name == "kl"
    assert (tracer.on_whole.cfg.num_masks, tracer.on_crops.cfg.num_masks) == (6, 3)
    assert (tracer.on_whole.cfg.window_px, tracer.on_crops.cfg.window_px) == (8.0, None)
    same = kl_tracer(tiny_model(), cfg, zoom=ZoomConfig(scales=2))
    assert same.on_crops.cfg.num_masks == 6
    assert isinstance(rgb_tracer(tiny_model(), cfg, zoom=ZoomConfig(scales=2)).on_crops, RGBTracer)


def test_a_task_of_native_frames_tells_a_zoom_its_size_and_stretches_for_others(tmp_path):
    write_flow_pair(tmp_path / "a", size=(24, 40))
    task = FlowPairs(tmp_path, points_per_pair=4, seed=0, input_px=16)
    one, several = (
        line_up("kl", tiny_model(), TracerSetup(cfg=QUICK, zoom=ZoomConfig(scales=n)), 4, task)
        for n in (1, 3)
    )
    for tracers, name in (one, several):
        assert name == tracers[0].name == "kl@16x16" and tracers[1].name == "rgb@16x16"
        assert tracers[0].input_hw == (16, 16)
    assert isinstance(one[0][0], Resized) and isinstance(several[0][0], Zoom)
    assert [t.name for t in one[0][2:]] == [t.name for t in several[0][2:]]
    without = FlowPairs(tmp_path, points_per_pair=4, seed=0)
    names = [t.name for t in line_up("kl", tiny_model(), TracerSetup(cfg=QUICK), 4, without)[0]]
    assert "zero_motion" in names and not [n for n in names if n.startswith("kl")]


def test_zoomed_rows_are_scored_like_any_other(tmp_path):
    write_flow_pair(tmp_path / "a", size=(24, 40))
    task = FlowPairs(tmp_path, points_per_pair=4, seed=0, input_px=16)
    setup = TracerSetup(cfg=QUICK, zoom=ZoomConfig(scales=2, keep_hidden_px=3.0))
    tracers, _ = line_up("kl", tiny_model(), setup, 4, task, compare=False)
    (row,) = evaluate(tracers, task.parts, seed=0, patch_px=4)
    assert row.xy.isfinite().all() and 0 <= row.target_revealed_share <= 1
    assert 0 < row.kept_hidden_share < 1


def test_frames_of_the_models_size_are_zoomed_as_they_are():
    scene = SceneConfig(size=16, max_motion_px=2.0)
    task = SyntheticScenes(scene, num_pairs=2, points_per_pair=2, min_motion_px=0.0, seed=0)
    setup = TracerSetup(cfg=QUICK, zoom=ZoomConfig(scales=2, keep_hidden_px=3.0))
    tracers, name = line_up("kl", tiny_model(), setup, 4, task, compare=False)
    assert name == "kl" and not hasattr(tracers[0], "input_hw")
    (row,) = evaluate(tracers, task.parts, seed=0, patch_px=4)
    assert row.xy.isfinite().all()


@pytest.mark.parametrize("scales", [1, 2])
def test_controls_trace_as_the_model_does(tmp_path, scales):
    write_flow_pair(tmp_path / "a", size=(24, 40))
    task = FlowPairs(tmp_path, points_per_pair=2, seed=0, input_px=16)
    setup = TracerSetup(
        cfg=QUICK, zoom=ZoomConfig(scales=scales, keep_hidden_px=3.0), occlusion="both"
    )
    controls = control_tracers(tiny_model(), tiny_model(1), setup, task)
    assert [c.name for c in controls] == ["untrained", "random_point", "zero_amplitude"]
    assert all(isinstance(c, ForwardBackward) for c in controls)
    part = task.parts[0]
    silent = controls[2](part.frame0, part.frame1, part.points)
    assert (silent.flipped_codes == 0).all()
    assert torch.allclose(silent.xy, part.points, atol=1e-4)


def test_an_occlusion_rule_judges_model_tracers_in_pixels_of_the_frames(tmp_path):
    write_flow_pair(tmp_path / "a", size=(24, 40))
    task = FlowPairs(tmp_path, points_per_pair=2, seed=0, input_px=16)
    setup = TracerSetup(cfg=QUICK, occlusion="forward_backward", return_px=3.0)
    tracers, name = line_up("rgb", tiny_model(), setup, 4, task)
    judged = [t.name for t in tracers if isinstance(t, ForwardBackward)]
    assert judged == ["rgb@16x16", "kl@16x16"] and name == "kl@16x16"
    assert tracers[0].return_px == 3.0 and isinstance(tracers[0].tracer, Resized)
    with pytest.raises((ValueError, TypeError), match="occlusion"):
        TracerSetup(occlusion="guess")


def test_what_a_setup_says_of_itself_is_what_it_holds():
    setup = TracerSetup(cfg=QUICK, zoom=ZoomConfig(scales=3), occlusion="both", return_px=2.0)
    assert setup.about() == {
        "tracer_config": asdict(QUICK),
        "zoom": asdict(ZoomConfig(scales=3)),
        "engine": asdict(EngineConfig()),
        "occlusion_rule": "both",
        "return_px": 2.0,
    }
    assert "return_px" not in TracerSetup().about()


@pytest.mark.parametrize("name", ["kl", "rgb", "dis", "zero_motion"])
def test_the_config_lists_the_defaults_of_the_dataclasses(name):
    given = composed(f"tracer={name}")
    documented = TracerSetup()
    for group in ("cfg", "zoom", "engine"):
        listed = {key: value for key, value in given[group].items() if key != "_target_"}
        assert listed == asdict(getattr(documented, group))
        assert instantiate(given[group]) == getattr(documented, group)
    assert given.occlusion == documented.occlusion and given.return_px == documented.return_px
    assert given.augmentations == documented.augmentations
    assert not options_of(given)


def test_zwm_compat_is_the_published_protocol():
    given = composed("tracer=zwm_compat")
    cfg, zoom = instantiate(given.cfg), instantiate(given.zoom)
    assert given.name == "rgb"
    assert (cfg.sigma_px, cfg.amplitude, cfg.round) == (2.0, 1.0, "truncate_uint8")
    assert (cfg.placement, cfg.peak, cfg.isolated, cfg.retry) == ("query", "argmax", False, False)
    assert (cfg.num_masks, cfg.reveal_ratio, cfg.occlusion_threshold) == (5, 0.1, 0.4)
    assert (zoom.scales, zoom.factor, zoom.cut_from) == (5, 0.75, "previous")
    assert (zoom.occlusion_from, zoom.eight_bit, zoom.keep_hidden_px) == ("last", True, None)
