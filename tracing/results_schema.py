"""The one schema of ``results.json``: what every task writes, and readers may count on.

Keys that end in ? may be missing; the file itself is plain JSON without NaN.

    {"schema": 2,
     "task": str,
     "protocol": {name: value, ...},          # query mode, placement, masks, read-out, ...
     "dataset": {"name": str, "num_pairs": int, "num_points": int,
                 "resolution_hw": [h, w] | null,     # null: pairs differ in size
                 "input_hw"?: [h, w] | null,         # what the model was given, if resized
                 "query_mode"?: "first" | "strided" | "cfg",         # of point tracks
                 "num_videos"?: int, "num_unscorable"?: int,         # of point tracks
                 "part"?: str},                      # what was taken of a file, if not all
     "stamp": {...},                          # all that makes figures comparable: ``stamp_of``
     "coverage": {"units": int, "of_units": int, "share": fraction},  # videos or frame pairs
     "tracers": [row, ...],                   # ours and the baselines
     "controls": [row, ...],                  # tracers that must fail
     "pairs"?: [{"name", "resolution_hw", "num_points", "epe": {tracer: px | null}}, ...],
     "dense_pairs"?: [{"name", "resolution_hw", "scores": {tracer: {"epe", "px1", "px3", "px5",
                       "fl_all", "wauc", "s0_10", "s10_40", "s40", "epe_visible", "epe_occluded",
                       "pixels"}}}, ...],
     "videos"?: [{"name", "num_points", "scores": {tracer: {"epe", "ad", "delta_avg", "oa", "aj",
                  ...}}}, ...],               # of point tracks
     "floor": float | null,                   # EPE in px of a perfect detector on the map's cells
     "curve"?: [{"step": int, "epe": float, ...}, ...],          # EPE while pretraining went on
     "curve_lines"?: {name: epe in px, ...},  # else zero motion and DIS of "tracers", and the floor
     "pictures"?: [{"file": str, "caption": str}, ...],          # PNG, relative to the file
     "provenance": {"command", "git_sha", "seed", "date", "machine": {...}}}

    row = {"name": str, "epe": px, "epe_interval": [low, high] | null, "median": px,
           "delta_avg": fraction, "hit": fraction, "ratio_to_zero": float,
           "target_revealed_share": fraction | null, "seconds": float,
           "paired_vs": {"name", "difference": px, "interval": [low, high] | null,
                         "excludes_zero": bool | null} | null,
           "intervals"?: {"epe", "ad", "delta_avg", "oa", "aj": [low, high]} | null,
           "ad"?: px, "ad_median"?: px, "oa"?, "aj"?, "of1"?: fraction,
           "delta_1"? ... "delta_16"?, "jaccard_1"? ... "jaccard_16"?: fraction,
           "dense"?: {"pairs": int, "pixels": int, "epe", "epe_pooled": px, "px1", "px3", "px5":
                      share of pixels with a smaller error, "fl_all", "wauc": percent, "s0_10",
                      "s10_40", "s40": px, "epe_visible", "epe_occluded": px, and each of these
                      but wauc with _pooled: over all pixels, not the mean over pairs} | null,
           "flips"?: {"mean_codes": float, "silent", "dark", "wide": fraction} | null,
           "kept_hidden_share"?: fraction | null,         # of patches that zooms never reveal
           "occlusion"?: {"rule": str, "cues"?: str, "split"?: str, "thresholds"?: [nats, ...],
                          "return_px"?: [px | null, ...],       # null: any; one, or one a half
                          "by_cues"?: {cues: {"oa", "aj", "thresholds"?, "return_px"?}}}}

Pixels are those of the frames at ``resolution_hw``; delta_avg alone is taken at 256x256.
Intervals are 95 % bootstrap over frame pairs. Of point tracks every score is a mean over videos
without those that have nothing to score (OF1 pools them), intervals are over videos, and null under
10 of them. Any score that does not exist is null.
"""

import json
import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

SCHEMA = 2
# What two runs of the same evaluation may differ in, as dotted paths; * is any item.
VOLATILE = (
    "tracers.*.seconds",
    "controls.*.seconds",
    "stamp.wall_seconds",
    "stamp.points_per_second",
    "stamp.run",
    "provenance.command",
    "provenance.date",
    "provenance.machine",
)

Check = Callable[[Any], str | None]  # what is wrong with a value, if anything


def check_results(results: Any) -> None:
    """Raise ValueError unless ``results`` follows the schema; the sentence says where it does not.

    Keys that the schema does not name are let through.
    """
    if isinstance(results, Mapping) and "schema" not in results:
        kind = "of a question without ground truth" if "files" in results else "of older code"
        lacks = ", ".join(key for key in _RESULTS if key[-1] != "?" and key not in results)
        raise ValueError(
            f"results {kind} lack {lacks}; pass those of python eval.py with a task that scores "
            "tracers (schema: tracing/results_schema.py)."
        )
    if isinstance(results, Mapping) and results["schema"] != SCHEMA:
        raise ValueError(
            f"results follow schema {results['schema']} and this code reads {SCHEMA}; evaluate "
            "again."
        )
    if problem := _record(_RESULTS)(results):
        raise ValueError(
            f"results{problem}; the schema stands at the top of tracing/results_schema.py."
        )


def read_results(run: Path) -> dict[str, Any]:
    """The results of a run folder, or of the file itself.

    Raises:
        ValueError: there is no such file, it is not JSON or does not follow the schema.
    """
    path = run / "results.json" if run.is_dir() else run
    if not path.is_file():
        raise ValueError(f"no results.json in {run}; pass a folder that python eval.py wrote.")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        check_results(results)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return results


