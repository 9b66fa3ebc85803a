"""Middlebury 2007: eight pairs with dense flow, real and rendered."""

from pathlib import Path

from data.readers.flow_sets.origin import Origin
from data.readers.pair_files import PairFiles, check_names

ORIGIN = Origin(
    title="Middlebury",
    task="middlebury",
    files="other-color-twoframes.zip (or other-gray-twoframes.zip) and other-gt-flow.zip",
    page="https://vision.middlebury.edu/flow/data/",
    licence="no licence is stated",
    holds="other-data/ (or other-data-gray/) and other-gt-flow/",
)


def middlebury_pairs(root: str | Path | None) -> list[PairFiles]:
    """Pairs of other-data/<scene>/frame10.png, frame11.png with other-gt-flow/<scene>/flow10.flo.

    Flow above 1e9 is unknown.

    Raises:
        ValueError: the data set is not there or laid out otherwise.
    """
    top = ORIGIN.root(root)
    frames = ORIGIN.folder(top, "other-data", "other-data-gray")
    flows = ORIGIN.folder(top, "other-gt-flow")
    pairs = []
    for flow in ORIGIN.some(flows.glob("*/flow10.flo"), flows, "<scene>/flow10.flo"):
        scene = frames / flow.parent.name
        pairs.append(
            PairFiles(
                name=flow.parent.name,
                frame0=scene / "frame10.png",
                frame1=scene / "frame11.png",
                flow=flow,
            )
        )
    return list(check_names(pairs))
