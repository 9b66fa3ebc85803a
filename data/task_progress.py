"""How far a job is, by what lies in its task folder: the same for every engine."""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from data.tasks import TaskFolder

LOOK_S = 0.5


class Tally:
    """Inputs, clips and frames so far, of finished tasks and those under way."""

    def __init__(self, folder: TaskFolder) -> None:
        self.folder, self._done, self._started = folder, {}, time.monotonic()
        self._before = self.counts()

    def counts(self) -> Counter:
        """{"inputs", "clips", "frames"} in all, also of earlier commands."""
        under_way = Counter()
        for path in self.folder.path.glob("[0-9]*.*"):
            if path.suffix not in (".json", ".now") or path.stem in self._done:
                continue
            with contextlib.suppress(OSError, ValueError):  # replaced while we look
                content = json.loads(path.read_bytes())
                if path.suffix == ".json":
                    self._done[path.stem] = content["counts"]
                else:
                    under_way.update({name: content[name] for name in COUNTED})
        return sum((Counter(counts) for counts in self._done.values()), under_way)

    def rates(self, now: Counter) -> tuple[dict[str, float], float | None]:
        """Counts per second of this command, and seconds left; None before the first input."""
        seconds = max(time.monotonic() - self._started, 1e-6)
        rates = {name: (now[name] - self._before[name]) / seconds for name in COUNTED}
        left = len(self.folder.job.inputs) - now["inputs"]
        return rates, left / rates["inputs"] if rates["inputs"] > 0 else None


COUNTED = ("inputs", "clips", "frames")


@contextlib.contextmanager
def shown_progress(folder: TaskFolder, console: Console) -> Iterator[None]:
    """A bar with rates and the time left for as long as the job goes on."""
    tally, stopped = Tally(folder), threading.Event()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    texts = TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TextColumn("{task.fields[eta]}")
    with Progress(*columns, *texts, console=console) as progress:
        bar = progress.add_task(
            folder.job.name, total=len(folder.job.inputs), rate="", eta="", start=True
        )

        def look() -> None:
            now = tally.counts()
            rates, left = tally.rates(now)
            progress.update(
                bar,
                completed=now["inputs"],
                rate=f"{rates['clips']:.1f} clips/s {rates['frames']:.0f} frames/s",
                eta="" if left is None else f"{_duration(left)} left",
            )

        def keep_looking() -> None:
            while not stopped.wait(LOOK_S):
                look()

        thread = threading.Thread(target=keep_looking, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            if folder.path.exists():
                look()
            else:
                progress.update(bar, completed=len(folder.job.inputs), eta="")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
