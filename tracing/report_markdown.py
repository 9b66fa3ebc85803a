"""The tables of an evaluation as Markdown, for a README, an issue or a pull request."""

from collections.abc import Sequence
from pathlib import Path

from data.index import write_whole
from tracing.report_tables import Sheet, rows_sheet, sheets_of
from tracing.report_texts import HOW_TO_READ, HOW_TO_READ_TRACKS, summary_of, title_of, warning_of
from tracing.results_schema import check_results


def write_markdown(results: dict, out: Path) -> None:
    """Write the page, whole; pictures are named as they lie beside ``out``.

    Raises:
        ValueError: the results do not follow the schema.
    """
    check_results(results)
    blocks = [_escaped(summary_of(results))]
    if warning := warning_of(results):
        blocks.append(f"**{_escaped(warning)}**")
    blocks.append(_bold(HOW_TO_READ))
    if results.get("videos"):
        blocks.append(_bold(HOW_TO_READ_TRACKS))
    sheets = sheets_of(results)
    if results["controls"]:
        sheets.append(rows_sheet("Controls", results["controls"]))
    blocks += [block for sheet in sheets for block in _section(sheet)]
    for picture in results.get("pictures", []):
        blocks.append(f"![{_escaped(picture['caption'])}]({picture['file']})")
    stamp = [f"- {key}: `{value}`" for key, value in results["stamp"].items()]
    blocks += ["## Stamp", "\n".join(stamp)]
    write_whole(out, markdown_of(title_of(results), blocks).encode())


def write_sheets(title: str, sheets: Sequence[Sheet], out: Path) -> None:
    """Write a page of nothing but tables, whole."""
    blocks = [block for sheet in sheets for block in _section(sheet)]
    write_whole(out, markdown_of(title, blocks).encode())


def markdown_of(title: str, blocks: Sequence[str]) -> str:
    """A page; ``blocks`` are Markdown."""
    return "\n\n".join([f"# {_escaped(title)}", *blocks]) + "\n"


def _section(sheet: Sheet) -> list[str]:
    rule = "|---|" + "---:|" * (len(sheet.head) - 1)
    lines = [_line(sheet.head), rule, *map(_line, sheet.lines)]
    said = [_escaped(sheet.said)] if sheet.said else []
    return [f"## {_escaped(sheet.title)}", *said, "\n".join(lines)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    for sign in "\\|<>*_`":
        text = text.replace(sign, f"\\{sign}")
    return text.replace("\n", " ")


def _bold(text: str) -> str:
    """Prose of ours, which has <b> and no other markup."""
    plain = text.strip().replace("<b>", "**").replace("</b>", "**")
    return plain.replace("delta_avg", "delta\\_avg")
