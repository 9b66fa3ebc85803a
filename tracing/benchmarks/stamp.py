"""What a result must carry so that it can be compared: protocol, coverage, code, data, speed."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

METRICS = Path(__file__).resolve().parents[1] / "metrics"


def stamp_of(
    results: Mapping[str, Any],
    *,
    tracer: str,
    data: list[dict[str, str]],
    wall_seconds: float,
    points_per_second: Mapping[str, float | None],
    per_point: Mapping[str, float | None],
) -> dict[str, Any]:
    """The stamp of results that are complete but for it, JSON-ready; null where nobody knows.

    Args:
        tracer: the chosen one, as its row is called.
        data: ``data_files``.
        points_per_second: by tracer, of the wall time inside it.
        per_point: ``forwards`` and ``tokens`` of the chosen tracer, as far as they are known.
    """
    dataset, protocol = results["dataset"], results["protocol"]
    traced = protocol.get("tracer_config", {}) if _is_model_tracer(tracer) else {}
    zoom = protocol.get("zoom", {}) if traced else {}
    row = next(row for row in results["tracers"] if row["name"] == tracer)
    return {
        "protocol_id": protocol_id(results["task"], dataset),
        "query_mode": dataset.get("query_mode"),
        "resolution_hw": dataset["resolution_hw"],
        "input_hw": dataset.get("input_hw"),
        "tracer": tracer,
        "masks": traced.get("num_masks"),
        "scales": zoom.get("scales"),
        "read_out": traced.get("read_out"),
        "reveal_ratio": traced.get("reveal_ratio"),
        "occlusion_threshold": row.get("occlusion", {}).get("thresholds")
        or traced.get("occlusion_threshold"),
        "occlusion_split": row.get("occlusion", {}).get("split"),
        "num_videos": dataset.get("num_videos"),
        "num_pairs": dataset["num_pairs"],
        "num_points": dataset["num_points"],
        "coverage": results["coverage"]["share"],
        "seed": results["provenance"]["seed"],
        "checkpoint": protocol.get("fingerprint"),
        "git_sha": results["provenance"]["git_sha"],
        "metrics_sha256": metrics_hash(),
        "data": data,
        "floor": results["floor"],
        "forwards_per_point": per_point.get("forwards"),
        "tokens_per_point": per_point.get("tokens"),
        "wall_seconds": wall_seconds,
        "points_per_second": dict(points_per_second),
    }


def protocol_id(task: str, dataset: Mapping[str, Any]) -> str:
    """Short name of what was asked and how errors are measured, such as tapvid/first/256x256."""
    size = "{}x{}".format(*dataset["resolution_hw"]) if dataset["resolution_hw"] else "native"
    mode = dataset.get("query_mode")
    return "/".join([task, *([mode] if mode else []), size])


def data_files(about: Mapping[str, Any]) -> list[dict[str, str]]:
    """Hash of the file or folder that a task's ``about`` names; empty where nothing is read.

    A file is hashed by its content. A folder is by the names and sizes of its files: it may hold
    hundreds of gigabytes, and the frames that are asked about are hashed one by one anyway.
    """
    if (known := about.get("data_sha256")) is not None:
        return [{"file": str(about.get("path", about.get("root"))), "sha256": known, "of": "data"}]
    where = about.get("path", about.get("root"))
    if where is None or not Path(where).exists():
        return []
    path = Path(where)
    if path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [{"file": path.name, "sha256": digest, "of": "content"}]
    listing = hashlib.sha256()
    for each in sorted(p for p in path.rglob("*") if p.is_file()):
        listing.update(f"{each.relative_to(path)}\0{each.stat().st_size}\n".encode())
    return [{"file": path.name, "sha256": listing.hexdigest(), "of": "names and sizes"}]


def metrics_hash() -> str:
    """Hash of the code that turns answers into scores."""
    digest = hashlib.sha256()
    for path in sorted(METRICS.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _is_model_tracer(name: str) -> bool:
    return name.split("@")[0].startswith(("kl", "rgb"))
