"""Writers of one-sample fakes of every flow data set, each in its true folder layout.

All hold noise that moves by ``SHIFT`` px and wraps round, so flow is the same everywhere.
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from einops import rearrange

from data.readers.flow_files import write_flow

SHIFT = (2, 1)  # (u, v) px from each frame to the next
SIZE = (24, 32)


def noise_frames(count: int = 2, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    """uint8 (height, width, 3) in OpenCV's order; each frame is the last one moved by SHIFT."""
    still = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return [np.roll(still, (SHIFT[1] * t, SHIFT[0] * t), axis=(0, 1)) for t in range(count)]


def write_image(path: Path, pixels: np.ndarray) -> Path:
    """Write in the format of the suffix; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
    return path


def write_frames(folder: Path, names: list[str], size: tuple[int, int] = SIZE) -> None:
    """Consecutive frames under these names."""
    for name, frame in zip(names, noise_frames(len(names), size), strict=True):
        write_image(folder / name, frame)


def write_shift(
    path: Path, steps: int = 1, size: tuple[int, int] = SIZE, unknown_row: int | None = None
) -> Path:
    """A flow file of ``steps`` times SHIFT, unknown in one row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flow = steps * torch.tensor(SHIFT).float()[:, None, None].expand(2, *size)
    valid = torch.ones(size, dtype=torch.bool)
    if unknown_row is not None:
        valid[unknown_row] = False
    write_flow(path, flow, valid)
    return path


def write_mask(path: Path, row: int) -> Path:
    """A mask that is white in one row."""
    mask = np.zeros(SIZE, np.uint8)
    mask[row] = 255
    return write_image(path, mask)


def write_sintel(root: Path) -> Path:
    """Two scenes of two frames; row 0 is occluded, row 1 not valid."""
    for scene in "alley_1", "ambush_2":
        names = ["frame_0001.png", "frame_0002.png"]
        for render in "clean", "final":
            write_frames(root / "training" / render / scene, names)
        write_shift(root / "training" / "flow" / scene / "frame_0001.flo")
        write_mask(root / "training" / "occlusions" / scene / names[0], 0)
        for name in names:
            write_mask(root / "training" / "invalid" / scene / name, 1)
    return root


def write_kitti(root: Path, images: str = "image_2") -> Path:
    """One pair; row 0 is known to nobody, row 1 not in view in frame 1."""
    training = root / "training"
    write_frames(training / images, ["000000_10.png", "000000_11.png"])
    write_shift(training / "flow_occ" / "000000_10.png", unknown_row=0)
    write_shift(training / "flow_noc" / "000000_10.png", unknown_row=1)
    return root


def write_hd1k(root: Path) -> Path:
    """Two sequences of three frames; flow of every frame, the last one's leads nowhere."""
    for sequence in "000000", "000001":
        names = [f"{sequence}_{number:04d}.png" for number in (9, 10, 11)]
        write_frames(root / "hd1k_input" / "image_2", names)
        for name in names:
            write_shift(root / "hd1k_flow_gt" / "flow_occ" / name, unknown_row=3)
    return root


def write_middlebury(root: Path) -> Path:
    """Two scenes; row 2 is unknown."""
    for scene in "Dimetrodon", "RubberWhale":
        write_frames(root / "other-data" / scene, ["frame10.png", "frame11.png"])
        write_shift(root / "other-gt-flow" / scene / "flow10.flo", unknown_row=2)
    return root


def write_chairs(root: Path) -> Path:
    """Three pairs; the split says train, val, train."""
    for number in "00001", "00002", "00003":
        write_frames(root / "data", [f"{number}_img1.ppm", f"{number}_img2.ppm"])
        write_shift(root / "data" / f"{number}_flow.flo")
    (root / "FlyingChairs_train_val.txt").write_text("1\n2\n1\n")
    return root


def write_things(root: Path) -> Path:
    """One scene of two frames on both sides; the outermost flows lead to frames not published."""
    for side in "left", "right":
        scene = Path("TEST") / "A" / "0000"
        for render in "cleanpass", "finalpass":
            write_frames(root / f"frames_{render}" / scene / side, ["0006.png", "0007.png"])
        for direction, steps in ("Future", 1), ("Past", -1):
            folder = root / "optical_flow" / scene / f"into_{direction.lower()}" / side
            for number in "0006", "0007":
                name = f"OpticalFlowInto{direction}_{number}_{side[0].upper()}.pfm"
                write_shift(folder / name, steps)
    return root


def write_things_subset(root: Path) -> Path:
    """Two frames on both sides, flow of the first into the future, of the second into the past."""
    for split in "train", "val":
        for side in "left", "right":
            for render in "clean", "final":
                names = ["0000000.png", "0000001.png"]
                write_frames(root / split / f"image_{render}" / side, names)
            for direction, number, steps in ("future", "0000000", 1), ("past", "0000001", -1):
                end = Path(side) / f"into_{direction}"
                write_shift(root / split / "flow" / end / f"{number}.flo", steps)
                write_mask(root / split / "flow_occlusions" / end / f"{number}.png", 0)
    return root


def write_spring(root: Path) -> Path:
    """Two frames; of the four vectors of a pixel the last is true, the first is unknown in row 0.

    The other three are off by 8 px, as at the edge of something that moves otherwise.
    """
    for side in "left", "right":
        scene = root / "train" / "0001"
        write_frames(scene / f"frame_{side}", [f"frame_{side}_000{n}.png" for n in (1, 2)])
        for direction, number, steps in ("FW", 1, 1), ("BW", 2, -1):
            true = steps * torch.tensor(SHIFT).float()
            fine = rearrange(true, "uv -> uv 1 1").expand(2, 2 * SIZE[0], 2 * SIZE[1]) + 8.0
            fine[:, 1::2, 1::2] -= 8.0
            valid = torch.ones(fine.shape[1:], dtype=torch.bool)
            valid[0, ::2] = False
            own = f"flow_{direction}_{side}"
            (scene / own).mkdir(parents=True)
            write_flow(scene / own / f"{own}_000{number}.flo5", fine, valid)
    return root


DATASETS = {  # name of the task -> who writes it
    "sintel": write_sintel,
    "kitti15": write_kitti,
    "kitti12": lambda root: write_kitti(root, "colored_0"),
    "hd1k": write_hd1k,
    "middlebury": write_middlebury,
    "chairs": write_chairs,
    "things": write_things,
    "things_subset": write_things_subset,
    "spring": write_spring,
}
