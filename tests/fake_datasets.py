"""Writers of tiny fake data sets in their true layouts, with contents that tests can predict.

Here: videos, clips, folders of pairs, pickles of tracks. Every published set of flow is written by
``tests/fake_flow.py``, every published set of tracks by ``tests/fake_tracks.py``.
"""

import json
import pickle
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from data.index import ShardWriter
from data.readers.flow_files import write_flow


def noise_video(num_frames: int, height: int, width: int, seed: int = 0) -> Tensor:
    """uint8 (time, 3, height, width) of random pixels; no two frames are alike."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num_frames, 3, height, width), generator=generator).byte()


def write_video(path: Path, frames: Tensor, fps: int = 30) -> Path:
    """Encode uint8 (time, 3, height, width): .mkv without loss (FFV1), .mp4 as MPEG-4 part 2."""
    codec, pixels = ("ffv1", "bgr0") if path.suffix == ".mkv" else ("mpeg4", "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = frames.shape[2], frames.shape[3], pixels
        if codec == "mpeg4":
            stream.bit_rate = 20_000_000
        for frame in rearrange(frames, "t c h w -> t h w c").numpy():
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A file with a sound stream and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        silence = np.zeros((1, 1024), np.float32)
        sound = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        sound.sample_rate = 16_000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path


def rotate_on_display(path: Path) -> None:
    """Note in an .mp4 that players are to turn it a quarter clockwise, as phones do."""
    one, zero, w = b"\x00\x01\x00\x00", b"\x00" * 4, b"\x40\x00\x00\x00"
    minus_one = b"\xff\xff\x00\x00"
    upright = one + zero * 3 + one + zero * 3 + w
    clockwise = zero + one + zero + minus_one + zero * 4 + w
    content = path.read_bytes()
    header = content.index(b"tkhd")  # of the track; the movie's own matrix stays as it is
    at = content.index(upright, header)
    path.write_bytes(content[:at] + clockwise + content[at + len(upright) :])


def clip_frame(clip: int, t: int, size: int) -> Tensor:
    """uint8 (3, size, size): red names the clip, green the frame, blue the column."""
    frame = torch.empty(3, size, size, dtype=torch.uint8)
    frame[0], frame[1], frame[2] = clip, t, torch.arange(size)
    return frame


def write_clip_shards(
    folder: Path,
    num_clips: int,
    shard_clips: int = 4,
    clip_frames: int = 6,
    size: int = 8,
    corrupt: tuple[int, ...] = (),
) -> Path:
    """Clips clip000, clip001, ... made of ``clip_frame``; ``corrupt`` ones do not decode."""
    writer = ShardWriter(folder, shard_clips, size, clip_frames)
    for clip in range(num_clips):
        sample = {"__key__": f"clip{clip:03d}"}
        about = {"source": "fake", "fps": 30.0, "start_frame": 0, "num_frames": clip_frames}
        sample["json"] = json.dumps(about).encode()
        for t in range(clip_frames):
            frame = rearrange(clip_frame(clip, t, size), "c h w -> h w c").numpy()
            png = cv2.imencode(".png", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()
            sample[f"{t:03d}.png"] = b"not a picture" if clip in corrupt else png
        writer.write(sample)
    writer.finish()
    return folder


def write_flow_pair(
    folder: Path,
    shift: tuple[int, int] = (2, 1),
    size: tuple[int, int] = (12, 16),
    frame1_size: tuple[int, int] | None = None,
    flow_size: tuple[int, int] | None = None,
    masks: bool = False,
) -> Path:
    """A noise image and itself moved by ``shift`` = (u, v) px, wrapping round.

    With ``masks``, the top row is not valid and the left column is occluded.
    """
    folder.mkdir(parents=True)
    height, width = size
    frame0 = noise_video(1, height, width)[0]
    frame1 = frame0.roll((shift[1], shift[0]), dims=(1, 2))
    if frame1_size is not None:
        frame1 = noise_video(1, *frame1_size)[0]
    for name, frame in ("frame0.png", frame0), ("frame1.png", frame1):
        pixels = rearrange(frame, "c h w -> h w c").numpy()
        cv2.imwrite(str(folder / name), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    flow = torch.tensor(shift).float()[:, None, None].expand(2, *(flow_size or size))
    write_flow(folder / "flow.flo", flow)
    if masks:
        valid, occluded = np.full(size, 255, np.uint8), np.zeros(size, np.uint8)
        valid[0], occluded[:, 0] = 0, 255
        cv2.imwrite(str(folder / "valid.png"), valid)
        cv2.imwrite(str(folder / "occluded.png"), occluded)
    return folder


def fake_track(
    shift: tuple[int, int] = (2, 1), num_frames: int = 4, size: tuple[int, int] = (24, 32), seed=0
) -> dict:
    """One TAP-Vid entry: noise that moves by ``shift`` = (u, v) px a frame, wrapping round.

    Three points on pixel centers: 0 is always in view, 1 from frame 1 on, 2 hidden in the last.
    """
    height, width = size
    still = noise_video(1, height, width, seed)[0]
    frames = [still.roll((shift[1] * t, shift[0] * t), dims=(1, 2)) for t in range(num_frames)]
    start = np.array([[4.5, 5.5], [8.5, 3.5], [10.5, 8.5]])
    moved = start[:, None] + np.arange(num_frames)[None, :, None] * np.array(shift)
    occluded = np.zeros((3, num_frames), bool)
    occluded[1, 0] = occluded[2, -1] = True
    return {
        "video": rearrange(torch.stack(frames), "t c h w -> t h w c").numpy(),
        "points": (moved / [width, height]).astype(np.float32),
        "occluded": occluded,
    }


def as_jpegs(track: dict, how: str = "object") -> dict:
    """The entry with its frames as JPEG files: an array of objects, a byte-string array, a list."""
    files = [
        cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))[1].tobytes()
        for frame in track["video"]
    ]
    kinds = {"object": lambda: np.array(files, object), "bytes": lambda: np.array(files)}
    return track | {"video": kinds[how]() if how in kinds else files}


def write_tracks(path: Path, videos: dict | list, protocol: int = 4) -> Path:
    """A pickle as TAP-Vid ships them."""
    path.write_bytes(pickle.dumps(videos, protocol=protocol))
    return path
