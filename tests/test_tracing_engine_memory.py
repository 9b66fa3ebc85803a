"""Bounds of the engine change how much is done at a time, never the answers."""

import logging
import re

import pytest
import torch

from tests.forking_models import ForkingOracle, Watched, loud_model
from tests.reference.slow_tracing import RandomModel
from tests.test_tracing_engine import assert_same, question, readable
from tracing.config import TracerConfig
from tracing.engine import EngineConfig, KLEngine, out_of_memory

CFG = TracerConfig(num_masks=2, reveal_ratio=0.25)


def smallest_bound(engine_of, asked, max_group=64):
    """The number that the error for a bound of 1 names."""
    with pytest.raises(ValueError, match="too small for one query") as error:
        engine_of(EngineConfig(max_tokens=1, max_group=max_group))(*asked)
    return int(re.search(r"takes (\d+) tokens", str(error.value))[1])


@pytest.mark.parametrize("read_out", ["first", "all"])
@pytest.mark.parametrize("search", ["full", "coarse_to_fine"])
@pytest.mark.parametrize("max_group", [1, 64])
def test_the_bound_on_tokens_changes_no_answer(read_out, search, max_group):
    model = loud_model()
    cfg = TracerConfig(num_masks=2, read_out=read_out, search=search, isolated=max_group > 1)
    asked = question(points=9)

    def traces(max_tokens):
        return KLEngine(model, cfg, EngineConfig(max_tokens=max_tokens, max_group=max_group))(
            *asked
        )

    least = smallest_bound(lambda engine: KLEngine(model, cfg, engine), asked, max_group)
    wide = traces(10**6)
    for max_tokens in (least, 2 * least, 5 * least):
        assert_same(traces(max_tokens), wide)


@pytest.mark.parametrize("max_tokens, most_rows", [(240, 1), (310, 2), (10**6, 6)])
def test_queries_of_a_group_are_read_as_many_at_a_time_as_the_bound_holds(max_tokens, most_rows):
    model, asked = loud_model(), question(batch=1, points=6)
    watched = Watched(model)
    got = KLEngine(watched, CFG, EngineConfig(max_tokens=max_tokens))(*asked)
    assert max(len(read) for read in watched.asked) == most_rows  # of two groups of three
    assert_same(got, KLEngine(model, CFG, EngineConfig(max_tokens=10**7))(*asked))


@pytest.mark.parametrize("max_group", [1, 7, 64])
def test_groups_of_any_size_equal_the_readable_algorithm(max_group):
    model, asked = loud_model("modern", 4), question(points=9)
    engine = EngineConfig(max_tokens=10**6, max_group=max_group)
    fast = KLEngine(model, CFG, engine)(*asked)
    assert_same(fast, readable(model, *asked, CFG, 0, max_group))


def test_a_group_shares_its_prefix_and_its_clean_prediction():
    model = Watched(loud_model())
    frame0, frame1, _ = question(batch=1)
    points = torch.tensor([[[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]]])
    cfg = TracerConfig(num_masks=2, reveal_ratio=0.25)
    traces = KLEngine(model, cfg, EngineConfig(max_group=3))(frame0, frame1, points)
    assert (traces.flipped_codes > 0).all()
    slots, hidden = 4, 12  # no pointers in frame 0
    prefix, tails, clean_tail = 13 * slots, 3 * 3 * slots, 3 * slots
    shown = 2 * 4 * (1 + slots)  # under both masks
    assert model.tokens_read == prefix + tails + clean_tail + shown + 3 * shown
    assert [len(read) for read in model.asked] == [1, 3, 1, 3]
    assert model.num_asked == 2 * (1 + 3) * hidden


@pytest.mark.parametrize("revealed, extra", [("before", 2), ("clean", 1)])
def test_revealed_patches_that_do_not_see_the_tracer_are_read_once(revealed, extra):
    model = Watched(loud_model())
    frame0, frame1, _ = question(batch=1)
    points = torch.tensor([[[4.0, 4.0], [12.0, 4.0], [20.0, 4.0]]])
    cfg = TracerConfig(num_masks=2, reveal_ratio=0.25, revealed=revealed)
    KLEngine(model, cfg, EngineConfig(max_group=3))(frame0, frame1, points)
    tails = (1 + 3) * 3 * 4  # of the clean and of three perturbed branches
    assert model.tokens_read == 13 * 4 + extra * tails + 2 * 4 * 5


# Bounds and memory.


