"""Fakes of every published set of point tracks in its true layout, and a tracer that knows all."""

from pathlib import Path

import numpy as np
import torch
from fake_datasets import as_jpegs, fake_track, write_tracks

from data.readers.kubric import write_kubric_tracks
from tracing.config import Traces

KINETICS_SHARDS = tuple(f"{shard:04d}_of_0010.pkl" for shard in range(10))
ROBOTAP_SPLITS = tuple(f"robotap_split{split}.pkl" for split in range(5))


def long_track(num_frames=12, seed=0, shift=(1, 1)):
    """A ``fake_track`` of more frames; point 1 hides in every third frame as well."""
    track = fake_track(shift, num_frames=num_frames, seed=seed)
    track["occluded"][1, ::3] = True
    return track


def write_davis(folder: Path, long=False) -> Path:
    """As tapvid_davis.zip unpacks: a dict of arrays; ``long`` are of twelve frames."""
    folder.mkdir(parents=True)
    videos = {"blackswan": fake_track(), "car-shadow": fake_track((1, 0), seed=3)}
    if long:
        videos = {name: long_track(seed=number) for number, name in enumerate(videos)}
    return write_tracks(folder / "tapvid_davis.pkl", videos)


def write_rgb_stacking(folder: Path) -> Path:
    """A list of arrays without names."""
    folder.mkdir(parents=True)
    return write_tracks(folder / "tapvid_rgb_stacking.pkl", [fake_track(), fake_track(seed=1)])


def write_kinetics(folder: Path, shards=KINETICS_SHARDS) -> Path:
    """Ten lists of videos as JPEG bytes, points as float64; video i moves by (i % 3, 1) px."""
    folder.mkdir(parents=True)
    for number, name in enumerate(shards):
        videos = [as_jpegs(fake_track((v % 3, 1), seed=v)) for v in (2 * number, 2 * number + 1)]
        for video in videos:
            video["points"] = video["points"].astype(np.float64)
        write_tracks(folder / name, videos)
    return folder


def write_kinetics_sampled(folder: Path) -> Path:
    """A list of videos as JPEG bytes in one file."""
    folder.mkdir(parents=True)
    return write_tracks(folder / "tapvid_kinetics_sampled.pkl", [as_jpegs(fake_track())])


def write_robotap(folder: Path, splits=ROBOTAP_SPLITS) -> Path:
    """Five dicts of arrays; the names of the videos hold a slash."""
    folder.mkdir(parents=True)
    for number, name in enumerate(splits):
        write_tracks(folder / name, {f"arm/{number}": fake_track(seed=number)})
    return folder


def kubric_arrays(seed=0, num_frames=12):
    """One video of ``data.readers.kubric``: ``long_track``, queried in the frames 3, 5 and 2."""
    track = long_track(num_frames, seed)
    height, width = track["video"].shape[1:3]
    target = (track["points"] * [width, height]).astype(np.float32)
    frame = np.array([3, 5, 2])
    start = target[np.arange(3), frame] + np.float32(0.25)  # a query may lie beside its track
    query = np.concatenate([frame[:, None], start[:, ::-1]], 1).astype(np.float32)
    return {
        "frames": track["video"],
        "query_tyx": query,
        "target_xy": target,
        "occluded": track["occluded"],
    }


def write_kubric(folder: Path, num_videos=2, seed=0) -> Path:
    """A frozen set of ``kubric_arrays``."""
    videos = ((f"movi_e_{i:04d}", kubric_arrays(seed + i)) for i in range(num_videos))
    write_kubric_tracks(folder, videos, "fake", seed)
    return folder


WRITERS = {
    "davis": write_davis,
    "rgb_stacking": write_rgb_stacking,
    "kinetics": write_kinetics,
    "kinetics_sampled": write_kinetics_sampled,
    "robotap": write_robotap,
    "kubric": write_kubric,
}


class Oracle:
    """Answers from the ground truth of ``parts``, off by ``px`` in x; part i comes with seed i."""

    name, needs_model = "oracle", False

    def __init__(self, parts, px=0.0, forward_only=False):
        self.parts, self.px = parts, px
        if forward_only:
            self.forward_only = True

    def __call__(self, frame0, frame1, points, seed=0):
        part = self.parts[seed]
        assert torch.equal(part.frame0, frame0) and torch.equal(part.points, points)
        return Traces(xy=part.target + torch.tensor([self.px, 0.0]), visible=part.visible.clone())
