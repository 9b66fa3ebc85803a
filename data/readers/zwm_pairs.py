"""Lists of single questions about tracks, as ZWM's evaluation reads them: ``dataset.json``.

A JSON list of dicts: ``uid`` "<video>_<query frame>,<video>_<target frame>,<point>";
``query_frame_file`` and ``target_frame_file`` "<video>/video/<frame>.png"; ``query_x_raster``,
``query_y_raster``, ``target_x_raster``, ``target_y_raster``, shares of width and height (the
target's 0 where it is hidden); ``occluded``, whether the target is hidden.

Source:
    Zero-shot World Models, the evaluation code of github.com/awwkl/ZWM.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.index import write_whole

_UID = re.compile(r"(?P<video>.+)_(?P<q>\d+),(?P<same>.+)_(?P<t>\d+),(?P<point>\d+)")
_PLACES = ("query_x_raster", "query_y_raster", "target_x_raster", "target_y_raster")


@dataclass(frozen=True, kw_only=True)
class ZwmPair:
    """Where is a point of ``query_frame`` in ``target_frame``? Places are shares (x, y)."""

    video: str
    query_frame: int
    target_frame: int
    point: int  # its row in the arrays of the video
    query: tuple[float, float]
    target: tuple[float, float]
    occluded: bool

    @property
    def uid(self) -> str:
        frames = f"{self.video}_{self.query_frame:03d},{self.video}_{self.target_frame:03d}"
        return f"{frames},{self.point:03d}"


def read_zwm_pairs(path: str | Path) -> list[ZwmPair]:
    """The questions of a file, in its order.

    Raises:
        ValueError: no such file, no JSON list of such dicts, or a uid that stands there twice.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} is not there; pass task.pairs=FILE, a dataset.json of ZWM.")
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is no readable JSON ({error}); copy the file again.") from error
    if not isinstance(stored, list) or not stored:
        held = f"{type(stored).__name__} of length {len(stored)}" if stored else "nothing"
        raise ValueError(f"{path} holds {held}; expected a list of dicts with uid and places.")
    pairs = [_pair(entry, f"{path}, entry {number}") for number, entry in enumerate(stored)]
    seen: set[str] = set()
    for pair in pairs:
        if pair.uid in seen:
            raise ValueError(f"{path} asks {pair.uid} twice; every uid may stand there once.")
        seen.add(pair.uid)
    return pairs


def _pair(entry: Any, where: str) -> ZwmPair:
    needed = ("uid", *_PLACES, "occluded")
    if not isinstance(entry, dict) or any(key not in entry for key in needed):
        got = ", ".join(map(str, entry)) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"{where} holds {got}; expected a dict of {', '.join(needed)}.")
    found = _UID.fullmatch(str(entry["uid"]))
    if found is None or found["video"] != found["same"]:
        raise ValueError(
            f"{where}: uid is {entry['uid']!r}; expected VIDEO_QUERYFRAME,VIDEO_TARGETFRAME,POINT "
            "with one video."
        )
    places = [entry[key] for key in _PLACES]
    if not all(isinstance(place, int | float) for place in places):
        raise ValueError(f"{where}: places are {places}; expected shares of width and height.")
    return ZwmPair(
        video=found["video"],
        query_frame=int(found["q"]),
        target_frame=int(found["t"]),
        point=int(found["point"]),
        query=(float(places[0]), float(places[1])),
        target=(float(places[2]), float(places[3])),
        occluded=bool(entry["occluded"]),
    )


def write_zwm_pairs(path: str | Path, pairs: Iterable[ZwmPair]) -> int:
    """Write the file whole; how many questions it holds."""
    entries = [
        {
            "query_frame_file": f"{pair.video}/video/{pair.query_frame:03d}.png",
            "target_frame_file": f"{pair.video}/video/{pair.target_frame:03d}.png",
            "query_y_raster": pair.query[1],
            "query_x_raster": pair.query[0],
            "target_y_raster": 0.0 if pair.occluded else pair.target[1],
            "target_x_raster": 0.0 if pair.occluded else pair.target[0],
            "occluded": pair.occluded,
            "uid": pair.uid,
        }
        for pair in pairs
    ]
    write_whole(Path(path), json.dumps(entries, indent=1).encode())
    return len(entries)
