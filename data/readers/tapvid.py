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
from typing import Any

import cv2
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
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


class TrackFile(Sequence[TrackSet]):
    """The videos of one pickle, each decoded anew whenever it is asked for.

    Raises:
        ValueError: there is no such file, it is no pickle of arrays, names a foreign class, or an
            entry lacks a key or has arrays whose shapes do not go together.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        stored = read_pickle(path)
        if isinstance(stored, dict) and not set(NEEDED) <= set(stored):
            named = [(str(name), entry) for name, entry in stored.items()]
        elif isinstance(stored, list):
            named = [(f"video_{index:03d}", entry) for index, entry in enumerate(stored)]
        else:
            held = "a single video" if isinstance(stored, dict) else type(stored).__name__
            raise ValueError(f"{path} holds {held}; expected a dict or a list of videos.")
        if not named:
            raise ValueError(f"{path} holds no video; pass a file of tracks with at least one.")
        self.names = tuple(name for name, _ in named)
        self._entries = [_checked(entry, f"{path}, {name}") for name, entry in named]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> TrackSet:
        name = self.names[index]
        frames = _decode(self._entries[index][0], f"{self.path}, {name}")
        points, visible = self.tracks(index, (frames.shape[1], frames.shape[2]))
        frames = torch.from_numpy(rearrange(frames, "t h w c -> t c h w").copy())
        return TrackSet(points=points, visible=visible, frames=frames, name=name)

    def tracks(
        self, index: int, frame_hw: tuple[int, int]
    ) -> tuple[Float[Tensor, "points time 2"], Bool[Tensor, "points time"]]:
        """Points in px of frames of ``frame_hw`` and where they are visible; decodes no frame."""
        _, shares, visible = self._entries[index]
        points = shares * np.array([frame_hw[1], frame_hw[0]])
        return torch.from_numpy(points.astype(np.float32)), torch.from_numpy(visible)


def _checked(entry: Any, where: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """Video as stored, points as float64 shares (0 where hidden), visible."""
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
    return video, *_checked_points(points, occluded, where)


def _checked_points(
    points: np.ndarray, occluded: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray]:
    visible, shares = ~occluded, points.astype(np.float64)
    if not (np.abs(shares[visible]) <= MAX_SHARE).all():  # False for NaN too
        raise ValueError(
            f"{where}: visible points reach {np.abs(shares[visible]).max():.1f}; expected shares "
            "of width and height, from 0 to 1."
        )
    return np.where(visible[..., None], shares, 0.0), visible


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
