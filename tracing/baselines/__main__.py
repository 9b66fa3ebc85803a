"""``python -m tracing.baselines``: every baseline, what it needs, and whether it is here."""

from rich.console import Console
from rich.table import Table

from tracing.baselines.registry import BASELINES


def main(console: Console | None = None) -> None:
    """Print the list."""
    table = Table(title="python eval.py tracer=NAME ...", show_lines=True)
    for title in ("name", "needs", "weights", "licence", "reference", "at hand"):
        table.add_column(title, overflow="fold")
    for each in BASELINES:
        table.add_row(
            each.name, each.needs, each.weights, each.licence, each.reference, each.at_hand()
        )
    (console or Console()).print(table, markup=False)


if __name__ == "__main__":
    main()
