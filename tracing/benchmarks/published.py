"""Published figures, to be printed beside ours, and what keeps them from being compared.

Point tracks: AJ, delta_avg, OA and OF1 in percent, AD in px, all at 256x256. Dense flow: EPE in px,
Fl-all in percent. Every figure stands as its source prints it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

OPT_CWM = "Opt-CWM paper, Table 1"
KL_TRACING = "KL-tracing paper (v2), Table 3"
APPENDIX_C = "KL-tracing paper, Appendix C"
POINT_PROMPTING = "Point Prompting, arXiv 2510.11715"
TAPNET = "tapnet README"
LITE = "LiteTracker README"
ALLTRACKER = "AllTracker README"
TRACK_ON_R = "summaries of arXiv 2603.12217"
PTLFLOW = "PTLFlow, paper_ptlflow_metrics.csv"

TRACKS = MappingProxyType(
    {
        "aj": "AJ (%)",
        "ad": "AD (px)",
        "delta_avg": "delta_avg (%)",
        "oa": "OA (%)",
        "of1": "OF1 (%)",
    }
)
FLOW = MappingProxyType(
    {
        "dense_epe": "EPE (px)",
        "dense_fl_all": "Fl-all (%)",
        "dense_fl_all_pooled": "Fl-all pooled (%)",
    }
)
PERCENT = ("aj", "delta_avg", "oa", "of1")  # fractions in our rows
ALIASES = {
    "davis": ("davis", "tapvid_davis"),
    "kinetics_sampled": ("kinetics_sampled", "kinetics_30", "tapvid_kinetics_sampled"),
    "kinetics": ("kinetics", "tapvid_kinetics"),
    "rgb_stacking": ("rgb_stacking", "tapvid_rgb_stacking"),
    "robotap": ("robotap", "tapvid_robotap"),
    "kubric": ("kubric", "tapvid_kubric"),
    "sintel_clean": ("sintel_clean",),
    "sintel_final": ("sintel_final",),
    "kitti15": ("kitti15", "kitti_15", "kitti2015", "kitti_2015"),
}


@dataclass(frozen=True, kw_only=True)
class Published:
    """One method's figures on one data set. ``mode`` is the query mode, empty for dense flow."""

    method: str
    dataset: str
    mode: str
    scores: Mapping[str, float]
    columns: Mapping[str, str]  # of the table it stands in: score -> title
    frames: str = "two"
    resolution: str = "not stated"
    source: str
    differs: str = ""  # what of its protocol differs from ours; empty: nothing known


def _tracks(
    dataset: str, mode: str, lines: Mapping[str, tuple], source: str, **about: Any
) -> list[Published]:
    """Lines of a table: method -> AJ, AD, delta_avg, OA, OF1, as many as there are; None: none."""
    return [
        Published(
            method=method,
            dataset=dataset,
            mode=mode,
            scores={k: v for k, v in zip(TRACKS, figures, strict=False) if v is not None},
            columns=TRACKS,
            source=source,
            **about,
        )
        for method, figures in lines.items()
    ]


