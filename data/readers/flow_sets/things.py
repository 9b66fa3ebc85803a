"""FlyingThings3D, the whole (.pfm) or the subset of DispNet and FlowNet2 (.flo)."""

from pathlib import Path

from data.readers.flow_sets.numbers import beside, parts
from data.readers.flow_sets.origin import Origin
from data.readers.pair_files import PairFiles, check_names

PAGE = "https://lmb.informatik.uni-freiburg.de/resources/datasets/SceneFlowDatasets.en.html"
LICENCE = "for research only, no commercial use; sizes stand there"
WHOLE = Origin(
    title="FlyingThings3D",
    task="things",
    files="RGB images (cleanpass or finalpass) and optical flow of FlyingThings3D",
    page=PAGE,
    licence=LICENCE,
    holds="frames_cleanpass/ (or frames_finalpass/) and optical_flow/",
)
SUBSET = Origin(
    title="the FlyingThings3D subset",
    task="things_subset",
    files="RGB images and flow of the DispNet/FlowNet2.0 subset",
    page=PAGE,
    licence=LICENCE,
    holds="val/image_clean (or image_final) and val/flow",
)
PASSES, SIDES = ("clean", "final"), ("left", "right")
STEPS = {"future": 1, "past": -1}  # direction -> frames to the other one


def things_pairs(
    root: str | Path | None,
    pass_: str = "clean",
    split: str = "test",
    side: str = "left",
    direction: str = "future",
) -> list[PairFiles]:
    """Pairs of frames_<pass>pass/TEST/A/0000/left/0006.png and the frame after (past: before) it.

    Their flow is optical_flow/TEST/A/0000/into_future/left/OpticalFlowIntoFuture_0006_L.pfm. The
    flow of a sequence's outermost frame leads to a frame that was never published: left out.

    Raises:
        ValueError: the data set is not there or laid out otherwise, or a setting is not known.
    """
    WHOLE.one_of("split", split, ("train", "test"))
    top, step = _checked(WHOLE, root, pass_, side, direction)
    frames = WHOLE.folder(top, f"frames_{pass_}pass") / split.upper()
    flows = WHOLE.folder(top, f"optical_flow/{split.upper()}")
    pattern = f"*/*/into_{direction}/{side}/OpticalFlowInto*_{side[0].upper()}.pfm"
    pairs = []
    for flow in WHOLE.some(flows.glob(pattern), flows, pattern):
        scene = flow.parents[2]
        number = parts(flow.stem.removesuffix(f"_{side[0].upper()}"))[1]
        frame0 = frames / scene.parent.name / scene.name / side / f"{number}.png"
        frame1 = beside(frame0, step)
        if frame0.is_file() and not frame1.is_file():
            continue
        name = f"{split.upper()}_{scene.parent.name}_{scene.name}_into_{direction}_{side}_{number}"
        pairs.append(PairFiles(name=name, frame0=frame0, frame1=frame1, flow=flow))
    return list(check_names(pairs))


def things_subset_pairs(
    root: str | Path | None,
    pass_: str = "clean",
    split: str = "val",
    side: str = "left",
    direction: str = "future",
) -> list[PairFiles]:
    """Pairs of val/image_<pass>/left/0000000.png and the frame after (past: before) it.

    Their flow is val/flow/left/into_future/0000000.flo, their occlusions, where they are there,
    val/flow_occlusions/left/into_future/0000000.png.

    Raises:
        ValueError: as ``things_pairs``.
    """
    SUBSET.one_of("split", split, ("train", "val"))
    top, step = _checked(SUBSET, root, pass_, side, direction)
    frames = SUBSET.folder(top, f"{split}/image_{pass_}/{side}")
    flows = SUBSET.folder(top, f"{split}/flow/{side}/into_{direction}")
    hidden = top / split / "flow_occlusions" / side / f"into_{direction}"
    pairs = []
    for flow in SUBSET.some(flows.glob("*.flo"), flows, "0000000.flo"):
        frame0 = frames / f"{flow.stem}.png"
        pairs.append(
            PairFiles(
                name=f"{split}_{side}_into_{direction}_{flow.stem}",
                frame0=frame0,
                frame1=beside(frame0, step),
                flow=flow,
                occluded=hidden / f"{flow.stem}.png" if hidden.is_dir() else None,
            )
        )
    return list(check_names(pairs))


def _checked(
    origin: Origin, root: str | Path | None, pass_: str, side: str, direction: str
) -> tuple[Path, int]:
    origin.one_of("pass", pass_, PASSES)
    origin.one_of("side", side, SIDES)
    origin.one_of("direction", direction, tuple(STEPS))
    return origin.root(root), STEPS[direction]
