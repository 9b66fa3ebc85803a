"""Folders of two frames and their flow, the plainest data set there is.

Each folder holds frame0.png, frame1.png and flow.flo, and optionally valid.png (above 127 = use)
and occluded.png (above 127 = in view in frame 0, hidden in frame 1).
"""

from collections.abc import Iterator
from pathlib import Path

from data.readers.pair_files import PairFiles, read_pair
from data.types import FlowPair

NEEDED = ("frame0.png", "frame1.png", "flow.flo")


def read_flow_pairs(root: str | Path) -> Iterator[FlowPair]:
    """The pairs of every folder right below ``root``, sorted by name, read one at a time.

    Raises:
        ValueError: as ``find_flow_pairs`` at once, as ``read_flow_pair`` while iterating.
    """
    return map(read_flow_pair, find_flow_pairs(root))


def find_flow_pairs(root: str | Path) -> list[Path]:
    """Folders right below ``root`` with a frame0.png.

    Raises:
        ValueError: there is no such folder, or none with a pair in it.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"no folder {root}; pass one that holds folders of flow pairs.")
    folders = sorted(path.parent for path in root.glob("*/frame0.png"))
    if not folders:
        raise ValueError(
            f"{root} holds no flow pair; each needs a folder of its own with {', '.join(NEEDED)}."
        )
    return folders


def read_flow_pair(folder: str | Path) -> FlowPair:
    """One pair; its name is the folder's.

    Raises:
        ValueError: as ``read_pair``.
    """
    return read_pair(pair_files(folder))


def folder_pairs(root: str | Path | None) -> list[PairFiles]:
    """The pairs right below ``root``, as a data set of flow.

    Raises:
        ValueError: no folder is named, or as ``find_flow_pairs``.
    """
    if root is None:
        raise ValueError("task=flow_pairs needs a folder of pairs: pass task.root=DIR.")
    return [pair_files(folder) for folder in find_flow_pairs(root)]


def pair_files(folder: str | Path) -> PairFiles:
    """The files of one folder."""
    folder = Path(folder)
    frame0, frame1, flow = (folder / name for name in NEEDED)
    usable, occluded = (_if_there(folder / name) for name in ("valid.png", "occluded.png"))
    return PairFiles(
        name=folder.name,
        frame0=frame0,
        frame1=frame1,
        flow=flow,
        usable=usable,
        occluded=occluded,
    )


def _if_there(path: Path) -> Path | None:
    return path if path.is_file() else None
