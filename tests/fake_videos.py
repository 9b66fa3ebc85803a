"""Videos as they come: varying rates, shots, pauses, and files that are hostile or broken."""

import os
import socket
import struct
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from einops import rearrange
from fake_datasets import noise_video, write_sound, write_video
from torch import Tensor


def write_timed_video(path: Path, frames: Tensor, times_s: list[float]) -> Path:
    """uint8 (time, 3, height, width) without loss, shown at these times: a variable frame rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width = frames.shape[2:]
        stream.pix_fmt = "bgr0"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for frame, time in zip(
            rearrange(frames, "t c h w -> t h w c").numpy(), times_s, strict=True
        ):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture.pts, picture.time_base = round(time * 1000), Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def shots(lengths: list[int], size: int = 32, still: bool = False) -> Tensor:
    """uint8 (time, 3, size, size): one flat color per shot, with a dark spot that wanders."""
    colors = torch.tensor([[220, 30, 30], [30, 220, 30], [30, 30, 220], [220, 220, 30]])
    frames = []
    for shot, length in enumerate(lengths):
        for t in range(length):
            frame = colors[shot % 4][:, None, None].expand(3, size, size).clone()
            left = 0 if still else t % (size - 8)
            frame[:, :8, left : left + 8] = 0
            frames.append(frame)
    return torch.stack(frames).byte()


def write_hostile_files(folder: Path) -> dict[str, str]:
    """A folder of files that are no usable videos; by name, words of the reason each must get.

    A folder called like a video, and a link back to this one, are there too and get none.
    """
    folder.mkdir(parents=True)
    good = write_video(folder / ".good.mp4", noise_video(40, 32, 32)).read_bytes()
    mkv = write_video(folder / ".good.mkv", noise_video(40, 32, 32)).read_bytes()
    expected = {}

    def put(name: str, content: bytes, words: str) -> None:
        (folder / name).write_bytes(content)
        expected[name] = words

    no_video = "cannot be read as a video"
    put("zero.mp4", b"", no_video)
    put("text.mp4", b"not a video at all\n" * 50, no_video)
    put("noise.webm", np.random.default_rng(0).bytes(5000), no_video)
    put("truncated_head.mp4", good[: len(good) // 2], no_video)  # its index comes last
    put("four_bytes.avi", b"RIFF", no_video)
    put("zeros.mov", bytes(100_000), no_video)
    put("playlist.mp4", f"#EXTM3U\n#EXTINF:1,\n{folder}/.good.mp4\n".encode(), no_video)
    put("concat.mp4", f"ffconcat version 1.0\nfile {folder}/.good.mp4\n".encode(), no_video)
    put("script.mkv", b"#!/bin/sh\necho hello\n", no_video)
    huge = struct.pack(">I4s", 16, b"ftyp") + b"isom" + bytes(4)
    huge += struct.pack(">I4s", 2**32 - 1, b"moov") + bytes(64)
    put("huge_header.mp4", huge, "no video stream")
    put("huge_picture.avi", _says_size(folder, 65535), "px; expected 1 to")
    put("picture.mp4", _png(), no_video)
    put("header_only.mkv", mkv[: len(mkv) // 100], "not one frame")
    put(os.fsdecode(b"bytes\xff.mp4"), b"a name that is no text", no_video)
    put("caf\xe9 \U0001f600.mp4", b"odd name", no_video)
    write_sound(folder / "sound.mp4")
    expected["sound.mp4"] = "audio but no video stream"
    write_video(folder / "one_pixel.mkv", noise_video(8, 1, 1))
    expected["one_pixel.mkv"] = "1x1 px"
    write_video(folder / "strip.mkv", noise_video(8, 8, 800))
    expected["strip.mkv"] = "800x8 px"
    write_video(folder / "one_frame.mkv", noise_video(1, 32, 32))
    expected["one_frame.mkv"] = "1 frames, fewer than"
    (folder / "folder.mp4").mkdir()
    (folder / "dangling.mp4").symlink_to(folder / "nowhere.mp4")
    expected["dangling.mp4"] = "a link that leads nowhere"
    (folder / "itself.mp4").symlink_to(folder / "itself.mp4")
    expected["itself.mp4"] = "a link that leads nowhere"
    (folder / "circle").symlink_to(folder)
    (folder / "circle.mp4").symlink_to(folder)
    expected["circle.mp4"] = "a folder, not a file"
    os.mkfifo(folder / "pipe.mp4")
    expected["pipe.mp4"] = "a named pipe, not a file"
    _put_socket(folder, expected)
    if os.geteuid():  # root may read everything
        put("unreadable.mp4", good, "not a file we may read")
        (folder / "unreadable.mp4").chmod(0)
    return expected


def _put_socket(folder: Path, expected: dict[str, str]) -> None:
    here = os.getcwd()
    os.chdir(folder)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind("socket.mp4")
    finally:
        os.chdir(here)
    expected["socket.mp4"] = "a socket, not a file"


def _says_size(folder: Path, side: int) -> bytes:
    """A small video whose header claims square frames of ``side`` px."""
    path = folder / ".small.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = 32, 32, "bgr0"
        for frame in rearrange(noise_video(3, 32, 32), "t c h w -> t h w c").numpy():
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    content = bytearray(path.read_bytes())
    at = content.index(b"strf") + 12
    content[at : at + 8] = struct.pack("<II", side, side)
    return bytes(content)


def _png() -> bytes:
    return cv2.imencode(".png", np.zeros((32, 32, 3), np.uint8))[1].tobytes()
