"""MPI Sintel: a film rendered twice, clean and final, with dense flow and masks."""

from pathlib import Path

from data.readers.flow_sets.numbers import beside
from data.readers.flow_sets.origin import Origin
from data.readers.pair_files import PairFiles, check_names

ORIGIN = Origin(
    title="MPI Sintel",
    task="sintel",
    files="MPI-Sintel-complete.zip (5.3 GB)",
    page="http://sintel.is.tue.mpg.de/downloads",
    licence="images CC BY 3.0, Blender Foundation",
    holds="training/",
)
PASSES = ("clean", "final")


def sintel_pairs(root: str | Path | None, pass_: str = "clean") -> list[PairFiles]:
    """The training pairs of one pass: training/<pass>/<scene>/frame_0001.png, flow beside it.

    ``occlusions`` and ``invalid`` are used where they are there; they hold white = occluded and
    white = not valid.

    Raises:
        ValueError: the data set is not there or laid out otherwise, or there is no such pass.
    """
    ORIGIN.one_of("pass", pass_, PASSES)
    top = ORIGIN.root(root)
    frames = ORIGIN.folder(top, f"training/{pass_}")
    flows = ORIGIN.folder(top, "training/flow")
    masks = {key: top / "training" / key for key in ("occlusions", "invalid")}
    there = {key: folder.is_dir() for key, folder in masks.items()}
    found = ORIGIN.some(flows.glob("*/frame_*.flo"), flows, "<scene>/frame_0001.flo")
    pairs = []
    for flow in found:
        scene, stem = flow.parent.name, flow.stem
        frame0 = frames / scene / f"{stem}.png"
        mask = {key: masks[key] / scene / f"{stem}.png" if there[key] else None for key in masks}
        pairs.append(
            PairFiles(
                name=f"{scene}_{stem}",
                frame0=frame0,
                frame1=beside(frame0, 1),
                flow=flow,
                occluded=mask["occlusions"],
                unusable=mask["invalid"],
            )
        )
    return list(check_names(pairs))
