"""Who is called visible in the videos of a benchmark, by which cues and by whose thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from tracing.benchmarks.track_videos import Answer, VideoTracks, by_video, flat, joined
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
    def of(cls, answers: Sequence[Answer], videos: Sequence[VideoTracks], name: str) -> "Split":
        """The split that these answers make."""
        return cls(joined(answers, videos).evidence, flat(v.visible for v in videos), name)


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
        said: Sequence[Bool[Tensor, " _"]],
        evidence: Evidence,
        videos: Sequence[VideoTracks],
    ) -> tuple[list[Bool[Tensor, " _"]], dict]:
        """Who is called visible, and what results.json says of it.

        Raises:
            ValueError: there is too little to cross-fit, or the tracer gives other cues only.
        """
        if not evidence.cues:
            every = all(bool(called.all()) for called in said)
            rule = "everything is called visible" if every else "as the tracer itself says"
            return list(said), {"rule": rule}
        if not evidence.suffices(self.cues):
            raise ValueError(
                f"task.cues={self.cues} needs {' and '.join(CUES[self.cues])}, got only "
                f"{' and '.join(sorted(evidence.cues))}; pass tracer.occlusion={self.cues}."
            )
        text = f"visible where {SAID[self.cues]}"
        if self.how == "fixed":
            return list(said), {"rule": text.format(**OWN), "cues": self.cues}
        visible = flat(video.visible for video in videos)
        evidence = evidence.of(self.cues)
        if self.split is not None:
            cuts, _ = best_cuts(self.split.evidence.of(self.cues), self.split.visible)
            found, chosen, split = cuts.visible(evidence), [cuts], self.split.name
            how = f"chosen on {split}"
        else:
            halves, split = halved(videos)
            found, chosen = cross_fitted_visible(evidence, visible, flat(halves))
            how = f"cross-fitted ({split})"
        told = {"rule": f"{text.format(**CHOSEN)}, {how}", "cues": self.cues, "split": split}
        return by_video(found, videos), told | thresholds(chosen)


def thresholds(cuts: Sequence[Cuts]) -> dict[str, list[float]]:
    """``thresholds`` (nats) and ``return_px`` of results.json, as far as the cues have a say.

    An infinite ``return_px`` calls visible whatever came back at all.
    """
    named = {"thresholds": [c.peak_kl for c in cuts], "return_px": [c.return_px for c in cuts]}
    return {name: values for name, values in named.items() if None not in values}


def halved(videos: Sequence[VideoTracks]) -> tuple[list[Bool[Tensor, " _"]], str]:
    """Which items belong to the second half, by video, and how they were split in two.

    Every second of the videos of which something is asked; of a single one every second point.

    Raises:
        ValueError: there is one point only.
    """
    having = [index for index, video in enumerate(videos) if len(video)]
    if len(having) > 1:
        second = set(having[1::2])
        halves = [torch.full((len(own),), index in second) for index, own in enumerate(videos)]
        return halves, "every second video"
    numbers = [video.point.unique(return_inverse=True) for video in videos]
    if sum(len(distinct) for distinct, _ in numbers) < 2:
        raise ValueError(
            "task.occlusion=cross_fit needs two videos or two points, got a single point; pass "
            "task.occlusion=fixed."
        )
    return [rank % 2 == 1 for _, rank in numbers], "every second point"
