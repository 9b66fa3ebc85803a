"""The page of a study: sentences, pictures and tables in one HTML file that needs nothing else."""

import io
import os
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

import matplotlib
from matplotlib.figure import Figure

from data.index import write_whole
from studies.collect import Run, Study
from studies.findings import Findings
from studies.plots import figures_of
from studies.runs_csv import rows_of, write_rows
from studies.tables import runs_sheet, sheets_of
from studies.texts import HOW_TO_READ, summary_of, title_of
from tracing.report_page import page_of
from tracing.report_tables import Sheet

PAGE, TABLE = "report.html", "runs.csv"
_STYLE = """
body{max-width:80rem}
figure svg{max-width:100%;height:auto;background:#fff;border:1px solid #dde2ea}
svg a{cursor:pointer}
td.words{white-space:normal;text-align:left;min-width:14rem}
ul.said li{margin:.25rem 0}
@media (prefers-color-scheme:dark){
body{color:#dde2ea;background:#14181f}a{color:#8ab8ff}
th{background:#232a35}th,td{border-color:#333c4a}figcaption{color:#a9b4c4}
code{background:#232a35}figure svg{border-color:#333c4a}}
"""
_SALT = {"svg.hashsalt": "lras", "svg.fonttype": "path"}  # the same input, the same bytes


def write_page(study: Study, found: Findings, out: Path) -> list[Path]:
    """Write ``report.html``, ``runs.csv`` and each picture as PNG and SVG; what was written.

    Raises:
        ValueError: ``out`` is or lies in a file, or cannot be written.
    """
    _make_folder(out)

    def link(run: Run) -> str:
        # as seen from the page; never a scheme or a host, whatever a folder is called
        return quote(Path(os.path.relpath(study.root / run.path, out)).as_posix()) + "/"

    write_rows(rows_of(study, found.emergence_share), out / TABLE)
    written, shown = [out / PAGE, out / TABLE], []
    for name, (figure, caption) in figures_of(study, found, link).items():
        svg = svg_bytes(figure)
        figure.set_layout_engine("none")  # it is laid out by now
        write_whole(out / f"{name}.svg", svg)
        write_whole(out / f"{name}.png", png_bytes(figure))
        written += [out / f"{name}.png", out / f"{name}.svg"]
        shown.append(_figure(svg.decode(), caption))
    body = [f"<style>{_STYLE}</style>", _sentences("said", summary_of(study, found)), *shown]
    body += ["<h2>How to read this</h2>", f"<p>{escape(HOW_TO_READ)}</p>"]
    for sheet in sheets_of(study, found):
        body += _section(sheet)
    body += _section(runs_sheet(study, found), [link(run) for run in study.runs])
    if study.unfinished:
        body += ["<h2>Unfinished</h2>", _sentences("", study.unfinished)]
    if study.damaged:
        body += ["<h2>Damaged, left out</h2>", _sentences("", study.damaged)]
    body += _made_by(study)
    write_whole(out / PAGE, page_of(title_of(study, found), body).encode())
    return written


def svg_bytes(figure: Figure) -> bytes:
    """The figure as SVG: the same bytes for the same figure."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_SALT):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def png_bytes(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(f"out={out} is a file or lies in one; name a folder.") from None
    except OSError as error:
        raise ValueError(f"out={out} cannot be made ({error.strerror}); name another.") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise ValueError(f"out={out} cannot be written; name a folder of yours.")


def _figure(svg: str, caption: str) -> str:
    """The picture inline, so that its points can be followed."""
    inside = re.sub(r"^.*?(?=<svg)", "", svg, count=1, flags=re.S)  # no prolog within a page
    inside = re.sub(r"<metadata>.*?</metadata>", "", inside, flags=re.S)
    text = escape(caption)
    inside = inside.replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    return f"<figure>{inside}<figcaption>{text}</figcaption></figure>"


def _section(sheet: Sheet, links: Sequence[str] = ()) -> list[str]:
    """A table; with ``links``, the first cell of each line leads there."""
    said = [f"<p>{escape(sheet.said)}</p>"] if sheet.said else []
    head = "".join(f"<th>{escape(title)}</th>" for title in sheet.head)
    lines = []
    for number, line in enumerate(sheet.lines):
        cells = [_cell(text) for text in line]
        if links:
            cells[0] = f'<td><a href="{escape(links[number])}">{escape(line[0])}</a></td>'
        lines.append(f"<tr>{''.join(cells)}</tr>")
    table = f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
    return [f"<h2>{escape(sheet.title)}</h2>", *said, table]


def _cell(text: str) -> str:
    words = ' class="words"' if len(text) > 45 else ""
    return f"<td{words}>{escape(text)}</td>"


def _sentences(kind: str, sentences: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(each)}</li>" for each in sentences)
    return f'<ul class="{kind}">{items}</ul>' if kind else f"<ul>{items}</ul>"


def _made_by(study: Study) -> list[str]:
    body = ["<h2>Made by</h2>"]
    for title, name in (("code", "git_sha"), ("machine", "machine")):
        values = sorted({getattr(run.card, name) for run in study.runs})
        body.append(f"<p>{title}: {', '.join(f'<code>{escape(v)}</code>' for v in values)}</p>")
    commands = sorted({run.card.command for run in study.runs})
    shown = [f"<code>{escape(command)}</code>" for command in commands[:5]]
    more = f" and {len(commands) - 5} more" if len(commands) > 5 else ""
    return [*body, f"<p>commands: {'<br>'.join(shown)}{more}</p>"]
