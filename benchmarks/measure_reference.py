"""Measure a reference model on scenes, real frame pairs and real tracks; and write its card anew.

    python benchmarks/measure_reference.py lras_nano                all parts; goes on where it was
    python benchmarks/measure_reference.py lras_nano easy hard      these parts only

Writes ``benchmarks/results/reference_NAME.json`` as soon as all parts are there, and the table of
``checkpoints/NAME/README.md`` from it. Real data are looked for in ``flow_gt`` and ``tracks`` under
``$LRAS_SHARED/data`` (or ``../shared/data``). Parts of another commit, of a tree that differs from
it, or of other weights do not count.
"""

import argparse
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch

from benchmarks.measure_main import SHARED, WORK, run
from benchmarks.result_file import CANNOT_MEASURE_HERE, ROOT, write_result
from doors.model_card import write_card
from doors.reference import CHECKPOINTS
from lras.export_files import is_export, read_export
from tracing.benchmarks.evaluation import fingerprint
from tracing.benchmarks.provenance import git_sha
from tracing.metrics.bootstrap import bootstrap_mean, bootstrap_paired

SEED = 0  # of scenes, points, masks and bootstrap
# Of hard scenes the points and masks of ``measure_main.py hard``; real data have the eight masks of
# the default. Zoom takes several times the work of one scale: its crops have four masks, and nobody
# is traced beside it, since the part without zoom is over the same points.
SCENES = ("task=synthetic", "num_pairs=64", "tracer.cfg.num_masks=24", "tracer=farneback")
PAIRS = ("task=flow_pairs", "task.root={flow_gt}", "task.points_per_pair=32")
SHORT = ("task=tapvid", "task.path={tracks}/tapvid_pairs_short.pkl")
LONG = ("task=tapvid", "task.path={tracks}/tapvid_pairs_long.pkl")
ZOOM = ("tracer.zoom.scales=3", "tracer.zoom.num_masks=4", "compare=false", "controls=false")
PARTS = {
    "easy": (*SCENES, "scene=easy"),
    "hard": (*SCENES, "scene=hard"),
    "flow_gt": PAIRS,
    "tracks_short": SHORT,
    "tracks_long": LONG,
    "hard_zoom": ("task=synthetic", "num_pairs=64", "scene=hard", *ZOOM),
    "flow_gt_zoom": (*PAIRS, *ZOOM),
    "tracks_short_zoom": (*SHORT, *ZOOM),
    "tracks_long_zoom": (*LONG, *ZOOM),
}


def measure(name: str, part: str, work: Path) -> dict:
    """``results.json`` of one part; evaluated unless it is there."""
    out = work / part
    if not (out / "results.json").is_file():
        where = {"flow_gt": SHARED / "flow_gt", "tracks": SHARED / "tracks"}
        words = [word.format(**where) for word in PARTS[part]]
        words += [f"seed={SEED}", f"threads={os.environ.get('OMP_NUM_THREADS', 'null')}"]
        asked = ["eval.py", f"ckpt={CHECKPOINTS / name}", *words, f"hydra.run.dir={out}"]
        print(f"{part}: {run(work / f'{part}.out', *asked) / 60:.1f} minutes", flush=True)
    return json.loads((out / "results.json").read_text())


def figures_of_part(part: str, results: dict) -> dict:
    """Every row with its interval and its paired difference to KL-tracing, and how it was asked."""
    data, how = results["dataset"], results["protocol"]
    masks, scales = how["tracer_config"]["num_masks"], how["zoom"]["scales"]
    said = [f"{data['num_pairs']} pairs", f"{masks} masks"]
    if "input_hw" in data:
        said.append("frames squeezed to {}x{} px for models".format(*data["input_hw"]))
    if "num_videos" in data:
        said.append(f"px at 256x256, means and intervals over {len(scorable(results))} videos")
    said += [f"{scales} scales, {how['zoom']['num_masks']} masks in crops"] * (scales > 1)
    rows = results["tracers"] + results["controls"]
    if "videos" in results:
        rows = [over_videos(row, results) for row in rows]
    tracers = rows[: len(results["tracers"])]
    return {
        "command": " ".join(["python eval.py ckpt=checkpoints/NAME", *PARTS[part]]).format(
            flow_gt="../shared/data/flow_gt", tracks="../shared/data/tracks"
        ),
        "protocol": ", ".join(said),
        "points": data["num_points"],
        "masks": masks,
        "scales": scales,
        "floor_px": results["floor"],
        "tracers": {row["name"]: scores(row) for row in tracers},
        "controls": {row["name"]: scores(row) for row in rows[len(tracers) :]},
        "tracing_minutes": round(sum(row["seconds"] or 0 for row in rows) / 60, 2),
    }


