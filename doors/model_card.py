"""The model card of a reference model: how it was made, what it can do, where it ends.

Everything on it comes from the export's config.json and from a result file of
``benchmarks/measure_reference.py``; what neither says is called not stated or not measured.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from data.index import write_whole
from data.textures import TRAINING_PHOTOS
from lras.export_files import read_export
from lras.hub import NOT_STATED
from tracing.benchmarks.evaluation import fingerprint

CARD = "README.md"
LICENSE = "mit"  # of the weights: as the code's
# Columns of the table of scores: names as in the result file, without the size that they saw.
SHOWN = {
    "kl": "KL-tracing",
    "rgb": "RGB difference",
    "zero_motion": "zero motion",
    "dis@native": "DIS",
    "dis_x4": "DIS, 4x enlarged",
    "farneback@native": "Farneback",
}
PHOTO_CREDIT = """\
China and flower of scikit-learn are CC BY 2.0 by danielbuechele and vultilion (Flickr); the others
come with scikit-image, whose documentation (skimage.data) says where each is from."""


def write_card(folder: Path, results: Path | None = None, name: str | None = None) -> Path:
    """Write the card of the export in ``folder`` beside it; ``results``: a result file about it.

    ``name``: of the model, if not the folder's.

    Raises:
        ValueError: the export is damaged, or the result file is about other weights.
    """
    about, weights = read_export(folder)
    own, measured = fingerprint(weights), None
    if results is not None:
        measured = json.loads(results.read_text())
        if (of := measured["figures"]["model"]["fingerprint"]) != own:
            raise ValueError(
                f"{results.name} is about weights {of} and {folder} holds {own}; measure these: "
                f"python benchmarks/measure_reference.py {name or folder.name}."
            )
    count = sum(value.numel() for value in weights.values())
    text = card(name or folder.name, about, count, measured)
    write_whole(folder / CARD, text.encode())
    return folder / CARD


def card(name: str, about: Mapping[str, Any], num_parameters: int, measured: Mapping | None) -> str:
    """The text. ``about``: config.json of an export; ``measured``: a result file, parsed."""
    data = ModelCardData(
        license=LICENSE, library_name="lras", tags=["optical-flow", "video", "lras"]
    )
    shape, note = about["predictor"], about["note"]
    side, patch = shape["image_size"], shape["patch_px"]
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {name}",
        f"A small LRAS next-frame predictor and its quantizer: {side}x{side}-px frames, patches of "
        f"{patch} px,\n{shape['num_codes']:,} codes, {num_parameters:,} numbers in all. Optical "
        "flow is read out of it by KL-tracing;\nit was never shown a flow label.",
        "```\n"
        f"python eval.py ckpt=checkpoints/{name} task=synthetic scene=hard   # scores\n"
        f"python eval.py ckpt=checkpoints/{name} task=pair task.frame0=a.png task.frame1=b.png\n"
        "```",
        "## How it was made\n\n" + _making([*note.get("made_from", []), note]),
        "## What it can do\n\n" + _scores(name, measured),
        "## Limits\n\n" + _limits(about, note),
        "## License and credit\n\n" + _license(),
    ]
    return "\n\n".join(sections) + "\n"


def _making(parts: Sequence[Mapping[str, Any]]) -> str:
    heads = [f"part {number} (RUN{number})" for number in range(1, len(parts) + 1)]
    heads = heads if len(parts) > 1 else ["training"]
    rows = {
        "command": [f"`{part['command']}`" for part in parts],
        "code": [part.get("git_sha") for part in parts],
        "data": [part.get("data") for part in parts],
        "training tokens": [_count(part.get("tokens")) for part in parts],
        "optimizer steps": [_count(part.get("step")) for part in parts],
        "minutes": [_minutes(part) for part in parts],
        "machine": [_machine(part.get("machine")) for part in parts],
        "seed": [part.get("seed") for part in parts],
        "begun": [part.get("date") for part in parts],
    }
    return _table(["", *heads], [[name, *cells] for name, cells in rows.items()])


def _scores(name: str, measured: Mapping | None) -> str:
    command = f"`python benchmarks/measure_reference.py {name}`"
    if measured is None:
        return f"Not measured yet: {command} does it."
    sets = measured["figures"]["sets"]
    rows = []
    for label, found in sets.items():
        best = {_short(each): row for each, row in reversed(found["tracers"].items())}
        cells = [_score(best, each) for each in SHOWN]
        rows.append([f"{label}: {found['points']} points", *cells, f"{found['floor_px']:.2f}"])
    table = _table(["EPE, px", *SHOWN.values(), "read-out floor"], rows)
    how = "\n".join(f"- {label}: {found['protocol']}" for label, found in sets.items())
    seeds = ", ".join(map(str, measured["seeds"]))
    about = f"{command}, commit {measured['git_sha']}, {_machine(measured['machine'])}; one trained"
    about += f" model, evaluation\nseed {seeds}. [95 % interval]: whole frame pairs or videos are "
    about += "drawn. Paired differences and controls:"
    return f"{about}\n`benchmarks/results/reference_{name}.json`.\n\n{table}\n\n{how}"


def _short(tracer: str) -> str:
    """A column's name: the size that a model saw goes, and frames as they are count as native.

    >>> _short("kl@64x64"), _short("dis@native"), _short("farneback"), _short("dis@64x64")
    ('kl', 'dis@native', 'farneback@native', 'dis@64x64')
    """
    name, _, size = tracer.partition("@")
    if name in ("dis", "farneback"):
        return f"{name}@{size or 'native'}"
    return name


def _score(rows: Mapping[str, Mapping], name: str) -> str:
    if name not in rows:
        return "-"
    low, high = rows[name]["epe_ci95_px"]
    return f"{rows[name]['epe_px']:.2f} [{low:.2f}, {high:.2f}]"


def _limits(about: Mapping[str, Any], note: Mapping[str, Any]) -> str:
    side = about["predictor"]["image_size"]
    parts = [*note.get("made_from", []), note]
    lines = [
        f"Frames are squeezed to {side}x{side} px: of large frames, small motion is lost. "
        "`tracer.zoom.scales=3` looks again at enlarged crops.",
        "One training run: how much another seed would differ is not measured.",
        "Weights after the last step: no step was chosen by its error. Where the run was chosen "
        "among others, docs/reference.md says by what.",
        "Small, for trying out the method and for tests. Whether it is an estimator of flow to "
        "use, the columns of DIS say.",
    ]
    told = [str(part.get("data", "")) for part in parts]
    if all(each.startswith("synthetic scenes") and "clips" not in each for each in told):
        lines.insert(0, "Trained on synthetic scenes alone; no real frame was ever seen.")
    return "\n".join(f"- {line}" for line in lines)


def _license() -> str:
    photos = ", ".join(Path(name).stem for names in TRAINING_PHOTOS.values() for name in names)
    return (
        "Weights: MIT, as the code. No image is in them or beside them. Textures of the training "
        f"scenes are\nprocedural noise, made here, and crops of photographs ({photos}).\n"
        f"{PHOTO_CREDIT}"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [head, ["---"] * len(head), *rows]
    said = [[NOT_STATED if each is None else str(each) for each in row] for row in cells]
    escaped = [[each.replace("|", "\\|") for each in row] for row in said]
    return "\n".join(f"| {' | '.join(row)} |" for row in escaped)


def _count(number: int | None) -> str | None:
    return None if number is None else f"{number:,}"


def _minutes(part: Mapping[str, Any]) -> str | None:
    if "seconds" not in part:
        return None
    last = " (of the last of several goes)" if part.get("goes", 1) > 1 else ""
    return f"{part['seconds'] / 60:.0f}{last}"


def _machine(machine: Mapping[str, Any] | None) -> str | None:
    if not machine:
        return None
    device = machine.get("gpu") or f"{machine['cores']} cores of {machine['cpu']}"
    return f"{device}, torch {machine['torch']}"
