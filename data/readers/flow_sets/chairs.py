"""FlyingChairs: chairs before photographs, with an official split."""

from pathlib import Path

from data.readers.flow_sets.origin import Origin
from data.readers.pair_files import PairFiles, check_names

ORIGIN = Origin(
    title="FlyingChairs",
    task="chairs",
    files="FlyingChairs.zip (31 GB) and FlyingChairs_train_val.txt",
    page="https://lmb.informatik.uni-freiburg.de/resources/datasets/FlyingChairs.en.html",
    licence="for research only",
    holds="data/ and the split file",
)
SPLITS = {"train": "1", "val": "2"}
SPLIT_FILES = ("FlyingChairs_train_val.txt", "chairs_split.txt")


def chairs_pairs(root: str | Path | None, split: str = "val") -> list[PairFiles]:
    """Pairs of one split: data/00001_img1.ppm, _img2.ppm, _flow.flo; ``all`` needs no split file.

    The split file holds a line a pair, 1 = train and 2 = val; it lies beside ``data`` or in it.

    Raises:
        ValueError: the data set or its split file is not there or is otherwise, or there is no
            such split.
    """
    ORIGIN.one_of("split", split, (*SPLITS, "all"))
    top = ORIGIN.root(root)
    folder = ORIGIN.folder(top, "data")
    found = ORIGIN.some(folder.glob("*_flow.flo"), folder, "00001_flow.flo")
    if split != "all":
        found = _of_split(top, found, split)
    pairs = []
    for flow in found:
        number = flow.stem.removesuffix("_flow")
        images = (folder / f"{number}_img{frame}.ppm" for frame in (1, 2))
        frame0, frame1 = images
        pairs.append(PairFiles(name=number, frame0=frame0, frame1=frame1, flow=flow))
    return list(check_names(pairs))


def _of_split(top: Path, found: list[Path], split: str) -> list[Path]:
    places = [folder / name for folder in (top, top / "data") for name in SPLIT_FILES]
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        raise ValueError(
            f"{top} holds no split file of FlyingChairs; put {SPLIT_FILES[0]} from {ORIGIN.page} "
            "there, or type task.split=all."
        )
    lines = file.read_text(errors="replace").split()
    if set(lines) - set(SPLITS.values()):
        raise ValueError(f"{file} is no split of FlyingChairs; expected 1 or 2 on every line.")
    numbers = [int(flow.stem.removesuffix("_flow")) for flow in found]
    if max(numbers) > len(lines):
        raise ValueError(
            f"{file} has {len(lines)} lines but there is a pair {max(numbers):05d}; use the split "
            f"file of {ORIGIN.page}."
        )
    wanted = [f for f, n in zip(found, numbers, strict=True) if lines[n - 1] == SPLITS[split]]
    if not wanted:
        raise ValueError(f"{file} puts no pair of {top / 'data'} into {split}; take another split.")
    return wanted
