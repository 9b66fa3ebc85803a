"""The promises of the probe: flow while it trains, on any number of processes, at little cost.

Names that ``figures`` carries, by result file. EPE is in pixels of the frames as stored.

probe_nano.json (experiment=lras_nano with three probe sets)
    overhead          seconds of all probes per second of the rest of the run
    probes, steps     how many there were, and at which steps
    easy, hard, real_pairs   {epe, zero_epe, dis_epe, floor, ...} at the end, and epe_curve_px
probe_tapvid.json (both TAP-Vid pickles; DIS alone, and a trained model beside the baselines)
    short_dis, short_model, long_dis, long_model   {tracers: {name: {epe, ad, ...}}}, at 256x256
probe_micro.json (ten minutes of experiment=lras_micro on one accelerator)
    tokens_per_second, held_out
"""

import json
import math
import re
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path

import torch

from benchmarks.claim import Claim, Figure, NotMeasuredError, Target
from benchmarks.claims_main import from_file, plain
from benchmarks.result_file import ROOT
from lras.checkpoint import save
from tests.distributed_runs import two_against_one
from tests.test_plain_trainer import SCENE, plain_trainer, predictor_module, scenes
from tracing.benchmarks.synthetic import synthetic_pairs
from tracing.config import TracerConfig
from tracing.probe import FlowProbe, probe_set

NANO, TAPVID, MICRO = "probe_nano.json", "probe_tapvid.json", "probe_micro.json"
COMMANDS = {
    NANO: "python benchmarks/measure_probe.py nano",
    TAPVID: "python benchmarks/measure_probe.py tapvid",
    MICRO: "python benchmarks/measure_probe.py micro",
}


@cache
def on_one_and_two_processes() -> tuple[dict, dict]:
    """The probe of one checkpoint, by one process and by two."""
    with tempfile.TemporaryDirectory() as folder:
        return probe_by_one_and_two(Path(folder))


def probe_by_one_and_two(folder: Path) -> tuple[dict, dict]:
    model = predictor_module().next_frame()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # fresh blocks are silent; these are not
        for weight in model.predictor.blocks.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    save(model.eval(), folder / "export")
    found = []
    for world in (1, 2):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
        script = str(ROOT / "benchmarks" / "probe_on_ranks.py")
        words = [*launcher, script, str(folder), str(folder / f"{world}.json")]
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        found.append(json.loads((folder / f"{world}.json").read_text()))
    return found[0], found[1]


def answers_that_differ() -> Figure:
    one, two = on_one_and_two_processes()
    pairs = 0
    differ = 0
    for name in ("several", "single"):
        for kind in ("xy", "argmax"):
            both = list(zip(one[name][kind], two[name][kind], strict=True))
            pairs += len(both)
            differ += sum(a != b for a, b in both)
    return Figure(differ, f"of {pairs} lists; {one['world']} and {two['world']} processes")


def worst_score_difference() -> Figure:
    one, two = on_one_and_two_processes()
    names = [name for name in one["scores"] if not name.endswith("/seconds")]
    worst = max(abs(one["scores"][name] - two["scores"][name]) for name in names)
    return Figure(worst, f"{len(names)} scores")


def loss_difference(optimizer: str) -> Figure:
    with tempfile.TemporaryDirectory() as folder:
        found = two_against_one(Path(folder), f"optimizer={optimizer}")
    note = f"{found['steps']} steps, {found['first_loss_nats']:.3f} nats at the first"
    return Figure(found["worst_relative_difference"] if found["steps"] == 20 else math.nan, note)


def weights_that_differ(steps: int = 50) -> Figure:
    """Tensors of the trained state in which a run with a probe and one without differ at all."""
    states, probes = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for probing in (True, False):
            torch.manual_seed(0)
            sets = {"held_out": probe_set([synthetic_pairs(SCENE, 2, 2, seed=7)], "held_out")}
            probe = FlowProbe(sets, 10, TracerConfig(num_masks=2), max_share=None)
            module, callbacks = predictor_module(), [probe] if probing else []
            alike = {"deterministic": True, "default_root_dir": folder}
            trainer = plain_trainer(steps, *callbacks, **alike)
            trainer.fit(module, scenes(steps))
            optimizer = trainer.optimizers[0].state_dict()["state"].values()
            moments = [v for state in optimizer for v in state.values() if torch.is_tensor(v)]
            probes = max(probes, len(probe.history))
            states.append([*module.state_dict().values(), *moments])
    torch.use_deterministic_algorithms(False)
    differ = sum(not torch.equal(a, b) for a, b in zip(*states, strict=True))
    return Figure(differ, f"of {len(states[0])} tensors; {probes} probes")


