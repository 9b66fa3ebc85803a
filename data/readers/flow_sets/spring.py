"""Spring: a film in 1920x1080 with ground truth of twice that size, four vectors a pixel."""

from pathlib import Path

from data.readers.flow_sets.numbers import beside, parts
from data.readers.flow_sets.origin import Origin
from data.readers.pair_files import PairFiles, check_names

ORIGIN = Origin(
    title="Spring",
    task="spring",
    files="train_frame_left.zip (13 GB) and train_flow_FW_left.zip (about 44 GB)",
    page="https://spring-benchmark.org",
    licence="CC BY 4.0",
    holds="train/",
)
SIDES = ("left", "right")
STEPS = {"FW": 1, "BW": -1}  # direction -> frames to the other one


def spring_pairs(
    root: str | Path | None, side: str = "left", direction: str = "FW"
) -> list[PairFiles]:
    """Pairs of train/0001/frame_left/frame_left_0001.png and the next (BW: the one before).

    Their flow is train/0001/flow_FW_left/flow_FW_left_0001.flo5 (h5py reads it), in pixels of the
    frames though at twice their size.

    Raises:
        ValueError: the data set is not there or laid out otherwise, or a setting is not known.
    """
    ORIGIN.one_of("side", side, SIDES)
    ORIGIN.one_of("direction", direction, tuple(STEPS))
    train = ORIGIN.folder(ORIGIN.root(root), "train")
    own = f"flow_{direction}_{side}"
    pattern = f"*/{own}/{own}_*.flo5"
    pairs = []
    for flow in ORIGIN.some(train.glob(pattern), train, f"0001/{own}/{own}_0001.flo5"):
        scene, number = flow.parents[1], parts(flow.stem)[1]
        frame0 = scene / f"frame_{side}" / f"frame_{side}_{number}.png"
        pairs.append(
            PairFiles(
                name=f"{scene.name}_{direction}_{side}_{number}",
                frame0=frame0,
                frame1=beside(frame0, STEPS[direction]),
                flow=flow,
                finer=2,
            )
        )
    return list(check_names(pairs))
