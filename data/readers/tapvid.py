"""Point tracks in the pickles of TAP-Vid: DAVIS, RGB-Stacking, Kinetics and files laid out so.

A dict ``name -> video`` or a list of videos; each video is a dict of

* ``video``: uint8 (time, height, width, 3), or ``time`` JPEG files as bytes;
* ``points``: (points, time, 2), (x, y) as shares of width and height, 0 at the left or top border;
* ``occluded``: bool (points, time).

Source:
    Doersch et al. 2022, TAP-Vid, whose points are on the raster that ours are on.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from data.readers.pickles import read_pickle
from data.types import TrackSet

NEEDED = ("video", "points", "occluded")
MAX_SHARE = 2.0  # a visible point further out than twice the frame was not stored as a share


def read_tracks(path: str | Path) -> Iterator[TrackSet]:
    """The videos of a pickle in the order of the file, decoded one at a time.

    Points are in raster pixels of the stored frames. Videos of a list are named video_000, ...

    Raises:
        ValueError: as ``TrackFile`` at once; a frame that cannot be decoded while iterating.
    """
    return iter(TrackFile(path))


class GivenQueries(NamedTuple):
    """Where tracking of each point starts, where that is part of the data."""

    frame: Int[Tensor, " points"]
    xy: Float[Tensor, "points 2"]  # px


@runtime_checkable
class TrackSource(Protocol):
    """Videos with tracks on disk, of which at most a file's worth is in memory."""

    path: Path
    files: tuple[Path, ...]
    names: tuple[str, ...]  # of the videos, all different, without a slash

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> TrackSet: ...

    def tracks(
        self, index: int, frame_hw: tuple[int, int]
    ) -> tuple[Float[Tensor, "points time 2"], Bool[Tensor, "points time"]]:
        """Points in px of frames of ``frame_hw`` and where they are visible; decodes no frame."""
        ...

    def queries(self, index: int, frame_hw: tuple[int, int]) -> GivenQueries | None:
        """The queries given with the tracks, one a point, if there are any."""
        ...


class Tracks(NamedTuple):
    """The annotations of one video, as shares of width and height; 0 where hidden."""

    shares: np.ndarray  # float64 (points, time, 2)
    visible: np.ndarray  # bool (points, time)

    def at(
        self, frame_hw: tuple[int, int]
    ) -> tuple[Float[Tensor, "points time 2"], Bool[Tensor, "points time"]]:
        """Points in px of frames of ``frame_hw`` and where they are visible."""
        points = self.shares * np.array([frame_hw[1], frame_hw[0]])
        return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(self.visible)


class TrackFile(Sequence[TrackSet]):
    """The videos of one pickle, each decoded anew whenever it is asked for.

    Args:
        first_number: that of the first video of a list; later files of a set go on counting.

    Raises:
        ValueError: there is no such file, it is no pickle of arrays, names a foreign class, or an
            entry lacks a key or has arrays whose shapes do not go together.
    """

    def __init__(self, path: str | Path, first_number: int = 0) -> None:
        self.path = Path(path)
        self.files = (self.path,)
        stored = read_pickle(path)
        if isinstance(stored, dict) and not set(NEEDED) <= set(stored):
            named = [(str(name).replace("/", "_"), entry) for name, entry in stored.items()]
        elif isinstance(stored, list):
            numbered = enumerate(stored, first_number)
            named = [(f"video_{index:03d}", entry) for index, entry in numbered]
        else:
            held = "a single video" if isinstance(stored, dict) else type(stored).__name__
            raise ValueError(f"{path} holds {held}; expected a dict or a list of videos.")
        if not named:
            raise ValueError(f"{path} holds no video; pass a file of tracks with at least one.")
        self.names = tuple(name for name, _ in named)
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"{path} holds two videos of one name; give each a name of its own.")
        checked = [_checked(entry, f"{path}, {name}") for name, entry in named]
        self._videos = [video for video, _ in checked]
        self.annotated = [tracks for _, tracks in checked]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> TrackSet:
        name = self.names[index]
        frames = _decode(self._videos[index], f"{self.path}, {name}")
        points, visible = self.tracks(index, (frames.shape[1], frames.shape[2]))
        frames = torch.from_numpy(rearrange(frames, "t h w c -> t c h w").copy())
        return TrackSet(points=points, visible=visible, frames=frames, name=name)

    def tracks(
        self, index: int, frame_hw: tuple[int, int]
    ) -> tuple[Float[Tensor, "points time 2"], Bool[Tensor, "points time"]]:
        """Points in px of frames of ``frame_hw`` and where they are visible; decodes no frame."""
        return self.annotated[index].at(frame_hw)

    def queries(self, index: int, frame_hw: tuple[int, int]) -> None:
        """None: these files give tracks alone."""


