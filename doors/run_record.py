"""``record.json``: by which code, versions, data and seed a run was made, part after part."""

import hashlib
import json
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fsspec
from omegaconf import DictConfig, OmegaConf

from doors.loggers.metrics_csv import written_whole

RECORD = "record.json"
# What takes part in the numbers of a run; photos of the last two become textures.
PACKAGES = (
    "torch", "lightning", "timm", "numpy", "einops", "webdataset", "av", "opencv-python-headless",
    "hydra-core", "scikit-image", "scikit-learn",
)  # fmt: skip


def write_record(
    cfg: DictConfig, out: Path, origin: dict[str, Any], from_step: int
) -> dict[str, Any]:
    """Add this part of the run to its record; what it says of the part.

    ``origin`` is that of ``provenance``: command, git sha, seed, date, machine. The config that the
    part is run with stands beside it, in ``config/``.
    """
    config = json.dumps(OmegaConf.to_container(cfg, resolve=True), sort_keys=True, default=str)
    part = {"from_step": from_step} | origin
    part |= {"slurm_job": os.environ.get("SLURM_JOB_ID")}
    part |= {"versions": versions(), "data_sha256": data_hash(cfg), "config_sha256": sha256(config)}
    path = out / RECORD
    parts = json.loads(path.read_text()) if path.is_file() else []
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps([*parts, part], indent=1) + "\n")
    return part


def slurm_job_of(run: Path) -> str | None:
    """The job of SLURM that last worked on a run; None where none did, or nobody noted it."""
    try:
        return json.loads((run / RECORD).read_text())[-1].get("slurm_job")
    except (OSError, ValueError, LookupError, AttributeError):
        return None


def data_hash(cfg: DictConfig) -> str:
    """Of clips their indices, which hold a checksum of every shard; of scenes what makes them.

    Where the data lie does not count, nor by how many processes they are drawn.
    """
    plain = OmegaConf.to_container(cfg.data, resolve=True)
    roots = plain.pop("root", None) or []
    for name in ("streams", "num_workers", "batch_size"):
        plain.pop(name, None)
    whole = json.dumps(plain, sort_keys=True, default=str) + f" seed {cfg.seed}"
    every = [roots] if isinstance(roots, str) else roots
    return sha256(whole, *(text for root in every for text in _indices(str(root))))


def _indices(root: str) -> Iterator[str]:
    """``index.json`` of the splits that are there; a root may be a URL."""
    for split in ("train", "val"):
        try:
            with fsspec.open(f"{root}/{split}/index.json", "r") as file:
                yield file.read()
        except FileNotFoundError:
            continue


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def sha256(*texts: str) -> str:
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()
