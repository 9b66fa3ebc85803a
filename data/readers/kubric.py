"""Frozen point tracks of rendered videos: one .npz a video and an index that says their hashes.

A folder, written by ``python -m data.kubric make``, of

* ``index.json``: ``format`` (lras-kubric-tracks-1), ``source``, ``seed``, ``sha256`` of the set,
  and ``videos``: a list of ``name``, ``file`` and ``sha256`` of its arrays;
* ``<name>.npz`` without pickled objects: ``frames`` uint8 (time, height, width, 3); ``query_tyx``
  float32 (points, 3), frame number, then y and x in px; ``target_xy`` float32 (points, time, 2) in
  px; ``occluded`` bool (points, time).

Positions are on the raster of ``data.coords``. Queries start in any frame, not in the first one
that a point is visible in. Numbers of other draws from the same videos are not comparable.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from data.coords import rescale_points
from data.index import write_whole
from data.readers.tapvid import GivenQueries
from data.types import TrackSet

FORMAT = "lras-kubric-tracks-1"
INDEX_NAME = "index.json"
ARRAYS = {"frames": "u1", "query_tyx": "f4", "target_xy": "f4", "occluded": "b1"}  # in hash order


def arrays_sha256(arrays: dict[str, np.ndarray]) -> str:
    """Hash of the types, shapes and values of one video, whatever the compression of its file."""
    digest = hashlib.sha256()
    for name in ARRAYS:
        array = np.ascontiguousarray(arrays[name])
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{name} {array.dtype.kind}{array.itemsize} {array.shape}\0".encode())
        digest.update(little.tobytes())
    return digest.hexdigest()


def set_sha256(videos: Iterable[dict]) -> str:
    """Hash of a whole set from the names and hashes of its videos, in order."""
    lines = "".join(f"{video['name']} {video['sha256']}\n" for video in videos)
    return hashlib.sha256(lines.encode()).hexdigest()


def write_kubric_tracks(
    folder: Path, videos: Iterable[tuple[str, dict[str, np.ndarray]]], source: str, seed: int
) -> str:
    """Write a set, the index last; returns its hash.

    Raises:
        ValueError: the arrays of a video do not go together, or there is no video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for name, arrays in videos:
        check_arrays(arrays, name)
        content = io.BytesIO()
        np.savez_compressed(content, **{key: arrays[key] for key in ARRAYS})
        write_whole(folder / f"{name}.npz", content.getvalue())
        listed.append({"name": name, "file": f"{name}.npz", "sha256": arrays_sha256(arrays)})
    if not listed:
        raise ValueError(f"{source} gave no video, so nothing is written; check what it holds.")
    total = set_sha256(listed)
    index = {"format": FORMAT, "source": source, "seed": seed, "sha256": total, "videos": listed}
    write_whole(folder / INDEX_NAME, json.dumps(index, indent=1).encode())
    return total


def check_arrays(arrays: dict[str, np.ndarray], where: str) -> None:
    """Raise ValueError, in one sentence that begins with ``where``, if a video is not as above."""
    for name, kind in ARRAYS.items():
        if name not in arrays or arrays[name].dtype.str[1:] != kind:
            got = arrays[name].dtype if name in arrays else "nothing"
            raise ValueError(f"{where}: {name} is {got}; expected {np.dtype(kind)}.")
    frames, query, target, occluded = (arrays[name] for name in ARRAYS)
    points, time = len(query), len(frames)
    shapes = {name: array.shape for name, array in arrays.items() if name in ARRAYS}
    if (
        frames.ndim != 4
        or frames.shape[3] != 3
        or query.shape != (points, 3)
        or target.shape != (points, time, 2)
        or occluded.shape != (points, time)
    ):
        raise ValueError(f"{where}: shapes {shapes} do not go together; make the set again.")
    if not (np.isin(query[:, 0], np.arange(time)).all() and np.isfinite(query).all()):
        raise ValueError(
            f"{where}: queries are in frames {np.unique(query[:, 0]).tolist()}; expected whole "
            f"numbers from 0 to {time - 1}."
        )
    if not np.isfinite(target[~occluded]).all():
        raise ValueError(f"{where}: a visible target is no number; make the set again.")


