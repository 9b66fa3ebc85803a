"""HD1K: streets in 2560x1080 with flow in KITTI's format."""

from pathlib import Path

from data.readers.flow_sets.numbers import beside
from data.readers.flow_sets.origin import Origin
from data.readers.pair_files import PairFiles, check_names

ORIGIN = Origin(
    title="HD1K",
    task="hd1k",
    files="hd1k_input.zip and hd1k_flow_gt.zip",
    page="http://hci-benchmark.org",
    licence="terms and sizes stand there",
    holds="hd1k_input/ and hd1k_flow_gt/",
)


def hd1k_pairs(root: str | Path | None) -> list[PairFiles]:
    """Pairs of hd1k_input/image_2/000000_0000.png and the next, hd1k_flow_gt/flow_occ beside them.

    The flow of a sequence's last frame, which has no next one, is left out.

    Raises:
        ValueError: the data set is not there or laid out otherwise.
    """
    top = ORIGIN.root(root)
    frames = ORIGIN.folder(top, "hd1k_input/image_2")
    flows = ORIGIN.folder(top, "hd1k_flow_gt/flow_occ")
    found = ORIGIN.some(flows.glob("*_*.png"), flows, "000000_0000.png")
    last = {flow.stem.rpartition("_")[0]: flow for flow in found}  # sorted: the last one stays
    pairs = []
    for flow in found:
        frame0 = frames / flow.name
        frame1 = beside(frame0, 1)
        if flow in last.values() and not frame1.is_file():
            continue
        pairs.append(PairFiles(name=flow.stem, frame0=frame0, frame1=frame1, flow=flow))
    return list(check_names(pairs))
