"""Freeze point tracks of Kubric's MOVi-E validation videos: ``python -m data.kubric``.

    python -m data.kubric make gs://kubric-public/tfds OUT --seed 0     250 videos, 256 tracks each
    python -m data.kubric verify OUT                                    prints and checks the hash

Kubric's own tracks are drawn anew at every run, so nobody's figures on them compare. Here they are
drawn once from a seed and kept; OUT is what ``task.dataset=kubric`` reads. Needs Kubric's tracking
code and TensorFlow: pip install tensorflow tensorflow-datasets tensorflow-graphics, and a checkout
of google-research/kubric on PYTHONPATH.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.readers.kubric import KubricTracks, write_kubric_tracks

TRACKS = 256  # of a video, as Kubric's evaluation draws them
Sampled = tuple[np.ndarray, np.ndarray, np.ndarray]  # query_tyx, target_xy, occluded


def frozen_videos(
    scenes: Iterator[dict], sample: Callable[[dict, int], Sampled], seed: int, videos: int | None
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Names and arrays of the first ``videos`` scenes (None: all), as ``data.readers.kubric`` says.

    Args:
        scenes: dicts that hold ``video``, uint8 (time, height, width, 3).
        sample: draws tracks of one scene from a seed; scene i is drawn from ``seed + i``, so its
            tracks depend on no other scene.
    """
    for number, scene in enumerate(scenes):
        if number == videos:
            return
        query, target, occluded = sample(scene, seed + number)
        yield (
            f"movi_e_{number:04d}",
            {
                "frames": np.asarray(scene["video"], np.uint8),
                "query_tyx": np.asarray(query, np.float32),
                "target_xy": np.asarray(target, np.float32),
                "occluded": np.asarray(occluded, bool),
            },
        )


def movi_e(source: str) -> tuple[Iterator[dict], Callable[[dict, int], Sampled]]:
    """The validation scenes below a TensorFlow data folder, and Kubric's way to draw their tracks.

    Raises:
        ValueError: TensorFlow or Kubric is not installed.
    """
    try:
        import tensorflow as tf
        import tensorflow_datasets as tfds
        from challenges.point_tracking.dataset import add_tracks
    except ImportError as error:
        raise ValueError(
            f"Kubric's tracks need {error.name}, which is not installed; pip install tensorflow "
            "tensorflow-datasets tensorflow-graphics, and put a checkout of "
            "https://github.com/google-research/kubric (Apache-2.0) on PYTHONPATH."
        ) from error

    def sample(scene: dict, seed: int) -> Sampled:
        tf.random.set_seed(seed)
        tracks = add_tracks(scene, random_crop=False, tracks_to_sample=TRACKS)
        return tuple(tracks[key].numpy() for key in ("query_points", "target_points", "occluded"))

    scenes = tfds.load("movi_e/256x256", data_dir=source, split="validation", shuffle_files=False)
    return iter(scenes), sample


def verify(folder: Path) -> str:
    """Hash of a set after reading all of it.

    Raises:
        ValueError: the arrays of a video are not those that the index was written for.
    """
    tracks = KubricTracks(folder)
    changed = [name for name, same in tracks.verified() if not same]
    if changed:
        raise ValueError(f"{folder} differs from its index in {', '.join(changed)}; copy it again.")
    return tracks.index["sha256"]


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m data.kubric", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make", help="draw and freeze the tracks")
    make.add_argument(
        "source", help="data_dir of tensorflow_datasets, such as gs://kubric-public/tfds"
    )
    make.add_argument("out", type=Path)
    make.add_argument("--seed", type=int, default=0)
    make.add_argument("--videos", type=int, help="the first so many; all if not given")
    commands.add_parser("verify", help="check and print the hash").add_argument("out", type=Path)
    given = parser.parse_args(words)
    try:
        if given.command == "make":
            scenes, sample = movi_e(given.source)
            videos = frozen_videos(scenes, sample, given.seed, given.videos)
            write_kubric_tracks(given.out, videos, given.source, given.seed)
        print(f"{given.out}: {len(KubricTracks(given.out))} videos, sha256 {verify(given.out)}")
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
