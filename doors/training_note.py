"""What an export says of its training, for whoever gets the weights alone: a model card's facts."""

import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

from data.blend import ScenesAndClips
from data.datamodule import ClipDataModule
from doors.estimate import Work, plan_of, total_tokens
from lras.config import PredictorConfig
from tracing.probe import FlowProbe


def training_note(
    data: Any,  # the data module
    model: PredictorConfig,
    steps: int,  # optimizer steps so far
    world: int,  # processes
    callbacks: Iterable[Any],
    parts: int = 1,  # batches that each accumulates for one step
    limit: int | None = None,  # tokens of a sequence
) -> dict[str, Any]:
    """Plain data: ``data`` in words, ``tokens`` of all sequences trained on, and of the last probe,
    where there was one, ``flow_epe_px`` by set and the ``protocol`` in words.
    """
    plan = plan_of(data, steps, model, world, parts, limit)
    note = {"data": data_in_words(data, plan), "tokens": total_tokens(plan, model)}
    probe = next((each for each in callbacks if isinstance(each, FlowProbe)), None)
    return note if probe is None else note | probed(probe)


def data_in_words(data: Any, plan: list[Work]) -> str:
    """Stages of synthetic scenes, or the clips, named by their folder alone."""
    if isinstance(data, ClipDataModule):
        gaps = f"{data.pairs.min_gap} to {data.pairs.max_gap} {data.pairs.gap_unit}"
        names = " and ".join(PurePosixPath(root).name for root in data.roots)
        return f"clips of {names}, pairs of frames {gaps} apart"
    if not hasattr(data, "stages"):
        return f"a {type(data).__name__}"
    stages = [f"{work.steps:,} steps of {work.batch} pairs at {work.size} px" for work in plan]
    told = f"synthetic scenes: {', then '.join(stages) or 'none yet'}"
    clips = data.clips_in_words() if isinstance(data, ScenesAndClips) else None
    return f"{told}; {clips}" if clips else told


def probed(probe: FlowProbe) -> dict[str, Any]:
    """End-point errors of the last probe by set, and how they were measured; {} without any."""
    last = probe.history[-1] if probe.history else {}
    names = [name for name in probe.sets if f"flow/{name}/epe" in last]
    if not names:
        return {}
    errors = {name: last[f"flow/{name}/epe"] for name in names}
    sets = "; ".join(f"{name}: {probe.sets[name].about}" for name in names)
    settings = ", ".join(f"{field}={value}" for field, value in asdict(probe.cfg).items())
    return {
        # NaN is no JSON
        "flow_epe_px": {n: round(e, 4) if math.isfinite(e) else str(e) for n, e in errors.items()},
        "protocol": f"probe at step {last['step']} of the {probe.weights} weights, {sets}; KL "
        f"tracer, {settings}, seed {probe.seed}",
    }
