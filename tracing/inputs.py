"""What a tracer refuses before it traces: one function, which every tracer calls first."""

from jaxtyping import Bool, Float
from torch import Tensor

SLACK = 1e-5  # of a side: what float32 loses when points at the border are carried through resizes


def check_question(frame0: Tensor, frame1: Tensor, points: Tensor) -> None:
    """Refuse what no tracer can answer. No points are a question too: its answer is empty.

    The frame includes its whole border: x from 0 to its width, y from 0 to its height.

    Raises:
        ValueError: frames that are no batch of RGB, differ in shape, are integer, not finite or
            not in [0, 1]; points that are no float (batch, points, 2), not finite, or outside.
    """
    check_frames(frame0, frame1)
    shaped = points.ndim == 3 and points.shape[::2] == (len(frame0), 2)
    if not (shaped and points.is_floating_point()):
        raise ValueError(
            f"points must be float (batch, points, 2) with a batch of {len(frame0)} as the frames, "
            f"got {points.dtype} {tuple(points.shape)}; stack the (x, y) of each pair's queries."
        )
    height, width = frame0.shape[-2:]
    wrong = ~inside_frame(points, (height, width), SLACK)  # True where a number is NaN, too
    if wrong.any():
        pair, index = wrong.nonzero()[0].tolist()
        x, y = points[pair, index].tolist()
        of_pair = f" of pair {pair}" if len(frame0) > 1 else ""
        raise ValueError(
            f"query {index}{of_pair} is at x={x:g}, y={y:g}, outside the frame of {width}x{height} "
            f"px (width x height); give (x, y) in pixels, from 0 to {width} and 0 to {height}."
        )


def check_frames(frame0: Tensor, frame1: Tensor) -> None:
    """The part of ``check_question`` that looks at the frames."""
    if frame0.shape != frame1.shape:
        shapes = f"{tuple(frame0.shape)} and {tuple(frame1.shape)}"
        raise ValueError(f"both frames must have one shape, got {shapes}; resize one of them.")
    if frame0.ndim != 4 or frame0.shape[1] != 3:
        raise ValueError(
            f"frames must be (batch, 3, height, width), got {tuple(frame0.shape)}; put channels "
            "first and add a batch axis."
        )
    for number, frame in enumerate((frame0, frame1)):
        if not frame.is_floating_point():
            raise ValueError(f"frames must be float in [0, 1], got {frame.dtype}; divide by 255.")
        if not frame.numel():
            continue  # PatchGrid says what is wrong with a frame without pixels
        low, high = (value.item() for value in frame.aminmax())  # NaN if a pixel is
        if not (low > -float("inf") and high < float("inf")):
            bad = int((~frame.isfinite()).sum())
            raise ValueError(
                f"frame {number} holds {bad} values that are NaN or infinite; frames must be "
                "finite, in [0, 1]: mend or leave out the picture."
            )
        if low < -1 / 255 or high > 1 + 1 / 255:
            raise ValueError(
                f"frame {number} has values from {low:g} to {high:g}; frames must be in [0, 1]: "
                "divide 8-bit values by 255, or clamp."
            )


def inside_frame(
    points: Float[Tensor, "*n 2"], frame_hw: tuple[int, int], slack: float = 0.0
) -> Bool[Tensor, "*n"]:
    """Whether each (x, y) is in the frame, border included; ``slack`` is a share of each side."""
    size = points.new_tensor(frame_hw[::-1])
    return ((points >= -slack * size) & (points <= (1 + slack) * size)).all(-1)
