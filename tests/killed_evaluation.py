"""``eval.py`` as it is killed: ``python -m tests.killed_evaluation HOW NUMBER words of eval.py``.

``answer 7`` kills the process with SIGKILL when the seventh answer was given, ``write 3`` in the
middle of the third file of answers; ``slow 50`` takes 50 ms for each answer, for others to kill it.
"""

import os
import signal
import sys
import time
from pathlib import Path

import eval as door
from tracing.benchmarks import predictions

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


def main() -> None:
    how, number = sys.argv[1], int(sys.argv[2])
    # As an imported module the door would look for a package named configs.
    sys.argv = ["eval.py", "--config-path", str(CONFIGS), *sys.argv[3:]]
    left = number
    keep, write = predictions.TracerAnswers.keep, predictions.write_whole

    def is_over() -> bool:
        nonlocal left
        left -= 1
        return left == 0

    def kept(self, *words) -> None:
        keep(self, *words)
        if how == "slow":
            time.sleep(number / 1000)
        if how == "answer" and is_over():
            os.kill(os.getpid(), signal.SIGKILL)

    def written(path, content) -> None:
        if how == "write" and is_over():
            with path.with_name(f".{path.name}.partial-{os.getpid()}").open("wb") as file:
                file.write(content[: len(content) // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    predictions.TracerAnswers.keep, predictions.write_whole = kept, written
    door.main()


if __name__ == "__main__":
    main()