_FIRST = {
    "davis": {
        "RAFT (supervised)": (41.77, 25.33, 54.37, 66.40, 56.12),
        "SEA-RAFT (supervised)": (43.41, 20.18, 58.69, 66.34, 56.23),
        "Doduo": (23.34, 13.41, 48.50, 47.91, 49.43),
        "GMRW": (36.47, 20.26, 54.59, 76.36, 42.85),
        "SMURF": (30.64, 27.28, 44.18, 59.15, 46.91),
        "CWM": (15.00, 23.53, 26.30, 76.63, 18.22),
        "Opt-CWM": (47.53, 8.73, 64.83, 80.87, 60.74),
        "Opt-CWM distilled (SEA-RAFT)": (44.05, 17.49, 57.93, 69.75, 60.72),
    },
    "kinetics_sampled": {
        "RAFT (supervised)": (44.02, 19.49, 56.76, 75.86, 72.00),
        "SEA-RAFT (supervised)": (39.27, 24.28, 52.63, 71.25, 69.19),
        "Doduo": (14.65, 16.04, 45.84, 45.96, 53.94),
        "GMRW": (25.70, 27.65, 41.63, 71.33, 31.68),
        "SMURF": (36.99, 28.73, 48.52, 70.42, 64.73),
        "CWM": (14.84, 30.96, 25.00, 70.90, 16.79),
        "Opt-CWM": (44.85, 13.44, 57.74, 84.12, 77.84),
    },
    "kubric": {
        "RAFT (supervised)": (69.80, 5.51, 80.56, 87.75, 68.48),
        "SEA-RAFT (supervised)": (75.64, 4.74, 85.12, 90.07, 73.80),
        "Doduo": (51.85, 5.67, 64.17, 82.65, 61.97),
        "GMRW (trained on Kubric)": (67.50, 3.16, 81.74, 89.36, 35.14),
        "SMURF": (63.47, 6.71, 78.78, 87.07, 58.60),
        "CWM": (26.54, 11.81, 39.35, 84.14, 13.70),
        "Opt-CWM": (67.61, 4.57, 80.01, 87.95, 67.13),
    },
}
_CFG = {
    "davis": {
        "RAFT (supervised)": (69.69, 1.43, 83.83, 81.98, 46.08),
        "SEA-RAFT (supervised)": (69.89, 1.44, 84.82, 82.00, 47.52),
        "Doduo": (25.61, 1.61, 72.56, 37.49, 22.59),
        "SMURF": (65.75, 2.40, 79.45, 82.26, 42.65),
        "CWM": (27.56, 4.65, 38.55, 88.90, 5.41),
        "Opt-CWM": (69.53, 1.19, 83.15, 88.85, 44.17),
        "Opt-CWM distilled (SEA-RAFT)": (70.51, 1.30, 82.11, 88.05, 55.04),
    },
    "kinetics_sampled": {
        "RAFT (supervised)": (79.01, 0.86, 87.59, 92.73, 49.49),
        "SEA-RAFT (supervised)": (75.12, 1.07, 85.82, 88.90, 39.42),
        "Doduo": (35.26, 1.19, 77.62, 43.00, 11.63),
        "SMURF": (78.76, 0.97, 87.16, 93.13, 47.69),
        "CWM": (34.00, 3.93, 43.37, 95.17, 5.95),
        "Opt-CWM": (75.98, 1.01, 84.31, 96.34, 58.61),
    },
    "kubric": {
        "RAFT (supervised)": (73.38, 1.24, 83.73, 91.00, 63.17),
        "SEA-RAFT (supervised)": (77.53, 1.00, 87.02, 92.50, 68.65),
        "Doduo": (56.57, 1.74, 68.63, 87.26, 55.01),
        "SMURF": (69.05, 1.59, 82.38, 90.84, 53.49),
        "CWM": (30.72, 4.05, 42.33, 88.44, 4.27),
        "Opt-CWM": (70.70, 1.26, 82.78, 90.31, 57.30),
    },
}
_DRAWS = "Kubric's tracks are drawn at random and everybody's draw differs"
_VIDEO = {"frames": "whole video", "differs": "sees the whole video, not two frames"}
_ONE_POINT = {"frames": "whole video", "differs": "one query point per video, whole video"}


def _two_frame_tracks() -> list[Published]:
    found = []
    for mode, tables in (("first", _FIRST), ("cfg", _CFG)):
        for dataset, lines in tables.items():
            about = {"differs": _DRAWS} if dataset == "kubric" else {}
            found += _tracks(dataset, mode, lines, OPT_CWM, **about)
    lras = {"KL-tracing, LRAS 7B": (44.16, 11.18, 65.20, 74.58), "DiffTrack": (None, None, 46.90)}
    found += _tracks("davis", "first", lras, KL_TRACING)
    lras = {"KL-tracing, LRAS 7B": (65.49, 5.06, 81.66, 87.63)}
    found += _tracks("kubric", "first", lras, KL_TRACING, differs=_DRAWS)
    held_to_two = {
        "CoTracker3, held to two frames (supervised)": (39.9, None, 58.0, 76.9),
        "AllTracker, held to two frames (supervised)": (54.9, None, 66.0, 78.0),
    }
    return found + _tracks("davis", "first", held_to_two, APPENDIX_C)


def _video_tracks() -> list[Published]:
    """Methods that see the whole video: an upper reference."""
    prompting = {
        "256x256": {"Point Prompting (Wan2.1-14B)": (42.21, None, 57.29, 82.90)},
        "upscaled": {"Point Prompting (Wan2.1-14B)": (45.48, None, 60.16, 83.49)},
        "native": {"Point Prompting (Wan2.1-14B)": (48.60, None, 63.47, 85.75)},
    }
    found = []
    for size, lines in prompting.items():
        found += _tracks("davis", "first", lines, POINT_PROMPTING, resolution=size, **_ONE_POINT)
    found += _tracks(
        "davis",
        "first",
        {"TAP-Net": (33.0,), "TAPIR": (58.5,), "BootsTAPIR": (62.4,), "BootsTAPNext": (65.25,)},
        TAPNET,
        **_VIDEO,
    )
    for size, aj in (("256x256", 65.6), ("512x512", 67.0)):
        found += _tracks("davis", "first", {"TAPNext++": (aj,)}, TAPNET, resolution=size, **_VIDEO)
    found += _tracks(
        "davis",
        "first",
        {
            "CoTracker3 online": (63.8, None, 76.3, 90.2),
            "Track-On (48)": (65.0, None, 78.0, 90.8),
            "LiteTracker": (62.0, None, 74.6, 88.4),
        },
        LITE,
        **_VIDEO,
    )
    found += _tracks("davis", "first", {"Track-On-R": (68.1,)}, TRACK_ON_R, **_VIDEO)
    for size, figures in (
        ("384x512", (63.3, None, 76.3, 90.0)),
        ("448x768", (65.9, None, 78.8, 90.2)),
        ("768x1024", (67.2, None, 80.6, 89.7)),
    ):
        about = {"resolution": size} | _VIDEO
        found += _tracks("davis", "first", {"AllTracker": figures}, ALLTRACKER, **about)
    found += _tracks("davis", "strided", {"BootsTAPNext": (68.9,)}, TAPNET, **_VIDEO)
    about = {"resolution": "512x512"} | _VIDEO
    found += _tracks("davis", "strided", {"TAPNext++": (71.2,)}, TAPNET, **about)
    for dataset, cotracker, others in (
        ("kinetics", (55.8, None, 68.5, 88.3), {"BootsTAPNext": (57.3,)}),
        ("robotap", (66.4, None, 78.8, 90.8), {"BootsTAPNext": (64.1,)}),
        ("rgb_stacking", (71.7, None, 83.6, 91.1), {}),
    ):
        found += _tracks(dataset, "first", {"CoTracker3 online": cotracker}, LITE, **_VIDEO)
        found += _tracks(dataset, "first", others, TAPNET, **_VIDEO)
    for dataset, aj in (("kinetics", 57.8), ("robotap", 70.9)):
        found += _tracks(dataset, "first", {"Track-On-R": (aj,)}, TRACK_ON_R, **_VIDEO)
    return found


