"""KITTI 2015 and 2012: driving, with sparse flow from laser scans."""

from pathlib import Path

from data.readers.flow_sets.numbers import beside
from data.readers.flow_sets.origin import Origin
from data.readers.pair_files import PairFiles, check_names

LICENCE = "CC BY-NC-SA 3.0; registration asked for"
KITTI_2015 = Origin(
    title="KITTI 2015",
    task="kitti15",
    files="the stereo 2015 / flow 2015 / scene flow 2015 set, data_scene_flow.zip (2 GB)",
    page="https://www.cvlibs.net/datasets/kitti/eval_scene_flow.php?benchmark=flow",
    licence=LICENCE,
    holds="training/image_2 and training/flow_occ",
)
KITTI_2012 = Origin(
    title="KITTI 2012",
    task="kitti12",
    files="the stereo / optical flow set, data_stereo_flow.zip (2 GB)",
    page="https://www.cvlibs.net/datasets/kitti/eval_stereo_flow.php?benchmark=flow",
    licence=LICENCE,
    holds="training/colored_0 (or image_0) and training/flow_occ",
)


def kitti15_pairs(root: str | Path | None) -> list[PairFiles]:
    """The 200 training pairs: training/image_2/000000_10.png, _11.png, flow_occ/000000_10.png.

    ``visible`` is what ``flow_noc`` knows; None without that folder.

    Raises:
        ValueError: the data set is not there or laid out otherwise.
    """
    return _pairs(KITTI_2015, root, ["training/image_2"])


def kitti12_pairs(root: str | Path | None) -> list[PairFiles]:
    """The 194 training pairs, as ``kitti15_pairs``; in color, or in gray where only that is there.

    Raises:
        ValueError: as ``kitti15_pairs``.
    """
    return _pairs(KITTI_2012, root, ["training/colored_0", "training/image_0"])


def _pairs(origin: Origin, root: str | Path | None, images: list[str]) -> list[PairFiles]:
    top = origin.root(root)
    frames = origin.folder(top, *images)
    flows = origin.folder(top, "training/flow_occ")
    seen = top / "training" / "flow_noc"
    pairs = []
    for flow in origin.some(flows.glob("*_10.png"), flows, "000000_10.png"):
        frame0 = frames / flow.name
        pairs.append(
            PairFiles(
                name=flow.stem,
                frame0=frame0,
                frame1=beside(frame0, 1),
                flow=flow,
                seen_flow=seen / flow.name if seen.is_dir() else None,
            )
        )
    return list(check_names(pairs))
