"""Read a folder of shards again, whole: is it what was written, and does every sample decode?"""

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import webdataset as wds
from rich.console import Console

from data.index import INDEX_NAME, read_index
from data.shard_index import Shard, ShardIndex
from data.tasks import SPLITS
from data.video import printable


@dataclass
class Report:
    """What was read, and one sentence for everything that is not as it should be."""

    shards: int = 0
    samples: int = 0
    problems: list[str] = field(default_factory=list)


def verify(out: str | Path, console: Console | None = None) -> Report:
    """Read every shard of ``out`` (holding train/ and perhaps val/, or an index itself).

    Checked: length and sha256 of every shard, that its samples lie where the index says and come
    from the videos it says, that every frame decodes to its size (tokens: that codes have their
    shape and type), that no key is there twice and that no frame is in both splits.

    Raises:
        ValueError: there is no readable index.
    """
    out, report = Path(out), Report()
    whole = out if (out / INDEX_NAME).is_file() else None
    folders = [whole] if whole else [out / s for s in SPLITS if (out / s / INDEX_NAME).is_file()]
    if not folders:
        raise ValueError(
            f"no {INDEX_NAME} in {printable(out)} or below; pass a folder whose ingest is finished."
        )
    console = console or Console(stderr=True, quiet=True)
    keys: set[str] = set()
    spans: dict[str, list[tuple[int, int, str]]] = {}
    for folder in folders:
        index = read_index(folder, check_shards=False)
        for number, shard in enumerate(index.shards):
            console.print(f"{folder.name}/{shard.name}", style="dim", markup=False)
            for problem in _shard_problems(folder, index, number, shard, keys, spans):
                report.problems.append(f"{printable(folder / shard.name)}: {problem}.")
            report.shards += 1
            report.samples += shard.samples
    report.problems += _shared_frames(spans)
    return report


def _shard_problems(
    folder: Path, index: ShardIndex, number: int, shard: Shard, keys: set[str], spans: dict
) -> Iterator[str]:
    path = folder / shard.name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if size != shard.bytes:
                yield f"has {size} bytes where the index says {shard.bytes}"
                return
            if digest != shard.sha256:
                yield "has another sha256 than the index says"
            offsets, sources = index.offsets_of(number), index.sources_of(number)
            for first, end, source in zip(offsets, offsets[1:], sources, strict=False):
                file.seek(int(first))
                sample, reason = _sample(file.read(int(end - first)))
                if reason:
                    yield f"at byte {first} {reason}"
                else:
                    yield from _sample_problems(index, folder.name, sample, source, keys, spans)
    except OSError as error:
        yield f"cannot be read ({error.strerror})"


def _sample(content: bytes) -> tuple[dict, str]:
    """The one sample that these bytes of a tar file hold, or why they do not."""
    stream: BinaryIO = io.BytesIO(content + bytes(1024))
    try:
        members = list(wds.tariterators.tar_file_iterator(stream))
    except Exception as error:  # whatever tarfile makes of bytes that are no tar
        return {}, f"is no sample ({error})"
    names = [name.partition(".") for name, _ in ((m["fname"], m["data"]) for m in members)]
    if len({key for key, _, _ in names}) != 1:
        return {}, f"are the files of {len({key for key, _, _ in names})} samples"
    files = {suffix: m["data"] for (_, _, suffix), m in zip(names, members, strict=True)}
    return {"__key__": names[0][0], **files}, ""


def _sample_problems(
    index: ShardIndex, split: str, sample: dict, source: str, keys: set[str], spans: dict
) -> Iterator[str]:
    key = sample["__key__"]
    if key in keys:
        yield f"{key} is there twice"
    keys.add(key)
    try:
        about = json.loads(sample["json"])
        start, length = about.get("start_frame", 0), about["num_frames"]
    except (KeyError, ValueError, TypeError) as error:
        yield f"{key} has no readable .json ({error})"
        return
    if about.get("source", "") != source:
        yield f"{key} is from {about.get('source')} where the index says {source}"
    spans.setdefault(source, []).append((start, start + length, split))
    if length != index.clip_frames:
        yield f"{key} has {length} frames where the index says {index.clip_frames}"
    if index.kind == "tokens":
        yield from _code_problems(index, key, sample, about)
    else:
        for t in range(length):
            if reason := _frame_problem(sample, t, index.size):
                yield f"{key} frame {t} {reason}"


def _frame_problem(sample: dict, t: int, size: int) -> str:
    encoded = sample.get(f"{t:03d}.jpg", sample.get(f"{t:03d}.png"))
    if encoded is None:
        return "is not there"
    pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        return "is no readable image"
    height, width = pixels.shape[:2]
    return "" if (height, width) == (size, size) else f"is {height}x{width} px, not {size}x{size}"


def _code_problems(index: ShardIndex, key: str, sample: dict, about: dict) -> Iterator[str]:
    try:
        codes = np.load(io.BytesIO(sample["codes.npy"]), allow_pickle=False)
    except (KeyError, ValueError, EOFError) as error:
        yield f"{key} has no readable codes ({error})"
        return
    if codes.dtype != np.uint16 or codes.ndim != 3 or len(codes) != index.clip_frames:
        what = f"{codes.dtype} {codes.shape}"
        yield f"{key} has codes of {what}, expected uint16 (frames, rows, cols)"
    num_codes = index.settings.get("num_codes")
    if num_codes is not None and codes.size and int(codes.max()) >= num_codes:
        yield f"{key} has code {int(codes.max())}, expected less than {num_codes}"
    if about.get("fingerprint") != index.fingerprint:
        yield f"{key} is of encoder {about.get('fingerprint')}, the index of {index.fingerprint}"


def _shared_frames(spans: dict[str, list[tuple[int, int, str]]]) -> Iterator[str]:
    """Videos of which a frame is in both splits."""
    for source, clips in spans.items():
        reach = {}
        for start, end, split in sorted(clips):
            others = [other for name, other in reach.items() if name != split]
            if others and start < max(others):
                yield f"frame {start} of {printable(source)} is in training and in validation."
                break
            reach[split] = max(end, reach.get(split, 0))
