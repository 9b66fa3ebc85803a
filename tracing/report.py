"""One self-contained HTML page from the results of an evaluation.

The one schema of ``results.json`` (every task writes it; keys marked ? may be missing):

    {"task": str,
     "protocol": {name: value, ...},          # query mode, placement, masks, read-out, ...
     "dataset": {"name": str, "num_pairs": int, "num_points": int,
                 "resolution_hw": [h, w] | null,     # null: pairs differ in size
                 "input_hw"?: [h, w],                # what the model was given, if resized
                 "num_videos"?: int, "num_unscorable"?: int,         # of point tracks
                 "part"?: str},                      # what was taken of a file, if not all
     "tracers": [row, ...],                   # ours and the baselines
     "controls": [row, ...],                  # tracers that must fail
     "pairs"?: [{"name", "resolution_hw", "num_points", "epe": {tracer: px}}, ...],
     "videos"?: [{"name", "num_points", "scores": {tracer: {"epe", "ad", "delta_avg", "oa", "aj"}}},
                 ...],                       # of point tracks
     "floor": float,                          # EPE in px of a perfect detector on the map's cells
     "curve"?: [{"step": int, "epe": float, ...}, ...],          # EPE while pretraining went on
     "curve_lines"?: {name: epe in px, ...},  # else zero motion and DIS of "tracers", and the floor
     "pictures"?: [{"file": str, "caption": str}, ...],          # PNG, relative to the page
     "provenance": {"command", "git_sha", "seed", "date", "machine": {...}}}

    row = {"name": str, "epe": px, "epe_interval": [low, high], "median": px,
           "delta_avg": fraction, "hit": fraction, "ratio_to_zero": float,
           "target_revealed_share": fraction | null, "seconds": float,
           "paired_vs": {"name", "difference": px, "interval": [low, high], "excludes_zero"} | null,
           "ad"?: px, "oa"?: fraction, "aj"?: fraction, "delta_1"? ... "delta_16"?: fraction,
           "flips"?: {"mean_codes": float, "silent", "dark", "wide": fraction} | null,
           "kept_hidden_share"?: fraction | null,         # of patches that zooms never reveal
           "occlusion"?: {"rule": str, "cues"?: str, "split"?: str, "thresholds"?: [nats, ...],
                          "return_px"?: [px | null, ...],       # null: any; one, or one a half
                          "by_cues"?: {cues: {"oa", "aj", "thresholds"?, "return_px"?}}}}

Pixels are those of the frames at ``resolution_hw``; delta_avg alone is taken at 256x256.
Intervals are 95 % bootstrap over frame pairs. Of point tracks (the keys marked ? of a row and
``videos`` are there) every score is a mean over videos without those that have nothing to score,
intervals are over videos, and null under 10 of them; a score that does not exist is null.
"""

import base64
import os
from html import escape
from pathlib import Path