def failing_tests(words: str) -> Figure:
    """Failures among the tests that pytest finds by these words."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or ["pytest said nothing"])[-1]
    if done.returncode == 5:
        raise NotMeasuredError(f"no test is found by {words}")
    passed = re.search(r"(\d+) passed", last)
    return Figure(math.nan if done.returncode else 0, passed.group() if passed else last)


def overhead(figures: dict) -> Figure:
    spent, probes = figures["probe_seconds"], figures["probes"]
    return Figure(figures["overhead"], f"{probes} probes, {spent:.0f} s")


def against_zero(name: str):
    def read(figures: dict) -> Figure:
        own = figures[name]
        note = f"{own['epe']:.2f} of {own['zero_epe']:.2f} px; DIS {own['dis_epe']:.2f}"
        return Figure(own["epe"] / own["zero_epe"], note)

    return read


def real_curve(figures: dict) -> Figure:
    own = figures["real_pairs"]
    note = f"{own['epe']:.2f} px, zero motion {own['zero_epe']:.2f}, DIS {own['dis_epe']:.2f}"
    return Figure(sum(map(math.isfinite, own["epe_curve_px"])), note)


def curve_picture() -> Figure:
    path = ROOT / "docs" / "figures" / "lras_nano_probe.png"
    if not path.is_file():
        raise NotMeasuredError(f"{path.relative_to(ROOT)} is not there")
    return Figure(path.stat().st_size / 1000, str(path.relative_to(ROOT)))


def tapvid_table(key: str, who: str):
    """Scores of one tracer that are finite numbers, of the five that the table has."""

    def read(figures: dict) -> Figure:
        found = figures[key]["tracers"]
        name = next(name for name in found if name.split("@")[0] == who)
        row = found[name]
        note = ", ".join(f"{score} {row[score]:.3g}" for score in row)
        return Figure(sum(map(math.isfinite, row.values())), f"{name}: {note}")

    return read


def probe_claims() -> list[Claim]:
    def on_the_spot(what: str, measure, compare: str, number: float, unit: str = "") -> Claim:
        return Claim(what=what, target=Target(compare, number, unit), measure=measure)

    by_two = "1 and 2 processes: "
    wandb = "tests/test_doors_loggers.py tests/test_doors_loggers_wandb.py"
    return [
        on_the_spot(by_two + "answers and arg-max that differ", answers_that_differ, "==", 0),
        on_the_spot(by_two + "worst difference of a score", worst_score_difference, "<=", 1e-9),
        on_the_spot(
            by_two + "loss of 20 steps, AdamW, worst relative",
            partial(loss_difference, "adamw"),
            "<=",
            1e-5,
        ),
        # timm's Muon orthogonalizes in bfloat16, which makes a rounding of the last bit visible.
        on_the_spot(
            by_two + "loss of 20 steps, Muon, worst relative",
            partial(loss_difference, "muon"),
            "<=",
            1e-3,
        ),
        on_the_spot("50 steps, probe on or off: tensors that differ", weights_that_differ, "==", 0),
        on_the_spot("offline W&B: failing tests", partial(failing_tests, wandb), "==", 0),
    ]


def nano_claims() -> list[Claim]:
    claim = partial(from_file, NANO, "lras_nano")
    return [
        claim("time of all probes / all other time", overhead, "<=", 0.03),
        claim("points of the curve", plain("probes"), ">=", 8),
        claim("easy: EPE at the end / zero motion", against_zero("easy"), "<", 1),
        claim("hard: EPE at the end / zero motion", against_zero("hard"), "<", 1),
        claim("real pairs: probes with a finite EPE", real_curve, ">=", 8),
        Claim(
            what="lras_nano: picture of the curve",
            target=Target(">=", 5, "kB"),
            measure=curve_picture,
        ),
    ]


def tapvid_claims() -> list[Claim]:
    claim = partial(from_file, TAPVID, "TAP-Vid")
    return [
        claim(f"{name}, {who}: scores in the table", tapvid_table(f"{name}_{key}", who), "==", 5)
        for name in ("short", "long")
        for key, who in (("dis", "dis"), ("model", "kl"), ("model", "zero_motion"))
    ]


def micro_claims() -> list[Claim]:
    claim = partial(from_file, MICRO, "lras_micro, 10 minutes on an accelerator")
    return [
        claim("tokens/s", plain("tokens_per_second"), ">", 0),
        claim("EPE at the end / zero motion", against_zero("held_out"), "<", 1),
    ]


CLAIMS = [*probe_claims(), *nano_claims(), *tapvid_claims(), *micro_claims()]
