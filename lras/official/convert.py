"""A published checkpoint as an export of ours. Weights stay where they lie, in the mapped file."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from lras.export_files import check_folder, write_export
from lras.lpq import LPQ
from lras.official.files import OfficialFile, read_official
from lras.official.names import predictor_config, quantizer_config, quantizer_to_ours, to_ours


def our_export(official: OfficialFile) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and weights of an export; the weights are views of the published file.

    The published cfg is kept with every value in ``note``, so that the way back loses nothing.
    """
    note = {"official": {official.kind: dict(official.cfg)}, "from": official.path.name}
    if official.kind == "predictor":
        cfg = predictor_config(official.cfg)
        weights = dict(to_ours(official.weights, cfg.num_layers))
        return {"predictor": dataclasses.asdict(cfg), "note": note}, weights
    quantizer = LPQ(quantizer_config(official.cfg))
    weights = dict(quantizer_to_ours(official.weights))
    quantizer.load_state_dict(weights)
    about = {"quantizer": dataclasses.asdict(quantizer.cfg)}
    return about | {"fingerprint": quantizer.fingerprint(), "note": note}, weights


def convert(
    path: str | Path,
    out: str | Path,
    quantizer: str | Path | None = None,
    max_shard: int | str = "5GB",
) -> Path:
    """Write a published predictor or quantizer as an export, or both as one.

    Holds no weights in memory: they go from the mapped file to the export tensor by tensor, in the
    file's own dtype; shards of at most ``max_shard`` (bytes, or as ``5GB``).

    Raises:
        FileNotFoundError, ValueError: as ``read_official``; the two do not fit each other; ``out``
            is a file or somebody else's folder, or there is not enough room.
    """
    check_folder(Path(out))
    official = read_official(path, None if quantizer is None else "predictor")
    about, weights = our_export(official)
    if quantizer is not None:
        other, its_weights = our_export(read_official(quantizer, "quantizer"))
        _check_fit(about["predictor"], other["quantizer"], path, quantizer)
        weights = {f"predictor.{name}": value for name, value in weights.items()}
        weights |= {f"quantizer.{name}": value for name, value in its_weights.items()}
        kept = about["note"]["official"] | other["note"]["official"]
        about = other | about | {"note": about["note"] | {"official": kept}}
    check_room(out, sum(value.nbytes for value in weights.values()))
    return write_export(out, about, weights, max_shard)


def check_room(out: str | Path, needed: int) -> None:
    """Raise ValueError where the disk below ``out`` has fewer than ``needed`` bytes left."""
    folder = next(
        part for part in (Path(out).absolute(), *Path(out).absolute().parents) if part.exists()
    )
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ValueError(
            f"{out} needs {needed / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB left; make "
            "room or name another folder."
        )


def _check_fit(
    predictor: dict[str, Any], quantizer: dict[str, Any], path: str | Path, other: str | Path
) -> None:
    mine = [predictor[name] for name in ("num_codes", "code_px")]
    its = [quantizer[name] for name in ("num_codes", "code_px")]
    if mine != its or quantizer["channels"] != 3:
        raise ValueError(
            f"{other} makes {its[0]} codes of {its[1]}-px cells from {quantizer['channels']} "
            f"channels, but {path} expects {mine[0]} of {mine[1]} px from RGB; pass the RGB "
            "quantizer it was trained with."
        )
