"""What a query mode asks of a video: from which frame each point starts, and which frames count."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tracing.metrics.functional import CFG_GAP, QueryMode, evaluated_frames

STRIDE = 5  # frames; strided: queries in each so-many-th frame
SAID = {
    "first": "from a point's first visible frame to every later one, two frames at a time",
    "strided": f"from every visible point of each {STRIDE}th frame to all other frames, earlier "
    "ones too, two frames at a time",
    "cfg": f"from every visible frame of every point to the frame {CFG_GAP} later",
}
SAID_GIVEN = {
    "first": "from queries given with the data to every later frame, two frames at a time",
    "strided": "from queries given with the data to all other frames, earlier ones too, two "
    "frames at a time",
    "cfg": SAID["cfg"],
}
AD_SAID = {
    "first": "as published, query frame included; there the answer is the query, error 0",
    "strided": "query frame included; there the answer is the query, error 0",
    "cfg": "as published: the error of every query frame enters as 0, which about halves it; "
    "epe is the mean error without them",
}


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Where tracking starts in one video: a point, a frame, and the place asked for (px)."""

    point: Int[Tensor, " queries"]
    frame: Int[Tensor, " queries"]
    xy: Float[Tensor, "queries 2"]

    def __len__(self) -> int:
        return len(self.frame)


def queries_of(
    points: Float[Tensor, "points time 2"],
    visible: Bool[Tensor, "points time"],
    mode: QueryMode,
    given: Queries | None = None,
) -> Queries:
    """The queries of a video, by frame in ``strided`` and by point else.

    ``first``: each point that is ever visible, in its first visible frame. ``strided``: frames 0,
    5, 10, ..., each with all points visible there. ``cfg``: every visible frame with another one
    five frames on. ``given`` queries stand in place of those of ``first`` and ``strided``.

    Source:
        Doersch et al. 2022, TAP-Vid; cfg: Stojanov et al. 2025, Opt-CWM.
    """
    if given is not None and mode != "cfg":
        return given
    if mode == "first":
        point = visible.any(1).nonzero()[:, 0]
        frame = visible.int().argmax(1)[point]
    elif mode == "strided":
        frame, point = visible[:, ::STRIDE].T.nonzero().T
        frame = frame * STRIDE
    else:
        point, frame = visible[:, : max(visible.shape[1] - CFG_GAP, 0)].nonzero().T
    return Queries(point=point, frame=frame, xy=points[point, frame])


def asked_items(queries: Queries, num_frames: int, mode: QueryMode) -> Int[np.ndarray, "items 2"]:
    """(query, target frame) of all that is asked, by query frame, target frame, then query."""
    query, target = evaluated_frames(queries.frame, num_frames, mode).numpy().nonzero()
    return in_order(np.stack([query, target], 1), queries)


def in_order(items: Int[np.ndarray, "items 2"], queries: Queries) -> Int[np.ndarray, "items 2"]:
    """Items by query frame, then target frame, then query, so that pairs of frames stay whole."""
    order = np.lexsort((items[:, 0], items[:, 1], queries.frame.numpy()[items[:, 0]]))
    return items[order].astype(np.int64)
