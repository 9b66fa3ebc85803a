"""The promises about published checkpoints: they load, and our numbers are theirs.

Names that ``figures`` carries, by result file.

official_read_out.json (a random model of published geometry; both ways in turn in one process)
    ratio             four forwards / key-value cache, median of the pairs, wall-clock
    processor_ratio   the same of processor time, which a busy machine disturbs less
    worst_logit_difference   of any logit of any step, over the whole vocabulary
    tokens_that_differ       greedy tokens, all steps
official_convert.json (a random bfloat16 checkpoint of the published 7B shape)
    peak_anonymous_gb        RssAnon of the converting process, at most
    checkpoint_gb, tensors, tensors_that_differ   its size; our tensors against theirs
"""

import os
import tempfile
from functools import cache, partial
from pathlib import Path

import torch

from benchmarks.claim import Claim, Figure, NotMeasuredError, Target
from benchmarks.claims_main import from_file
from benchmarks.claims_probe import failing_tests
from benchmarks.result_file import ROOT
from lras.checkpoint import load
from lras.official import golden
from lras.official.checks import Check
from lras.official.convert import convert
from lras.official.export import export
from lras.official.files import read_official
from tracing.perturbation import add_tracer

READ_OUT, CONVERT = "official_read_out.json", "official_convert.json"
COMMANDS = {
    READ_OUT: "python benchmarks/official_read_out.py --keep",
    CONVERT: "python benchmarks/official_convert.py",
}


def golden_folder() -> Path:
    """``$LRAS_GOLDEN``, or ``golden`` in the shared data.

    Raises:
        NotMeasuredError: there is none.
    """
    shared = Path(os.environ.get("LRAS_SHARED") or ROOT.parent / "shared")
    folder = Path(os.environ.get("LRAS_GOLDEN") or shared / "golden")
    if not folder.is_dir():
        raise NotMeasuredError("no golden arrays at ../shared/golden; set LRAS_GOLDEN")
    return folder


@cache
def converted_and_back() -> tuple[list[Check], list[bool]]:
    """Published files, ours, published again: our answers, and which tensors are the same."""
    folder = golden_folder()
    with tempfile.TemporaryDirectory() as scratch:
        predictor, quantizer = Path(scratch) / "predictor.pt", folder / "tiny_quantizer.pt"
        state = {"cfg": golden.official_config(folder), "model": golden.official_state_dict(folder)}
        torch.save(state, predictor)
        ours = convert(predictor, Path(scratch) / "ours", quantizer)
        model = load(ours)
        checks = golden.compare(model.predictor, model.quantizer, folder)
        same = []
        for kind, before in (("predictor", predictor), ("quantizer", quantizer)):
            back = export(ours, Path(scratch) / f"{kind}_again.pt", kind)
            first, second = (read_official(path, kind).weights for path in (before, back))
            names = first.keys() | second.keys()
            same += [
                name in first and name in second and identical(first[name], second[name])
                for name in names
            ]
    return checks, same


def identical(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)


def arrays_too_far_off() -> Figure:
    checks, _ = converted_and_back()
    bad = [check.name for check in checks if not check.passed]
    absent = golden.answers(golden_folder()) - {check.name for check in checks}
    note = f"of {len(checks)} arrays" + "".join(f", {name}" for name in [*bad, *absent][:3])
    return Figure(len(bad) + len(absent), note)


def worst_share_of_tolerance() -> Figure:
    """How much of its tolerance the worst array of numbers uses up."""
    checks = [check for check in converted_and_back()[0] if check.tolerance]
    worst = max(checks, key=lambda check: check.difference / check.tolerance)
    return Figure(worst.difference / worst.tolerance, f"{worst.name}, {worst.difference:.1e}")


def tensors_that_differ() -> Figure:
    _, same = converted_and_back()
    return Figure(same.count(False), f"of {len(same)} tensors, quantizer's included")


def tracer_values_that_differ() -> Figure:
    images = golden.arrays(golden_folder(), "images")
    clean, expected = (
        torch.from_numpy(images[name]).movedim(-1, 0) for name in ("frame0", "frame0_perturbed")
    )
    planted = add_tracer(
        clean / 255,
        torch.from_numpy(images["perturb_xy"]) + 0.5,
        float(images["perturb_std"]),
        float(images["perturb_amplitude"]) / 255,
        "truncate_uint8",
    )
    differ = (planted * 255).round() != expected
    moved = int((clean != expected).sum())
    return Figure(int(differ.sum()), f"of {differ.numel()}; the tracer changes {moved}")


def ratio(figures: dict) -> Figure:
    note = f"{figures['layers']} layers of {figures['dim']}, {figures['threads']} thread, "
    note += f"{figures['four_forwards_seconds']:.1f} s and {figures['cache_seconds']:.1f} s; "
    note += f"{figures['processor_ratio']:.2f} of processor time"
    return Figure(figures["ratio"], note)


def read_out_difference(figures: dict) -> Figure:
    note = f"{figures['tokens_that_differ']} greedy tokens differ"
    return Figure(figures["worst_logit_difference"], note)


def peak_memory(figures: dict) -> Figure:
    note = f"{figures['checkpoint_gb']:.1f} GB, {figures['tensors_that_differ']} of "
    return Figure(figures["peak_anonymous_gb"], f"{note}{figures['tensors']} tensors differ")


def on_the_spot(what: str, measure, compare: str, number: float, unit: str = "") -> Claim:
    return Claim(what=what, target=Target(compare, number, unit), measure=measure)


def failing_of_those_run(words: str) -> Figure:
    """As ``failing_tests``.

    Raises:
        NotMeasuredError: none failed, but none passed either: they were skipped.
    """
    figure = failing_tests(words)
    if figure.value == 0 and not figure.note.endswith(" passed"):
        raise NotMeasuredError(f"no test of {words} was run: {figure.note}")
    return figure


def tests_pass(what: str, words: str) -> Claim:
    return on_the_spot(f"{what}: failing tests", partial(failing_of_those_run, words), "==", 0)


CLAIMS = [
    on_the_spot("converted: golden arrays too far off", arrays_too_far_off, "==", 0),
    on_the_spot("converted: worst difference / tolerance", worst_share_of_tolerance, "<=", 1),
    on_the_spot("tracer as uint8: values that differ", tracer_values_that_differ, "==", 0),
    tests_pass("KL maps of tracing", "tests/test_lras_official_golden.py -k divergence"),
    tests_pass("other golden sets", "tests/test_lras_official_golden.py -k sets"),
    on_the_spot("official -> ours -> official: tensors that differ", tensors_that_differ, "==", 0),
    tests_pass("foreign, damaged and mistaken files", "tests/test_lras_official_files.py"),
    from_file(READ_OUT, "patch-parallel", "four forwards / cache", ratio, ">=", 2),
    from_file(
        READ_OUT, "patch-parallel", "worst logit difference", read_out_difference, "<=", 1e-4
    ),
    from_file(CONVERT, "converting a 7B", "peak RssAnon", peak_memory, "<", 2, "GB"),
    tests_pass("conversion, 100 times smaller", "tests/test_lras_official_convert.py"),
    tests_pass("Hugging Face, offline", "tests/test_lras_hub.py"),
]