def _checked(entry: Any, where: str) -> tuple[Any, Tracks]:
    """Video as stored, and its annotations."""
    if not isinstance(entry, dict) or any(key not in entry for key in NEEDED):
        got = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(
            f"{where} holds {got or 'nothing'}; expected a dict of {', '.join(NEEDED)}."
        )
    video, points, occluded = (entry[key] for key in NEEDED)
    if not isinstance(points, np.ndarray) or points.dtype.kind != "f" or points.ndim != 3:
        raise ValueError(f"{where}: points are {_shape(points)}; expected float (points, time, 2).")
    if not isinstance(occluded, np.ndarray) or occluded.dtype != bool:
        raise ValueError(f"{where}: occluded is {_shape(occluded)}; expected bool (points, time).")
    if not isinstance(video, np.ndarray | list) or points.shape != (*occluded.shape, 2):
        raise ValueError(
            f"{where}: points are {_shape(points)} and occluded {_shape(occluded)}; expected "
            "(points, time, 2) beside (points, time)."
        )
    if len(video) != points.shape[1] or not len(video):
        raise ValueError(
            f"{where} has {len(video)} frames but tracks over {points.shape[1]}; they must agree."
        )
    if isinstance(video, np.ndarray) and video.dtype == np.uint8:
        if video.ndim != 4 or video.shape[3] != 3 or not video.size:
            raise ValueError(f"{where}: video is {_shape(video)}; expected (time, h, w, 3).")
    elif isinstance(video, np.ndarray) and (video.ndim != 1 or video.dtype.kind not in "OS"):
        raise ValueError(f"{where}: video is {_shape(video)}; expected uint8 pixels or JPEG bytes.")
    return video, _checked_points(points, occluded, where)


def _checked_points(points: np.ndarray, occluded: np.ndarray, where: str) -> Tracks:
    visible, shares = ~occluded, points.astype(np.float64)
    if not (np.abs(shares[visible]) <= MAX_SHARE).all():  # False for NaN too
        raise ValueError(
            f"{where}: visible points reach {np.abs(shares[visible]).max():.1f}; expected shares "
            "of width and height, from 0 to 1."
        )
    return Tracks(np.where(visible[..., None], shares, 0.0), visible)


def _decode(video: np.ndarray | list, where: str) -> np.ndarray:
    """uint8 (time, height, width, 3), RGB."""
    if isinstance(video, np.ndarray) and video.dtype == np.uint8:
        return video
    frames: list[np.ndarray] = []
    for index, stored in enumerate(video):
        frame = _decode_frame(stored)
        if frame is None:
            raise ValueError(f"{where}: frame {index} is not a readable picture; copy it again.")
        if frames and frame.shape != frames[0].shape:
            raise ValueError(
                f"{where}: frame {index} is {_shape(frame)}, the first {_shape(frames[0])}; "
                "the frames of a video must be of one size."
            )
        frames.append(frame)
    return np.stack(frames)


def _decode_frame(stored: Any) -> np.ndarray | None:
    if isinstance(stored, np.ndarray) and stored.dtype == np.uint8:
        return stored if stored.ndim == 3 and stored.shape[2] == 3 and stored.size else None
    if not isinstance(stored, bytes | bytearray) or not stored:
        return None
    return cv2.imdecode(np.frombuffer(stored, np.uint8), cv2.IMREAD_COLOR_RGB)


def _shape(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return type(value).__name__