@pytest.mark.parametrize("revealed", ["after", "before", "clean"])
@pytest.mark.parametrize(
    "search, isolated", [("full", True), ("full", False), ("coarse_to_fine", True)]
)
@pytest.mark.parametrize("flavor, read_out", [("modern", "all"), ("official", "first")])
def test_tokens_in_flight_stay_under_the_bound(revealed, isolated, search, flavor, read_out):
    cfg = TracerConfig(
        num_masks=2, revealed=revealed, isolated=isolated, read_out=read_out, search=search
    )
    asked, model = question(points=4), loud_model(flavor)
    least = smallest_bound(lambda engine: KLEngine(model, cfg, engine), asked)
    over = {}
    for max_tokens in (least, 2 * least):
        watched = Watched(model)
        KLEngine(watched, cfg, EngineConfig(max_tokens=max_tokens))(*asked)
        if watched.peak_tokens > max_tokens:
            over[max_tokens] = watched.peak_tokens
    assert not over


def test_a_bound_too_small_for_one_query_is_refused_and_the_named_one_is_enough():
    model, asked = ForkingOracle(RandomModel(8, 4)), question(24, points=3)
    least = smallest_bound(lambda engine: KLEngine(model, CFG, engine), asked)
    KLEngine(model, CFG, EngineConfig(max_tokens=least))(*asked)
    with pytest.raises(ValueError, match=rf"max_tokens={least - 1} is too small .* of 24x24 px"):
        KLEngine(model, CFG, EngineConfig(max_tokens=least - 1))(*asked)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("most_rows", [3, 2, 1])
def test_out_of_memory_halves_the_batch_and_warns_once(batch, most_rows, caplog):
    # Groups of one size in all pairs, hence side by side.
    frame0, frame1, _ = question(batch=1)
    points = torch.tensor([[[4.0, 4.0], [12.0, 4.0], [20.0, 4.0], [4.0, 12.0], [12.0, 12.0]]])
    asked = [t.repeat(batch, *[1] * (t.ndim - 1)) for t in (frame0, frame1, points)]
    plenty, cfg = EngineConfig(max_tokens=10**6, max_group=5), TracerConfig(num_masks=2)
    expected = KLEngine(loud_model(), cfg, plenty)(*asked)
    watched = Watched(loud_model(), most_rows)
    engine = KLEngine(watched, cfg, plenty)

    with caplog.at_level(logging.WARNING):
        traces = engine(*asked)
        assert_same(traces, expected)
        assert max(len(read) for read in watched.asked) <= most_rows
        assert_same(engine(*asked), expected)  # and goes on with that
        if batch == 1:
            assert watched.refused == {3: [5], 2: [5], 1: [5, 2]}[most_rows]

    assert len(caplog.records) == 1 and "out of memory" in caplog.text


@pytest.mark.parametrize("batch", [1, 2])
def test_where_not_even_one_query_fits_the_memory_that_is_said(batch):
    engine = KLEngine(Watched(loud_model(), most_rows=0), CFG)
    with pytest.raises(ValueError, match=r"not even one query .* use smaller frames") as error:
        engine(*question(batch=batch))
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 7 bytes"),
        MemoryError("no more"),
    ],
    ids=repr,
)
def test_memory_of_the_machine_counts_as_well(error, caplog):
    model = Watched(loud_model(), most_rows=2)
    model.error = error
    asked = question(batch=1)
    expected = KLEngine(loud_model(), CFG)(*asked)
    assert_same(KLEngine(model, CFG)(*asked), expected)
    assert out_of_memory(error) and len(caplog.records) == 1


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), KeyError("x")], ids=repr)
def test_other_errors_pass(error):
    model = Watched(loud_model(), most_rows=2)
    model.error = error
    with pytest.raises(type(error)) as got:
        KLEngine(model, CFG)(*question(batch=1))
    assert got.value is error and len(model.asked) <= 2


def test_forks_read_at_once_follow_the_logits_that_are_held(monkeypatch):
    """Read-outs come in slices of patches, so that the logits of few are held; nothing changes."""
    model, asked = loud_model(), question(points=3)
    whole = KLEngine(model, CFG)(*asked)
    monkeypatch.setattr("tracing.engine.LOGITS", 3 * 5 * 4 * 24)  # five patches of three forks
    watched = Watched(model)
    assert_same(KLEngine(watched, CFG)(*asked), whole)
    assert {read.shape[1] for read in watched.asked if len(read) == 3} <= {5, 2}
