"""Measure the long promises of ``claims_probe.py`` and keep their figures, logs and pictures.

    python benchmarks/measure_probe.py nano              experiment=lras_nano with three probe sets
    python benchmarks/measure_probe.py tapvid            DIS and the model of `nano`, on TAP-Vid
    python benchmarks/measure_probe.py micro             ten minutes of lras_micro on an accelerator

Real pairs and pickles are looked for under ``$LRAS_SHARED/data`` (or ``../shared/data``).
``--run DIR`` reads a run that was trained before, instead of training one or that of ``nano``.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmarks.measure_main import SHARED, WORK, keep_logs, note_of, origin, run, train
from benchmarks.result_file import CANNOT_MEASURE_HERE, ROOT, write_result
from doors.estimate import num_processes, plan_of, total_tokens

FIGURES = ROOT / "docs" / "figures"
PICKLES = ("short", "long")


def probed(run_dir: Path) -> dict:
    """The probe's account: its share of the training time, its curves, its last scores."""
    history = json.loads((run_dir / "probe.json").read_text())
    names = [key.split("/")[1] for key in history[0] if key.endswith("/epe")]
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    budget = next(v["budget"] for name, v in state.items() if name.startswith("FlowProbe"))
    spent = sum(budget["visits"])
    figures = {
        "probes": len(history),
        "probe_seconds": round(spent, 1),
        "other_seconds": round(budget["outside"], 1),
        "overhead": spent / budget["outside"],
        "steps": [point["step"] for point in history],
    }
    for name in names:
        last = history[-1]
        figures[name] = {
            key: last[f"flow/{name}/{key}"]
            for key in ("epe", "zero_epe", "dis_epe", "floor", "delta_avg", "ad", "oa", "aj")
            if f"flow/{name}/{key}" in last
        }
        figures[name]["epe_curve_px"] = [point[f"flow/{name}/epe"] for point in history]
    return figures


def nano(done: Path | None) -> None:
    """Train lras_nano with three probe sets; write probe_nano.json and the curve's picture."""
    words = ("probe_set=[easy,hard,real_pairs]", "threads=1")
    words += (f"callbacks.probe.sets.real_pairs.root={SHARED / 'flow_gt'}",)
    run_dir = done or train("probe_nano", "lras_nano", *words)
    keep_logs(run_dir, "probe_nano")
    FIGURES.mkdir(parents=True, exist_ok=True)
    shutil.copy(run_dir / "probe.png", FIGURES / "lras_nano_probe.png")
    note = note_of(run_dir)
    figures = probed(run_dir) | {"minutes": round(note["seconds"] / 60, 2)} | origin(run_dir)
    figures["trained_with"] = figures["trained_with"].replace(str(SHARED), "../shared/data")
    command = "python benchmarks/measure_probe.py nano"
    write_result("probe_nano.json", figures, command, [0], sha=note["git_sha"])


def tapvid(done: Path | None) -> None:
    """Both pickles by DIS and by a trained model; write probe_tapvid.json."""
    done = done or WORK / "probe_nano"
    if not done.is_dir():
        sys.exit(f"there is no run at {done}; make it with `nano`, or name one: --run DIR")
    figures: dict = {"model": origin(done) | {"git_sha": note_of(done)["git_sha"]}}
    figures["model"]["trained_with"] = figures["model"]["trained_with"].replace(
        str(SHARED), "../shared/data"
    )
    for name in PICKLES:
        path = SHARED / "tracks" / f"tapvid_pairs_{name}.pkl"
        for who, words in ("dis", ["tracer=dis"]), ("model", [f"ckpt={done}"]):
            out = WORK / f"probe_tapvid-{name}-{who}"
            shutil.rmtree(out, ignore_errors=True)
            asked = ["eval.py", *words, "task=tapvid", f"task.path={path}", "controls=false"]
            seconds = run(WORK / "probe_tapvid.out", *asked, f"hydra.run.dir={out}")
            results = json.loads((out / "results.json").read_text())
            figures[f"{name}_{who}"] = {
                "minutes": round(seconds / 60, 2),
                "dataset": results["dataset"],
                "tracers": {row["name"]: _figures(row) for row in results["tracers"]},
            }
    command = "python benchmarks/measure_probe.py tapvid"
    write_result("probe_tapvid.json", figures, command, [0])


def _figures(row: dict) -> dict:
    return {key: row[key] for key in ("epe", "ad", "delta_avg", "oa", "aj") if key in row}


def micro(done: Path | None) -> None:
    """Ten minutes of lras_micro with the probe on; write probe_micro.json. Needs CUDA."""
    if not torch.cuda.is_available():
        print("lras_micro was not measured: no accelerator is at hand.", file=sys.stderr)
        sys.exit(CANNOT_MEASURE_HERE)
    words = ("trainer.max_time=00:00:10:00",)
    run_dir = done or train("probe_micro", "lras_micro", *words)
    keep_logs(run_dir, "probe_micro")
    FIGURES.mkdir(parents=True, exist_ok=True)
    shutil.copy(run_dir / "probe.png", FIGURES / "lras_micro_probe.png")
    note, figures = note_of(run_dir), probed(run_dir)
    cfg = OmegaConf.load(run_dir / "config" / "resolved.yaml")
    model = instantiate(cfg.model.predictor.cfg)
    plan = plan_of(
        instantiate(cfg.data, _convert_="object"), note["step"], model, num_processes(cfg)
    )
    figures["tokens"] = total_tokens(plan, model)
    figures["tokens_per_second"] = round(figures["tokens"] / figures["other_seconds"])
    figures |= {"minutes": round(note["seconds"] / 60, 2)} | origin(run_dir)
    figures["accelerator"] = torch.cuda.get_device_name()
    command = "python benchmarks/measure_probe.py micro"
    write_result("probe_micro.json", figures, command, [0], sha=note["git_sha"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("nano", "tapvid", "micro"))
    parser.add_argument("--run", type=Path, help="a run that was trained before")
    options = parser.parse_args()
    {"nano": nano, "tapvid": tapvid, "micro": micro}[options.what](options.run)


if __name__ == "__main__":
    main()
