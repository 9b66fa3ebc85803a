"""One self-contained HTML page from results as ``tracing.results_schema`` describes them."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from data.index import write_whole
from tracing.benchmarks.flips import flips_line
from tracing.report_tables import Sheet, rows_sheet, sheets_of
from tracing.report_texts import (
    CONTROLS,
    HOW_TO_READ,
    HOW_TO_READ_TRACKS,
    summary_of,
    title_of,
    warning_of,
)
from tracing.results_schema import check_results
from tracing.visualize import epe_curve_figure, png_bytes

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1c2330;background:#fff;max-width:60rem;
margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #dde2ea;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
th{background:#f3f5f9}tr.marked td{color:#566;background:#fafbfd}
.warning{border-left:.3rem solid #c33;padding-left:.6rem}
img{max-width:100%;height:auto;border:1px solid #dde2ea}
figure{margin:1rem 0}figcaption{font-size:.9rem;color:#456}
code{background:#f3f5f9;padding:.1rem .3rem;overflow-wrap:anywhere}
"""
_MARKED = '<tr class="marked">'


def write_report(results: dict, out: Path) -> None:
    """Write the page, whole; pictures are read beside ``out``.

    Raises:
        ValueError: the results do not follow the schema or a picture is not there.
    """
    check_results(results)
    body = [f"<p>{escape(summary_of(results))}</p>"]
    if warning := warning_of(results):
        body.append(f'<p class="warning">{escape(warning)}</p>')
    body += ["<h2>How to read this</h2>", f"<p>{HOW_TO_READ}</p>"]
    if results.get("videos"):
        body.append(f"<p>{HOW_TO_READ_TRACKS}</p>")
    first, *others = sheets_of(results)
    body += _section(first)
    body += [f"<p>{escape(line)}</p>" for line in _flips(results["tracers"])]
    for sheet in others:
        body += _section(sheet)
    if results["controls"]:
        body += ["<h2>Controls</h2>", f"<p>{CONTROLS}</p>"]
        body.append(_table(rows_sheet("Controls", results["controls"])))
    if results.get("curve"):
        figure = epe_curve_figure(results["curve"], curve_lines(results))
        body += ["<h2>EPE while pretraining went on</h2>", _image(png_bytes(figure), "EPE by step")]
    if pictures := results.get("pictures"):
        body.append("<h2>What the tracers saw</h2>")
        body += [_image(read_picture(out.parent / p["file"]), p["caption"]) for p in pictures]
    for name in ("stamp", "protocol", "provenance"):
        body += [f"<h2>{name.capitalize()}</h2>", _record(results[name])]
    write_whole(out, page_of(title_of(results), body).encode())


def write_sheets(title: str, sheets: Sequence[Sheet], out: Path) -> None:
    """Write a page of nothing but tables, whole."""
    body = [line for sheet in sheets for line in _section(sheet)]
    write_whole(out, page_of(title, body).encode())


def page_of(title: str, body: Sequence[str]) -> str:
    """A page that needs nothing from outside; ``body`` is HTML."""
    inside = "\n".join([f"<h1>{escape(title)}</h1>", *body])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{inside}\n"
        "</body></html>\n"
    )


def curve_lines(results: Mapping) -> dict[str, float]:
    """Levels that the curve of pretraining is held against, px."""
    if "curve_lines" in results:
        return results["curve_lines"]
    lines = {
        row["name"].replace("_", " "): row["epe"]
        for row in results["tracers"]
        if row["name"] == "zero_motion" or row["name"].startswith("dis")
    }
    return lines | {"read-out floor": results["floor"]}


def read_picture(path: Path) -> bytes:
    """A picture's file.

    Raises:
        ValueError: it is not there.
    """
    if not path.is_file():
        raise ValueError(
            f"picture {path} is not there; give its name relative to the report, or leave it out."
        )
    return path.read_bytes()


def _section(sheet: Sheet) -> list[str]:
    said = [f"<p>{escape(sheet.said)}</p>"] if sheet.said else []
    return [f"<h2>{escape(sheet.title)}</h2>", *said, _table(sheet)]


def _table(sheet: Sheet) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for title in sheet.head)
    body = "".join(
        (_MARKED if number in sheet.marked else "<tr>")
        + "".join(f"<td>{escape(cell)}</td>" for cell in line)
        + "</tr>"
        for number, line in enumerate(sheet.lines)
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _flips(rows: Sequence[Mapping]) -> list[str]:
    """Which tracers did not change a code at once."""
    lines = [flips_line(row["name"], row.get("flips")) for row in rows]
    return [line for line in lines if line]


def _image(png: bytes, caption: str) -> str:
    data = base64.b64encode(png).decode("ascii")
    text = escape(caption)
    source = f"data:image/png;base64,{data}"
    return f'<figure><img alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


def _record(values: Mapping) -> str:
    items = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            items.append(f"<li>{escape(str(key))}:{_record(value)}</li>")
        else:
            items.append(f"<li>{escape(str(key))}: <code>{escape(str(value))}</code></li>")
    return f"<ul>{''.join(items)}</ul>"
