"""What a page says round the tables, in the little HTML that both pages understand: <b>."""

from collections.abc import Mapping

HOW_TO_READ = """
A point is marked in frame 0, and each tracer says where it is in frame 1.
<b>EPE</b> is the mean distance from the truth in pixels, lower is better, with its 95 % interval;
<b>/ zero</b> divides it by the EPE of answering "it did not move": below 1 something was seen.
<b>hit</b> is the share of points whose true place is within the patch-sized square round the
answer. <b>delta_avg</b> is the mean share of points closer than 1, 2, 4, 8 and 16 px, with frames
stretched to 256x256. <b>target revealed</b> is the share of points that could not be answered,
because the patch they went to was shown to the model in every mask; they count as errors.
The <b>read-out floor</b> is the EPE of a perfect detector that can only name a cell of the map
of whole frames; a zoom can go below it.
"""

CONTROLS = """
The same scores for tracers that should find nothing, such as an untrained model, a tracer
planted elsewhere or one of zero amplitude. A ratio well below 1 here would mean that something
other than the trained model knows the answer.
"""

HOW_TO_READ_TRACKS = """
<b>Point tracks:</b> every figure is the mean over videos, in pixels of frames stretched to
256x256. <b>AD</b> is the EPE with the query frame counted in, as it is published; two-frame
tracing is right there by construction. <b>OA</b> is the share of frames in which it was told right
whether the point is in view, and <b>AJ</b> asks for both at once: the place, at the thresholds of
delta_avg, and the visibility. <b>OF1</b> is the F1 score of telling that it is hidden. EPE, AD and
delta_avg look at visible points only.
"""


def title_of(results: Mapping) -> str:
    """What the page is called."""
    return f"Zero-shot flow: {results['task']}, {results['dataset']['name']}"


def summary_of(results: Mapping) -> str:
    """How much was scored and at which sizes, plain text."""
    dataset = results["dataset"]
    size = "of various sizes, each scored in its own pixels"
    if dataset["resolution_hw"]:
        size = "of {}x{} px (height x width)".format(*dataset["resolution_hw"])
    given = dataset.get("input_hw")
    resized = " The model was given {}x{} px.".format(*given) if given else ""
    videos = ""
    if "num_videos" in dataset:
        size = "scored at {}x{} px".format(*dataset["resolution_hw"])
        left_out = dataset["num_unscorable"]
        videos = f" of {dataset['num_videos']:,} videos ({left_out} without a point to score)"
        if "part" in dataset:
            videos += f", not the whole file but {dataset['part']},"
    return (
        f"{dataset['num_points']:,} scored points in {dataset['num_pairs']:,} frame pairs{videos} "
        f"{size}.{resized}"
    )


def warning_of(results: Mapping) -> str:
    """What must be said before any figure; empty where all that was asked for is answered."""
    coverage = results["coverage"]
    if coverage["share"] >= 1:
        return ""
    return (
        f"NOT COMPLETE: graded on {coverage['units']} of {coverage['of_units']} units "
        f"({coverage['share']:.1%})."
    )