def scorable(results: dict) -> list[dict]:
    """Videos with a visible target."""
    return [video for video in results["videos"] if video["num_points"]]


def over_videos(row: dict, results: dict) -> dict:
    """The row with intervals by bootstrap over videos, where so few are given none by eval.py.

    Over six to eight videos they are no more than a hint, and too narrow if anything.
    """
    known = scorable(results)
    if row["epe_interval"] is not None or row["name"] not in known[0]["scores"]:
        return row
    own = torch.tensor([video["scores"][row["name"]]["epe"] for video in known])
    spread = bootstrap_mean(own, SEED)
    row = row | {"epe_interval": [spread.low, spread.high]}
    if paired := row["paired_vs"]:
        kl = torch.tensor([video["scores"][paired["name"]]["epe"] for video in known])
        gap = bootstrap_paired(own, kl, SEED)
        row["paired_vs"] = paired | {"interval": [gap.low, gap.high]}
    return row


def scores(row: dict) -> dict:
    """What is kept of a row; EPE in px, also less that of KL-tracing over the same points."""
    kept = (
        "median",
        "delta_avg",
        "hit",
        "ratio_to_zero",
        "ad",
        "oa",
        "aj",
        "target_revealed_share",
    )
    found = {"epe_px": row["epe"], "epe_ci95_px": row["epe_interval"]}
    found |= {key: row[key] for key in kept if row.get(key) is not None}
    if paired := row.get("paired_vs"):
        found["minus_kl_px"], found["minus_kl_ci95_px"] = paired["difference"], paired["interval"]
    return found


def model_of(name: str) -> dict:
    """What the figures are about."""
    about, weights = read_export(CHECKPOINTS / name)
    kept = ("command", "git_sha", "step", "tokens", "seconds", "seed", "made_from")
    note = {key: about["note"][key] for key in kept if key in about["note"]}
    return {"name": name, "fingerprint": fingerprint(weights)} | note


def work_of(name: str, weights: str, sha: str) -> Path:
    """Where the parts of these weights by this code are kept; a dirty tree is not its commit."""
    short = sha[:8] + "-dirty" * sha.endswith("-dirty")
    return WORK / f"reference-{name}-{weights}-{short}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of a folder in checkpoints/")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    asked = parser.parse_args()
    if unknown := set(asked.parts) - PARTS.keys():
        parser.error(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if not is_export(CHECKPOINTS / asked.name):
        said = f"there is no checkpoints/{asked.name}; train it, and python -m doors.publish RUN"
        print(f"{said} checkpoints/{asked.name}", file=sys.stderr)
        sys.exit(CANNOT_MEASURE_HERE)
    model, sha = model_of(asked.name), git_sha()
    work = work_of(asked.name, model["fingerprint"], sha)
    for part in asked.parts or PARTS:
        measure(asked.name, part, work)
    if missing := [part for part in PARTS if not (work / part / "results.json").is_file()]:
        print(f"not yet written: {', '.join(missing)} are still to be measured")
        return
    found = {part: figures_of_part(part, measure(asked.name, part, work)) for part in PARTS}
    result = f"reference_{asked.name}.json"
    command = f"python benchmarks/measure_reference.py {asked.name}"
    path = write_result(result, {"model": model, "sets": found}, command, [SEED], sha=sha)
    print(f"written: {path.relative_to(ROOT)}")
    print(f"written: {write_card(CHECKPOINTS / asked.name, path).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
