"""The published sets of point tracks by name: what they are made of, where they come from.

Readers of whole sets: one pickle, a folder of pickles of which one at a time is in memory, or the
frozen Kubric files of ``data.kubric``.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor

from data.readers.kubric import KubricTracks
from data.readers.tapvid import TrackFile, TrackSource
from data.types import TrackSet

ANNOTATIONS = "annotations CC BY 4.0, the videos belong to their makers"
BUCKET = "https://storage.googleapis.com/dm-tapnet"
PAGE = "https://github.com/google-deepmind/tapnet/tree/main/tapnet/tapvid"


@dataclass(frozen=True, kw_only=True)
class TrackSetRecord:
    """One published set: everything a user without it must know."""

    name: str
    title: str
    files: tuple[str, ...]  # names in its folder; one file may also be named itself
    num_videos: int | None  # as published; None where no source says
    get: str  # what to do to have it, and from where
    page: str
    size: str
    licence: str
    path: str  # what to type behind task.path=

    def missing(self, what: str) -> str:
        """One sentence for a user who does not have the set, or not all of it."""
        return (
            f"task.dataset={self.name}: {what}; {self.get} (page: {self.page}, size: {self.size}, "
            f"licence: {self.licence}), put it anywhere and type task.dataset={self.name} "
            f"task.path={self.path}"
        )


_UNSTATED = "not stated there"
RECORDS = {
    record.name: record
    for record in (
        TrackSetRecord(
            name="davis",
            title="TAP-Vid-DAVIS",
            files=("tapvid_davis.pkl",),
            num_videos=30,
            get=f"download and unzip {BUCKET}/tapvid_davis.zip",
            page=PAGE,
            size="not stated there, 1.2 MB for each frame once unpacked",
            licence=ANNOTATIONS,
            path="FOLDER/tapvid_davis.pkl",
        ),
        TrackSetRecord(
            name="rgb_stacking",
            title="TAP-Vid-RGB-Stacking",
            files=("tapvid_rgb_stacking.pkl",),
            num_videos=50,
            get=f"download and unzip {BUCKET}/tapvid_rgb_stacking.zip",
            page=PAGE,
            size=_UNSTATED,
            licence=ANNOTATIONS,
            path="FOLDER/tapvid_rgb_stacking.pkl",
        ),
        TrackSetRecord(
            name="kinetics",
            title="TAP-Vid-Kinetics",
            files=tuple(f"{shard:04d}_of_0010.pkl" for shard in range(10)),
            num_videos=1000,
            get=f"unzip the labels of {BUCKET}/tapvid_kinetics.zip, get the validation clips of "
            "Kinetics-700-2020 and join the two with generate_tapvid.py of the page",
            page=PAGE,
            size=_UNSTATED,
            licence=ANNOTATIONS,
            path="FOLDER (of the ten .pkl files)",
        ),
        TrackSetRecord(
            name="kinetics_sampled",
            title="30 videos of TAP-Vid-Kinetics, as Opt-CWM drew them",
            files=("tapvid_kinetics_sampled.pkl",),
            num_videos=30,
            get="download https://storage.googleapis.com/tapvid_pickles/tapvid_kinetics_sampled.pkl",
            page="https://github.com/neuroailab/Opt_CWM",
            size=_UNSTATED,
            licence=ANNOTATIONS,
            path="FOLDER/tapvid_kinetics_sampled.pkl",
        ),
        TrackSetRecord(
            name="robotap",
            title="RoboTAP",
            files=tuple(f"robotap_split{split}.pkl" for split in range(5)),
            num_videos=None,
            get=f"download and unzip {BUCKET}/robotap/robotap.zip",
            page=PAGE,
            size=_UNSTATED,
            licence="see the README in the archive",
            path="FOLDER (of the five .pkl files)",
        ),
        TrackSetRecord(
            name="kubric",
            title="Kubric MOVi-E validation with frozen queries",
            files=("index.json",),
            num_videos=250,
            get="make it with python -m data.kubric make gs://kubric-public/tfds FOLDER",
            page="https://github.com/google-research/kubric/tree/main/challenges/point_tracking",
            size="1.2 GB of frames before compression",
            licence="Apache-2.0 code; see the page for the data",
            path="FOLDER",
        ),
    )
}
DATASETS = ("file", *RECORDS)


def open_tracks(dataset: str, path: str | Path | None) -> TrackSource:
    """The videos of a set: ``file`` is any pickle, the others are checked to be all there.

    Raises:
        ValueError: there is no such set; no path; files are missing, or are not what they must be.
    """
    if dataset not in DATASETS:
        raise ValueError(
            f"task.dataset={dataset!r} is not known; use one of {', '.join(DATASETS)}."
        )
    if dataset == "file":
        if path is None:
            known = ", ".join(RECORDS)
            raise ValueError(
                "task=tapvid needs a file of tracks: pass task.path=FILE.pkl, or "
                f"task.dataset={{{known}}} to be told where to get one."
            )
        return TrackFile(path)
    record = RECORDS[dataset]
    files = _found(record, None if path is None else Path(path))
    if dataset == "kubric":
        return KubricTracks(files[0].parent)
    return TrackFile(files[0]) if len(files) == 1 else TrackShards(files)


def _found(record: TrackSetRecord, path: Path | None) -> list[Path]:
    """The files of a set, in order."""
    if path is None:
        raise ValueError(record.missing("no task.path is given"))
    if len(record.files) == 1 and path.is_file() and record.name != "kubric":
        return [path]
    if not path.is_dir():
        raise ValueError(record.missing(f"{path} is not there"))
    # As the archive unpacks: a folder named like the file.
    nested = path / Path(record.files[0]).stem
    folder = nested if (nested / record.files[0]).is_file() else path
    missing = [name for name in record.files if not (folder / name).is_file()]
    if missing:
        raise ValueError(record.missing(f"{folder} lacks {', '.join(missing)}"))
    beyond = [
        found.name
        for found in sorted(folder.glob("*.pkl"))
        if found.name not in record.files and _alike(found.name, record.files[0])
    ]
    if beyond:
        raise ValueError(
            f"{folder} holds {', '.join(beyond)} besides the {len(record.files)} files of "
            f"{record.title}; two copies may be mixed there, so keep only the latter."
        )
    return [folder / name for name in record.files]


def _alike(name: str, pattern: str) -> bool:
    """Whether two names differ in their numbers only."""
    return re.sub(r"\d+", "0", name) == re.sub(r"\d+", "0", pattern)


class TrackShards(Sequence[TrackSet]):
    """The videos of several pickles, in order; one pickle at a time is in memory.

    Every file is read once for its tracks, which are kept, and again when its videos are asked
    for. Videos of lists are numbered through.

    Raises:
        ValueError: as ``TrackFile`` for any of them; two files hold a video of one name.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files, self.path = tuple(files), files[0].parent
        self._annotated, self._where = [], []
        names: list[str] = []
        for path in self.files:
            file = TrackFile(path, first_number=len(names))
            twice = set(names) & set(file.names)
            if twice:
                raise ValueError(
                    f"{path} holds the video {min(twice)}, as an earlier file does; unpack the "
                    "archive again into an empty folder."
                )
            self._where += [(path, len(names), index) for index in range(len(file))]
            self._annotated += file.annotated
            names += file.names
            del file  # before the next one is read
        self.names = tuple(names)
        self._open: TrackFile | None = None

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> TrackSet:
        path, first_number, inside = self._where[index]
        if self._open is None or self._open.path != path:
            self._open = None  # its memory is free before the next one is read
            self._open = TrackFile(path, first_number)
        return self._open[inside]

    def tracks(
        self, index: int, frame_hw: tuple[int, int]
    ) -> tuple[Float[Tensor, "points time 2"], Bool[Tensor, "points time"]]:
        """Points in px of frames of ``frame_hw`` and where they are visible; reads no file."""
        return self._annotated[index].at(frame_hw)

    def queries(self, index: int, frame_hw: tuple[int, int]) -> None:
        """None: these files give tracks alone."""


def files_sha256(files: Sequence[Path]) -> str:
    """Hash of the names and contents of files, in their order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(path.name.encode() + b"\0" + content)
    return digest.hexdigest()
