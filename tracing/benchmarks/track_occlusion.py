"""Who is called visible in the videos of a benchmark, by which cues and by whose thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from tracing.benchmarks.track_videos import Answer, Asked, VideoTracks, assembled, by_video, flat
from tracing.occlusion import CUES, Cuts, Evidence, Occlusion, best_cuts, cross_fitted_visible

OcclusionRule = Literal["cross_fit", "fixed"]
SAID = {
    "peak_kl": "the peak reaches {peak}",
    "forward_backward": "it is traced back to within {distance} of its query",
    "both": "the peak reaches {peak} and it is traced back to within {distance} of its query",
}
OWN = {"peak": "tracer.cfg.occlusion_threshold", "distance": "tracer.return_px"}
CHOSEN = {"peak": "a threshold", "distance": "a distance"}


@dataclass(frozen=True)
class Split:
    """Answers of one tracer on another set of videos, for its thresholds to be chosen on."""

    evidence: Evidence
    visible: Bool[Tensor, " n"]
    name: str

    @classmethod
    def of(
        cls,
        answers: Sequence[Answer],
        videos: Sequence[VideoTracks],
        asked: Sequence[Asked],
        name: str,
    ) -> "Split":
        """The split that these answers make."""
        evidence = assembled(answers, videos, asked)[2]
        return cls(evidence, flat([video.visible for video in videos], videos), name)


@dataclass(frozen=True)
class Judge:
    """How hidden points are told: by which cues, with whose thresholds.

    ``how`` is ``fixed``, as the tracer itself says, or ``cross_fit``; with a ``split`` thresholds
    are those that are best there.
    """

    how: OcclusionRule = "cross_fit"
    cues: Occlusion = "peak_kl"
    split: Split | None = None

    def called(
        self,
        said: Sequence[Bool[Tensor, "points time"]],
        evidence: Evidence,
        videos: Sequence[VideoTracks],
    ) -> tuple[list[Bool[Tensor, "points time"]], dict]:
        """Who is called visible, and what results.json says of it.

        Raises:
            ValueError: there is too little to cross-fit, or the tracer gives other cues only.
        """
        if not evidence.cues:
            return list(said), {"rule": "everything is called visible"}
        if not evidence.suffices(self.cues):
            raise ValueError(
                f"task.cues={self.cues} needs {' and '.join(CUES[self.cues])}, got only "
                f"{' and '.join(sorted(evidence.cues))}; pass tracer.occlusion={self.cues}."
            )
        text = f"visible where {SAID[self.cues]}"
        if self.how == "fixed":
            return list(said), {"rule": text.format(**OWN), "cues": self.cues}
        visible = flat([video.visible for video in videos], videos)
        evidence = evidence.of(self.cues)
        if self.split is not None:
            cuts, _ = best_cuts(self.split.evidence.of(self.cues), self.split.visible)
            found, chosen, split = cuts.visible(evidence), [cuts], self.split.name
            how = f"chosen on {split}"
        else:
            halves, split = halved(videos)
            shapes = [video.visible.shape for video in videos]
            fold = [half[:, None].expand(s) for half, s in zip(halves, shapes, strict=True)]
            found, chosen = cross_fitted_visible(evidence, visible, flat(fold, videos))
            how = f"cross-fitted ({split})"
        told = {"rule": f"{text.format(**CHOSEN)}, {how}", "cues": self.cues, "split": split}
        return by_video(found, videos), told | thresholds(chosen)


def thresholds(cuts: Sequence[Cuts]) -> dict[str, list[float]]:
    """``thresholds`` (nats) and ``return_px`` of results.json, as far as the cues have a say.

    An infinite ``return_px`` calls visible whatever came back at all.
    """
    named = {"thresholds": [c.peak_kl for c in cuts], "return_px": [c.return_px for c in cuts]}
    return {name: values for name, values in named.items() if None not in values}


def halved(videos: Sequence[VideoTracks]) -> tuple[list[Bool[Tensor, " points"]], str]:
    """Which points belong to the second half, by video, and how they were split in two.

    Every second of the videos that have frames to evaluate; of a single one every second point.

    Raises:
        ValueError: there is one point only.
    """
    having = [index for index, video in enumerate(videos) if video.evaluated().any()]
    if len(having) > 1:
        second = set(having[1::2])
        halves = [
            torch.full((len(video.target),), index in second) for index, video in enumerate(videos)
        ]
        return halves, "every second video"
    live = [video.evaluated().any(1) for video in videos]
    if sum(int(points.sum()) for points in live) < 2:
        raise ValueError(
            "task.occlusion=cross_fit needs two videos or two points, got a single point; pass "
            "task.occlusion=fixed."
        )
    return [points & (points.cumsum(0) % 2 == 0) for points in live], "every second point"
