"""``python -m tracing.report RUN RUN ...``: several evaluations in one table.

Prints it, and with ``--out DIR`` writes merged.html and merged.md. Runs that asked for something
else are refused, unless ``--force`` is given. One run alone gets
its report.html and report.md anew.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console

from tracing import report_markdown, report_page
from tracing.merge import merged
from tracing.report_page import write_report
from tracing.results_schema import read_results

__all__ = ["main", "write_report"]
WIDTH = 160  # columns, where no terminal says


def main(words: list[str] | None = None) -> None:
    """The command; a mistake ends it with one sentence and exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m tracing.report", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, help="folders that hold a results.json")
    parser.add_argument("--out", type=Path, help="folder for the pages (one run: its own)")
    parser.add_argument("--force", action="store_true", help="merge what cannot be compared")
    given = parser.parse_args(words)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    try:
        written = _report(given.runs, given.out, given.force, console)
    except ValueError as error:
        sys.exit(f"error: {error}")
    for path in written:
        console.print(f"written: {path}", soft_wrap=True, highlight=False, markup=False)


def _report(runs: list[Path], out: Path | None, force: bool, console: Console) -> list[Path]:
    if len(runs) == 1:
        results = read_results(runs[0])
        folder = runs[0] if runs[0].is_dir() else runs[0].parent
        write_report(results, folder / "report.html")  # pictures lie beside it
        report_markdown.write_markdown(results, folder / "report.md")
        return [folder / "report.html", folder / "report.md"]
    title, sheets = merged(runs, force)
    for sheet in sheets:
        console.print(sheet.for_terminal())
        if sheet.said:
            console.print(sheet.said, highlight=False, markup=False)
    if out is None:
        return []
    out.mkdir(parents=True, exist_ok=True)
    report_page.write_sheets(title, sheets, out / "merged.html")
    report_markdown.write_sheets(title, sheets, out / "merged.md")
    return [out / "merged.html", out / "merged.md"]


if __name__ == "__main__":
    main()
