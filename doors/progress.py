"""How far a long evaluation has come, and how long it will take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from tracing.asking import Tell

LINE_S = 30.0  # between two lines of progress where there is no terminal


@contextmanager
def progress(
    total: int, console: Console, what: str = "answers", say_known: bool = True
) -> Iterator[Tell]:
    """What is to be told of ``what`` as it comes, to show how much is left and for how long.

    A bar on a terminal; elsewhere, in a log say, a line every ``LINE_S`` seconds. ``say_known``: at
    the end say how much was known already.
    """
    columns = (
        TextColumn("tracing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    bar = Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=600,  # s; one step may take minutes
    )
    started = last_line = time.monotonic()
    recalled = new = 0
    with bar:
        task = bar.add_task("", total=total)

        def tell(count: int, known: bool) -> None:
            nonlocal last_line, recalled, new
            if known:  # what was there already says nothing of the speed
                recalled += count
                bar.reset(task, total=total, completed=recalled + new)
                return
            new += count
            bar.advance(task, count)
            now = time.monotonic()
            if not console.is_terminal and now - last_line > LINE_S:
                last_line, done = now, recalled + new
                left_s = (now - started) / new * (total - done)
                console.print(f"{done} of {total} {what}, {left_s:.0f} s left", highlight=False)

        yield tell
    if recalled and say_known:
        console.print(f"{recalled} of {total} {what} were there already", highlight=False)