class KubricTracks(Sequence[TrackSet]):
    """The videos of a folder, each read anew whenever it is asked for.

    Raises:
        ValueError: there is no index, it is of another format, or a file is missing; a damaged
            file when it is read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.index = _read_index(self.path / INDEX_NAME)
        self.names = tuple(video["name"] for video in self.index["videos"])
        self.files = tuple(self.path / video["file"] for video in self.index["videos"])
        missing = [file.name for file in self.files if not file.is_file()]
        if missing:
            raise ValueError(
                f"{self.path / INDEX_NAME} lists {missing[0]} and {len(missing) - 1} other files "
                "that are not there; copy or make the set again."
            )

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> TrackSet:
        frames, _, target, occluded = _read_arrays(self.files[index], tuple(ARRAYS))
        return TrackSet(
            points=_shown(target, occluded),
            visible=torch.from_numpy(~occluded),
            frames=torch.from_numpy(rearrange(frames, "t h w c -> t c h w").copy()),
            name=self.names[index],
        )

    def tracks(
        self, index: int, frame_hw: tuple[int, int]
    ) -> tuple[Float[Tensor, "points time 2"], Bool[Tensor, "points time"]]:
        """Points in px of frames of ``frame_hw`` and where they are visible."""
        target, occluded = _read_arrays(self.files[index], ("target_xy", "occluded"))
        points = rescale_points(_shown(target, occluded), self._stored_hw(index), frame_hw)
        return points, torch.from_numpy(~occluded)

    def queries(self, index: int, frame_hw: tuple[int, int]) -> GivenQueries:
        """The query of each point."""
        (query,) = _read_arrays(self.files[index], ("query_tyx",))
        xy = torch.from_numpy(query[:, [2, 1]].copy())
        frame = torch.from_numpy(query[:, 0].astype(np.int64))
        return GivenQueries(frame, rescale_points(xy, self._stored_hw(index), frame_hw))

    def verified(self) -> Iterator[tuple[str, bool]]:
        """Each video's name and whether its arrays are those that the index was written for."""
        for video, file in zip(self.index["videos"], self.files, strict=True):
            arrays = dict(zip(ARRAYS, _read_arrays(file, tuple(ARRAYS)), strict=True))
            yield video["name"], arrays_sha256(arrays) == video["sha256"]

    def _stored_hw(self, index: int) -> tuple[int, int]:
        """Size of a video's frames; reads the first bytes of the array alone."""
        with zipfile.ZipFile(self.files[index]) as archive, archive.open("frames.npy") as file:
            np.lib.format.read_magic(file)
            shape, _, _ = np.lib.format.read_array_header_1_0(file)
        return shape[1], shape[2]


def _shown(target: np.ndarray, occluded: np.ndarray) -> Float[Tensor, "points time 2"]:
    return torch.from_numpy(np.where(occluded[..., None], 0, target).astype(np.float32))


def _read_index(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"no {path.name} in {path.parent}; pass a folder of data.kubric.")
    try:
        index = json.loads(path.read_text())
        if index["format"] != FORMAT:
            raise ValueError(f"format {index['format']!r} instead of {FORMAT!r}")
        if set_sha256(index["videos"]) != index["sha256"]:
            raise ValueError("its videos are not those it was written for")
        if not index["videos"] or any(Path(v["file"]).name != v["file"] for v in index["videos"]):
            raise ValueError("it lists no video, or one outside its folder")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no index of frozen tracks ({error}); make it again."
        ) from error
    return index


def _read_arrays(path: Path, names: tuple[str, ...]) -> list[np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in names}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise ValueError(
            f"{path} is no readable .npz of tracks ({reason}); copy it again."
        ) from error
    if len(names) == len(ARRAYS):
        check_arrays(arrays, str(path))
    return [arrays[name] for name in names]
