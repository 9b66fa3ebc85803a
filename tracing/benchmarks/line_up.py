"""Who is in the table: the chosen tracer, what stands beside it, and what must fail."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tracing.baselines import DIS, BestTranslation, Farneback, NearestPatchColor, ZeroMotion
from tracing.baselines.registry import NAMES, baseline
from tracing.benchmarks.base import Tracer
from tracing.benchmarks.evaluation import Task
from tracing.protocol import NextFrameModel
from tracing.tracers import TracerSetup

MODEL_TRACERS = ("kl", "rgb")
TRACERS = (*MODEL_TRACERS, *NAMES)
# Keys of configs/tracer/kl.yaml, which are no options of a baseline.
SHARED = ("name", "cfg", "zoom", "engine", "augmentations", "occlusion", "return_px")


def options_of(tracer: Mapping[str, Any]) -> dict[str, Any]:
    """What the config of a baseline says beyond what all tracers share: its own options."""
    return {key: value for key, value in tracer.items() if key not in SHARED}


def check_tracer(chosen: str, model: NextFrameModel | None) -> None:
    """Raise ValueError if there is no such tracer, or it needs a model and there is none."""
    if chosen not in TRACERS:
        near = difflib.get_close_matches(chosen, TRACERS, n=1, cutoff=0)[0]
        raise ValueError(
            f"tracer {chosen!r} is not known, the nearest is {near}; choose one of "
            f"{', '.join(TRACERS)}."
        )
    if chosen in MODEL_TRACERS and model is None:
        raise ValueError(
            f"tracer={chosen} needs a model: pass ckpt=RUN (a run folder, an export or a .ckpt), "
            "or choose tracer=dis or tracer=zero_motion."
        )


def chosen_baseline(chosen: str, patch_px: int, options: Mapping[str, Any]) -> Tracer:
    """The baseline that a config names.

    Raises:
        ValueError: as ``tracing.baselines.baseline``.
    """
    given = {"patch_px": patch_px} if chosen == "nearest_patch_color" else {}
    return baseline(chosen, **given | dict(options))


def line_up(
    chosen: str,
    model: NextFrameModel | None,
    setup: TracerSetup,
    patch_px: int,
    task: Task,
    compare: bool = True,
    options: Mapping[str, Any] | None = None,
) -> tuple[list[Tracer], str | None]:
    """The tracers of the table, the chosen one first, and the name all are paired with.

    The RGB tracer decodes whole frames, so with ``read_out="first"`` it is there only if chosen.
    Farneback is there where frames are larger than a model takes, or if chosen.

    Args:
        options: of the chosen baseline, see ``options_of``; None: none.
    """
    known: list[Tracer] = [] if model is None else [setup.kl(model)]
    if model is not None and (setup.cfg.read_out == "all" or chosen == "rgb"):
        known.append(setup.rgb(model))
    known += [ZeroMotion(), DIS(), DIS(enlarge=4), BestTranslation(), NearestPatchColor(patch_px)]
    if hasattr(task, "input_hw"):  # of tasks whose frames are as stored; models see them resized
        known.append(Farneback())
    first = chosen
    if chosen not in MODEL_TRACERS:
        own = chosen_baseline(chosen, patch_px, options or {})
        first = own.name
        known = [own if tracer.name == first else tracer for tracer in known]
        known += [] if own in known else [own]
    known.sort(key=lambda tracer: tracer.name != first)
    taking_part: list[Tracer] = []
    for tracer in known if compare else known[:1]:
        own = task.adapt(tracer)
        taking_part += map(setup.judged, own) if tracer.name in MODEL_TRACERS else own
    kl = [tracer.name for tracer in taking_part if tracer.name.startswith("kl")]
    return taking_part, kl[0] if kl else None


def control_tracers(
    model: NextFrameModel, untrained: NextFrameModel, setup: TracerSetup, task: Task
) -> list[Tracer]:
    """KL tracers that must fail: no training, the tracer elsewhere, no tracer at all."""
    without = replace(setup, cfg=replace(setup.cfg, amplitude=0.0))
    controls = {
        "untrained": setup.kl(untrained),
        "random_point": setup.kl(model, control="random_point"),
        "zero_amplitude": without.kl(model),
    }
    adapted = []
    for name, tracer in controls.items():
        (own,) = task.adapt(tracer)
        own = setup.judged(own)
        own.name = name
        adapted.append(own)
    return adapted