# Trained on FlyingChairs and FlyingThings3D: as PTLFlow measured it, as the paper says.
_FLOW = {
    "RAFT": ((1.494, 1.43), (2.689, 2.71), (4.961, 5.04), (17.02, 17.4)),
    "SEA-RAFT-M": ((1.273, 1.21), (3.852, 4.04), (4.288, 4.29), (13.93, 14.2)),
    "SEA-RAFT-L": ((1.226, 1.19), (3.419, 4.11), (3.738, 3.62), (12.38, 12.9)),
    "DPFlow": ((1.018, 1.02), (2.269, 2.26), (3.387, 3.37), (11.09, 11.1)),
    "WAFT-twins-a2": ((1.099, 1.02), (2.558, 2.46), (2.983, 2.98), (9.81, 9.9)),
}


def _dense_flow() -> list[Published]:
    found = []
    for method, (clean, final, epe, fl_all) in _FLOW.items():
        for which, (measured, source) in enumerate(
            ((True, f"measured by {PTLFLOW}"), (False, f"its paper, as in {PTLFLOW}"))
        ):
            about = {
                "method": f"{method} (supervised, C+T)",
                "mode": "",
                "columns": FLOW,
                "resolution": "native",
                "source": source,
            }
            for dataset, figures in (("sintel_clean", clean), ("sintel_final", final)):
                scores = {"dense_epe": figures[which]}
                found.append(Published(dataset=dataset, scores=scores, **about))
            # PTLFlow averages Fl-all over images, papers pool pixels.
            kind = "dense_fl_all" if measured else "dense_fl_all_pooled"
            scores = {"dense_epe": epe[which], kind: fl_all[which]}
            found.append(Published(dataset="kitti15", scores=scores, **about))
    return found


PUBLISHED: tuple[Published, ...] = (*_two_frame_tracks(), *_video_tracks(), *_dense_flow())


def published_for(dataset: Mapping[str, Any]) -> list[Published]:
    """Those of the same data set, by name, and of the same query mode; often none."""
    name = known_name(dataset)
    mode = dataset.get("query_mode", "")
    return [one for one in PUBLISHED if one.dataset == name and one.mode == mode]


# Pairs or videos of a whole set, where a source says so.
WHOLE = {"sintel_clean": 1041, "sintel_final": 1041, "kitti15": 200}
WHOLE |= {"davis": 30, "kinetics_sampled": 30, "rgb_stacking": 50, "kubric": 250}


def known_name(dataset: Mapping[str, Any]) -> str | None:
    """The key of ``ALIASES`` that a data set's name means; None: not a published one."""
    said = str(dataset["name"]).lower().removesuffix(".pkl").removesuffix(".npz")
    said = said.replace("-", "_").replace(" ", "_")
    return next((key for key, names in ALIASES.items() if said in names), None)


def comparison(one: Published, results: Mapping[str, Any]) -> str:
    """Whether a published row may be held against these results, and if not why."""
    dataset, reasons = results["dataset"], []
    if one.differs:
        reasons.append(one.differs)
    if "part" in dataset:
        reasons.append(f"here only {dataset['part']}")
    there = dataset.get("num_videos", dataset["num_pairs"])
    if (whole := WHOLE.get(known_name(dataset) or "")) is not None and there != whole:
        reasons.append(f"here {there} of {whole}")
    if results["coverage"]["share"] < 1:
        reasons.append(f"here only {results['coverage']['share']:.1%} are answered")
    if not reasons:
        return "yes"
    return f"no: {'; '.join(reasons)}"