from tracing.benchmarks.flips import flips_line
from tracing.visualize import epe_curve_figure, png_bytes

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2330;background:#fff;max-width:60rem;
margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #dde2ea;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
th{background:#f3f5f9}tr.floor td{color:#566}
img{max-width:100%;height:auto;border:1px solid #dde2ea}
figure{margin:1rem 0}figcaption{font-size:.9rem;color:#456}
code{background:#f3f5f9;padding:.1rem .3rem;overflow-wrap:anywhere}
"""

_HOW_TO_READ = """
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

_CONTROLS = """
The same scores for tracers that should find nothing, such as an untrained model, a tracer
planted elsewhere or one of zero amplitude. A ratio well below 1 here would mean that something
other than the trained model knows the answer.
"""

_HOW_TO_READ_TRACKS = """
<b>Point tracks:</b> every figure is the mean over videos, in pixels of frames stretched to
256x256. <b>AD</b> is the EPE with the query frame counted in, as it is published; two-frame
tracing is right there by construction. <b>OA</b> is the share of frames in which it was told right
whether the point is in view, and <b>AJ</b> asks for both at once: the place, at the thresholds of
delta_avg, and the visibility. EPE, AD and delta_avg look at visible points only.
"""

_COLUMNS = ("tracer", "EPE (px)", "95 %", "/ zero", "median (px)", "hit", "delta_avg")
_COLUMNS += ("target revealed", "paired difference (px)", "seconds")
_OF_TRACKS = {"ad": "AD (px)", "oa": "OA", "aj": "AJ"}  # further columns


def write_report(results: dict, out: Path) -> None:
    """Write the page; ``results`` follows the schema above, pictures are read beside ``out``.

    Raises:
        ValueError: a key of the schema is missing or a picture is not there.
    """
    needed = ("task", "protocol", "dataset", "tracers", "controls", "floor", "provenance")
    if missing := [key for key in needed if key not in results]:
        raise ValueError(
            f"results lack {', '.join(missing)} (they hold {', '.join(results) or 'nothing'}); "
            "the schema stands at the top of tracing/report.py."
        )
    dataset = results["dataset"]
    title = f"Zero-shot flow: {results['task']}, {dataset['name']}"
    body = [f"<h1>{escape(title)}</h1>", f"<p>{_summary(dataset)}</p>"]
    body += ["<h2>How to read this</h2>", f"<p>{_HOW_TO_READ}</p>"]
    if results.get("videos"):
        body.append(f"<p>{_HOW_TO_READ_TRACKS}</p>")
    body += ["<h2>Tracers</h2>", _table(results["tracers"], results["floor"])]
    body += [f"<p>{escape(line)}</p>" for line in _flips(results["tracers"])]
    if results.get("pairs"):
        body += ["<h2>EPE (px) pair by pair</h2>", _pairs_table(results["pairs"])]
    if results.get("videos"):
        body += ["<h2>Video by video</h2>", _videos_table(results["videos"])]
    if results["controls"]:
        body += ["<h2>Controls</h2>", f"<p>{_CONTROLS}</p>", _table(results["controls"])]
    if results.get("curve"):
        figure = epe_curve_figure(results["curve"], _curve_lines(results))
        body += ["<h2>EPE while pretraining went on</h2>", _image(png_bytes(figure), "EPE by step")]
    if pictures := results.get("pictures"):
        body.append("<h2>What the tracers saw</h2>")
        body += [_image(_read_picture(out.parent / p["file"]), p["caption"]) for p in pictures]
    body += ["<h2>Protocol</h2>", _record(results["protocol"])]
    body += ["<h2>Provenance</h2>", _record(results["provenance"])]

    unfinished = out.with_name(f".{out.name}")
    unfinished.write_text(_page(title, "\n".join(body)), encoding="utf-8")
    os.replace(unfinished, out)


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n"
        "</body></html>\n"
    )


def _summary(dataset: dict) -> str:
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
            videos += f", not the whole file but {escape(dataset['part'])},"
    return (
        f"{dataset['num_points']:,} scored points in {dataset['num_pairs']:,} frame pairs{videos} "
        f"{size}.{resized}"
    )


def _table(rows: list[dict], floor: float | None = None) -> str:
    further = [title for key, title in _OF_TRACKS.items() if rows and key in rows[0]]
    head = "".join(f"<th>{title}</th>" for title in (*_COLUMNS, *further))
    lines = ["".join(f"<td>{cell}</td>" for cell in _cells(row)) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    if floor is not None:
        empty = "<td></td>" * (len(_COLUMNS) + len(further) - 2)
        body += f'<tr class="floor"><td>read-out floor</td><td>{floor:.3f}</td>{empty}</tr>'
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _flips(rows: list[dict]) -> list[str]:
    """Which tracers did not change a code at once."""
    lines = [flips_line(row["name"], row.get("flips")) for row in rows]
    return [line for line in lines if line]


def _pairs_table(pairs: list[dict]) -> str:
    names = list(pairs[0]["epe"])
    head = "".join(f"<th>{escape(n)}</th>" for n in ("pair", "height x width", "points", *names))
    lines = []
    for pair in pairs:
        cells = [escape(pair["name"]), "{}x{}".format(*pair["resolution_hw"])]
        cells += [f"{pair['num_points']:,}"] + [_optional(pair["epe"][n], ".2f") for n in names]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _videos_table(videos: list[dict]) -> str:
    """EPE and AJ of every tracer, a row a video."""
    names = [escape(name) for name in videos[0]["scores"]]
    titles = [f"{name} {score}" for name in names for score in ("EPE", "AJ")]
    head = "".join(f"<th>{title}</th>" for title in ("video", "points", *titles))
    lines = []
    for video in videos:
        cells = [escape(video["name"]), f"{video['num_points']:,}"]
        for scores in video["scores"].values():
            cells += [_optional(scores["epe"], ".2f"), _optional(scores["aj"], ".3f")]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _cells(row: dict) -> list[str]:
    paired = row.get("paired_vs")
    difference = "–"
    if paired:
        difference = _optional(paired["difference"], "+.3f")
        if paired["interval"]:
            difference += " [{:+.3f}, {:+.3f}]".format(*paired["interval"])
        difference += f" vs {escape(paired['name'])}"
    return [
        escape(row["name"]),
        _optional(row["epe"], ".3f"),
        "{:.2f} – {:.2f}".format(*row["epe_interval"]) if row["epe_interval"] else "–",
        _optional(row["ratio_to_zero"], ".3f"),
        _optional(row["median"], ".3f"),
        _optional(row["hit"], ".3f"),
        _optional(row["delta_avg"], ".3f"),
        _optional(row.get("target_revealed_share"), ".1%"),
        difference,
        f"{row['seconds']:.1f}",
        *(_optional(row[key], ".3f") for key in _OF_TRACKS if key in row),
    ]


def _optional(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _curve_lines(results: dict) -> dict[str, float]:
    if "curve_lines" in results:
        return results["curve_lines"]
    named = {row["name"]: row["epe"] for row in results["tracers"]}
    lines = {
        name.replace("_", " "): epe
        for name, epe in named.items()
        if name == "zero_motion" or name.startswith("dis")
    }
    return lines | {"read-out floor": results["floor"]}


def _read_picture(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(
            f"picture {path} is not there; give its name relative to the report, or leave it out."
        )
    return path.read_bytes()


def _image(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    text = escape(caption)
    source = f"data:image/png;base64,{data}"
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def _record(values: dict) -> str:
    items = []
    for key, value in values.items():
        if isinstance(value, dict):
            items.append(f"<li>{escape(str(key))}:{_record(value)}</li>")
        else:
            items.append(f"<li>{escape(str(key))}: <code>{escape(str(value))}</code></li>")
    return f"<ul>{''.join(items)}</ul>"
