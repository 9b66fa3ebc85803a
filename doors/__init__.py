"""What both doors do with a caller's mistake: one sentence, exit status 1, nothing half-written."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hydra.errors import InstantiationException

import doors.help  # noqa: F401  registers what their configs call ${door_help:...}


@contextmanager
def one_sentence(tidy: Callable[[], None]) -> Iterator[None]:
    """Turn a ValueError or FileNotFoundError into its message, after ``tidy`` has cleaned up.

    ``HYDRA_FULL_ERROR=1`` lets the exception through with its traceback.
    """
    try:
        yield
        return
    except (ValueError, FileNotFoundError) as error:
        problem: BaseException = error
    except InstantiationException as error:  # hydra wraps what a constructor raises
        if not isinstance(error.__cause__, ValueError | FileNotFoundError):
            raise  # hydra's own sentence, with the place in the config
        problem = error.__cause__
    if os.environ.get("HYDRA_FULL_ERROR"):
        raise problem
    tidy()
    # An error from a loader's worker carries its traceback; its last line is the sentence.
    sys.exit(f"error: {str(problem).strip().splitlines()[-1].removeprefix('ValueError: ')}")
