"""What a question is said to take: never more than the bound, and near what is then taken."""

import pytest
import torch

from tests.forking_models import Watched, loud_model
from tracing.benchmarks.flow import Resized
from tracing.config import TracerConfig
from tracing.engine import EngineConfig, KLEngine
from tracing.ensemble import ZoomConfig
from tracing.estimate import engine_within, estimate
from tracing.kl_tracer import KLTracer
from tracing.oracle import ShiftOracle
from tracing.tracers import kl_tracer


@pytest.mark.parametrize("max_tokens", [None, 400])
def test_tokens_in_flight_stay_under_the_bound_and_memory_follows(max_tokens):
    engine = KLEngine(loud_model(), TracerConfig(num_masks=2), EngineConfig(max_tokens=max_tokens))
    few, many = (estimate(engine, (32, 32), queries, "cpu") for queries in (1, 200))
    assert few.tokens_in_flight <= many.tokens_in_flight <= (max_tokens or 2**14)
    assert few.memory_bytes <= many.memory_bytes
    assert many.tokens_per_query < few.tokens_per_query  # more share a prefix
    assert "200 queries" in str(many) and "GB" in str(many)
    guises = estimate(engine, (32, 32), 200, "cpu", guises=8)
    assert guises.tokens_per_query == 8 * many.tokens_per_query
    assert guises.memory_bytes == many.memory_bytes


@pytest.mark.parametrize("read_out", ["all", "first"])
@pytest.mark.parametrize("revealed", ["after", "clean"])
def test_tokens_of_a_query_are_about_those_the_model_reads(read_out, revealed):
    watched = Watched(loud_model())
    cfg = TracerConfig(num_masks=2, read_out=read_out, revealed=revealed, retry=False)
    engine = KLEngine(watched, cfg)
    frames = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 0.5
    points = torch.stack(torch.meshgrid(*[torch.arange(4, 32, 8.0)] * 2, indexing="xy"), -1)
    traces = engine(*frames, points.view(1, 16, 2))
    assert (traces.flipped_codes > 0).all()
    assert watched.peak_tokens <= estimate(engine, (32, 32), 16, "cpu").tokens_in_flight


def test_the_engine_is_found_inside_other_tracers_and_only_there():
    engine = KLEngine(loud_model())
    assert engine_within(Resized(engine, (32, 32))) is engine
    zoom = kl_tracer(loud_model(), zoom=ZoomConfig(scales=2))
    assert engine_within(zoom) is zoom.on_whole
    guises = kl_tracer(loud_model(), zoom=ZoomConfig(scales=2), augmentations=2)
    assert engine_within(guises) is guises.on_whole.tracer
    assert engine_within(KLTracer(ShiftOracle((0, 0), 8, 4))) is None
