"""How much faster the scores of point tracks are than the slow reference, in one process.

    python benchmarks/track_metrics.py [--quick] [--json FILE]      about a minute; seconds

250 videos of 256 tracks over 24 frames, query mode strided. Video by video the two take turns, and
which goes first changes; ``ratio`` is the median of slow / fast seconds over the videos. Both
start from what they work on: tensors here, nested lists of numbers there.
"""

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

import torch

from benchmarks.result_file import write_result
from tests.reference import slow_tracks
from tracing.metrics.tracks import mean_over_videos, video_scores

VIDEOS, TRACKS, FRAMES = 250, 256, 24
MODE, SEED = "strided", 0


def random_video(seed: int) -> tuple[torch.Tensor, ...]:
    """pred, target, pred_visible, visible, is_query."""
    generator = torch.Generator().manual_seed(seed)
    target = 256 * torch.rand(TRACKS, FRAMES, 2, generator=generator)
    pred = target + 4 * torch.randn(TRACKS, FRAMES, 2, generator=generator)
    visible, called = (torch.rand(TRACKS, FRAMES, generator=generator) < 0.8 for _ in range(2))
    is_query = torch.arange(FRAMES) == torch.randint(FRAMES, (TRACKS, 1), generator=generator)
    return pred, target, called, visible | is_query, is_query


def measured(num_videos: int) -> dict:
    """Seconds of both on every video, and how far the means over videos differ."""
    seconds: dict[str, list[float]] = {"fast": [], "slow": []}
    scores: dict[str, list[dict]] = {"fast": [], "slow": []}
    for number in range(num_videos):
        video = random_video(SEED + number)
        lists = [each.tolist() for each in video[:4]] + [video[4].int().argmax(1).tolist()]
        turns = {
            "fast": lambda video=video: video_scores(*video, MODE),
            "slow": lambda lists=lists: slow_tracks.video_scores(*lists, MODE),
        }
        for name in sorted(turns, reverse=bool(number % 2)):
            start = time.perf_counter()
            scores[name].append(turns[name]())
            seconds[name].append(time.perf_counter() - start)
    fast, slow = mean_over_videos(scores["fast"]), slow_tracks.mean_over_videos(scores["slow"])
    ratios = [s / f for f, s in zip(seconds["fast"], seconds["slow"], strict=True)]
    return {
        "videos": num_videos,
        "tracks": TRACKS,
        "frames": FRAMES,
        "threads": torch.get_num_threads(),
        "ratio": statistics.median(ratios),
        "smallest_ratio": min(ratios),
        "fast_s": sum(seconds["fast"]),
        "slow_s": sum(seconds["slow"]),
        "largest_difference": max(abs(fast[key] - slow[key]) for key in slow),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="25 videos in place of 250")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--json", type=Path, help="result file to write")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    figures = measured(VIDEOS // 10 if options.quick else VIDEOS)
    print(
        "{videos} videos x {tracks} tracks x {frames} frames: {ratio:.1f} times as fast as the "
        "slow twin (least {smallest_ratio:.1f}; {fast_s:.2f} s and {slow_s:.1f} s in all), scores "
        "differ by {largest_difference:.1e} at most".format(**figures)
    )
    if options.json:
        command = shlex.join(["python", "benchmarks/track_metrics.py", *sys.argv[1:]])
        seeds = [SEED, SEED + figures["videos"] - 1]
        write_result(options.json.name, figures, command, seeds, options.json.resolve().parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
