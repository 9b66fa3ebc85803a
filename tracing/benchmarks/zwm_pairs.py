"""Lists of questions for ZWM's evaluation: ``python -m tracing.benchmarks.zwm_pairs write``.

    python -m tracing.benchmarks.zwm_pairs write tapvid_davis.pkl dataset.json
    python -m tracing.benchmarks.zwm_pairs write tapvid_davis.pkl few.json --share 0.03 --seed 0

Query mode first: every point from its first visible frame to every later one, or a seeded share
of these. ``--query-frames`` adds the pairs of a query frame with itself, which ZWM's demo list has.
``task.pairs=FILE`` evaluates exactly what a list asks.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from data.readers.zwm_pairs import ZwmPair, write_zwm_pairs
from tracing.benchmarks.tapvid import TapVid
from tracing.metrics import functional

ZWM_DAVIS = 38_881  # entries of ZWM's own list for TAP-Vid-DAVIS, as its README says


def zwm_pairs_of(task: TapVid, query_frames: bool = False) -> Iterator[ZwmPair]:
    """What a task asks, item by item in the order of asking; points by their rows in the file."""
    side = functional.BENCHMARK_HW[0]
    for video, kept in zip(task.parts.videos, task.parts.kept, strict=True):
        start = (video.queries.xy / side).tolist()
        frame, point = video.queries.frame.tolist(), kept[video.queries.point].tolist()
        if query_frames:
            for row, t in enumerate(frame):
                yield _pair(video.name, t, t, point[row], start[row], start[row], False)
        of_items = video.query.tolist(), video.frame.tolist(), (video.target / side).tolist()
        for row, t, target, seen in zip(*of_items, video.visible.tolist(), strict=True):
            yield _pair(video.name, frame[row], t, point[row], start[row], target, not seen)


def _pair(
    video: str, q: int, t: int, point: int, query: list, target: list, occluded: bool
) -> ZwmPair:
    return ZwmPair(
        video=video,
        query_frame=q,
        target_frame=t,
        point=point,
        query=tuple(query),
        target=tuple(target),
        occluded=occluded,
    )


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tracing.benchmarks.zwm_pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    write = parser.add_subparsers(dest="command", required=True).add_parser("write")
    write.add_argument("pickle", type=Path, help="tracks as data.readers.tapvid reads them")
    write.add_argument("out", type=Path, help="the list to write")
    write.add_argument("--share", type=float, help="of all items, drawn by frame gap")
    write.add_argument("--seed", type=int, default=0, help="of the draw")
    write.add_argument("--query-frames", action="store_true", help="also gaps of 0")
    given = parser.parse_args(words)
    try:
        if given.share is not None and given.query_frames:
            raise ValueError("--share draws from gaps of 1 and more; leave out --query-frames.")
        task = TapVid(given.pickle, given.seed, share=given.share)
        number = write_zwm_pairs(given.out, zwm_pairs_of(task, given.query_frames))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{given.out}: {number:,} items (ZWM's own list for TAP-Vid-DAVIS has {ZWM_DAVIS:,})")


if __name__ == "__main__":
    main()