def stable(results: dict[str, Any]) -> dict[str, Any]:
    """A copy without what is declared volatile: the same for every run of one evaluation."""
    kept = deepcopy(results)
    for path in VOLATILE:
        _drop(kept, path.split("."))
    return kept


def _drop(value: Any, path: list[str]) -> None:
    key, *rest = path
    if key == "*":
        for item in value:
            _drop(item, rest)
    elif isinstance(value, dict) and key in value:
        if rest:
            _drop(value[key], rest)
        else:
            del value[key]


def _is(*kinds: type) -> Check:
    wanted = " or ".join(kind.__name__ for kind in kinds)

    def check(value: Any) -> str | None:
        right = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
        if right and isinstance(value, float) and not math.isfinite(value):
            right = False
        return None if right else f" is {value!r:.60}, not {wanted}"

    return check


def _or_null(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _listed(check: Check, length: int | None = None) -> Check:
    def checked(value: Any) -> str | None:
        if not isinstance(value, list):
            return f" is {value!r:.60}, not a list"
        if length is not None and len(value) != length:
            return f" holds {len(value)} items, not {length}"
        problems = (f"[{i}]{p}" for i, item in enumerate(value) if (p := check(item)))
        return next(problems, None)

    return checked


def _each(check: Check) -> Check:
    """A record with any keys."""

    def checked(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f" is {value!r:.60}, not a record"
        return next((f".{k}{p}" for k, item in value.items() if (p := check(item))), None)

    return checked


def _record(fields: Mapping[str, Check]) -> Check:
    """A record with these keys; ? at the end of one says that it may be missing."""

    def checked(value: Any) -> str | None:
        if not isinstance(value, dict):
            return f" is {value!r:.60}, not a record"
        if lacks := [key for key in fields if key[-1] != "?" and key not in value]:
            return f" lack {', '.join(lacks)}" if fields is _RESULTS else f" lacks {lacks[0]}"
        for key, check in fields.items():
            if (name := key.removesuffix("?")) in value and (problem := check(value[name])):
                return f".{name}{problem}"
        return None

    return checked


def _optional(names: tuple[str, ...], check: Check) -> dict[str, Check]:
    return {f"{name}?": check for name in names}


_TEXT, _COUNT, _NUMBER = _is(str), _is(int), _is(int, float)
_SCORE = _or_null(_NUMBER)
_SIZE = _or_null(_listed(_COUNT, 2))
_INTERVAL = _or_null(_listed(_NUMBER, 2))
_RECORD = _each(lambda value: None)
_PX = tuple(f"{kind}_{px}" for kind in ("delta", "jaccard") for px in (1, 2, 4, 8, 16))
_DENSE = ("epe", "px1", "px3", "px5", "fl_all", "wauc", "s0_10", "s10_40", "s40")
_DENSE += ("epe_visible", "epe_occluded")
_PAIRED = {
    "name": _TEXT,
    "difference": _SCORE,
    "interval": _INTERVAL,
    "excludes_zero": _or_null(_is(bool)),
}
_ROW = {
    "name": _TEXT,
    **dict.fromkeys(("epe", "median", "delta_avg", "hit", "ratio_to_zero"), _SCORE),
    "epe_interval": _INTERVAL,
    "intervals?": _or_null(_each(_INTERVAL)),
    "target_revealed_share": _SCORE,
    "seconds": _NUMBER,
    "paired_vs": _or_null(_record(_PAIRED)),
    **_optional(("ad", "ad_median", "oa", "aj", "of1", "kept_hidden_share", *_PX), _SCORE),
    "dense?": _or_null(
        _record(
            {"pairs": _COUNT, "pixels": _COUNT}
            | dict.fromkeys(_DENSE, _SCORE)
            | {f"{name}_pooled": _SCORE for name in _DENSE if name != "wauc"}
        )
    ),
    "flips?": _or_null(_each(_NUMBER)),
    "occlusion?": _record({"rule": _TEXT}),
}
_DATASET = {
    "name": _TEXT,
    "num_pairs": _COUNT,
    "num_points": _COUNT,
    "resolution_hw": _SIZE,
    "input_hw?": _SIZE,
    **_optional(("num_videos", "num_unscorable"), _COUNT),
    **_optional(("query_mode", "part"), _TEXT),
}
_RESULTS: dict[str, Check] = {
    "schema": _COUNT,
    "task": _TEXT,
    "protocol": _RECORD,
    "dataset": _record(_DATASET),
    "stamp": _RECORD,
    "coverage": _record({"units": _COUNT, "of_units": _COUNT, "share": _NUMBER}),
    "tracers": _listed(_record(_ROW)),
    "controls": _listed(_record(_ROW)),
    "floor": _SCORE,
    "provenance": _record({"command": _TEXT, "machine": _RECORD}),
    "pairs?": _listed(
        _record({"name": _TEXT, "resolution_hw": _SIZE, "num_points": _COUNT, "epe": _each(_SCORE)})
    ),
    "dense_pairs?": _listed(
        _record({"name": _TEXT, "resolution_hw": _SIZE, "scores": _each(_each(_SCORE))})
    ),
    "videos?": _listed(
        _record({"name": _TEXT, "num_points": _COUNT, "scores": _each(_each(_SCORE))})
    ),
    "curve?": _listed(_record({"step": _COUNT, "epe": _SCORE})),
    "curve_lines?": _each(_SCORE),
    "pictures?": _listed(_record({"file": _TEXT, "caption": _TEXT})),
}
