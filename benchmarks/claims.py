"""Does the project keep its promises? One line each: verdict, what, figure, target.

    python benchmarks/claims.py main            judge; exit status 1 when any promise FAILs
    python benchmarks/claims.py main --list     say what is promised, measure nothing
    python benchmarks/claims.py main --rerun    measure the long ones again first (hours)

``NAME`` stands for ``benchmarks/claims_NAME.py``, which holds ``CLAIMS`` (a list of ``Claim``) and
``COMMANDS`` (result file -> the command that makes it, used where no file records one yet).
"""

import argparse
import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # runs as a script from anywhere

from benchmarks.claim import Claim, NotMeasuredError, Verdict, judge
from benchmarks.result_file import RESULTS, read_result, run_again


def known_names() -> list[str]:
    here = Path(__file__).parent
    return sorted(path.stem.removeprefix("claims_") for path in here.glob("claims_*.py"))


def rerun(
    claims: list[Claim], commands: dict[str, str], folder: Path
) -> dict[str, tuple[str, str]]:
    """Measure every result file of these promises again.

    Returns:
        Result file -> FAIL or NOT MEASURED, and the reason, for those without a new figure.
    """
    failures = {}
    for name in dict.fromkeys(claim.result for claim in claims if claim.result):
        try:
            command = read_result(name, folder)["command"]
        except (NotMeasuredError, ValueError):
            command = commands.get(name)
        if command is None:
            failures[name] = "FAIL", f"nothing says how to measure {name}"
            continue
        print(f"measuring {name}: {command}", file=sys.stderr, flush=True)
        try:
            run_again(command, folder / name)
        except NotMeasuredError as reason:
            failures[name] = "NOT MEASURED", str(reason)
        except RuntimeError as error:
            failures[name] = "FAIL", str(error)
    return failures


def report(
    claims: list[Claim], commands: dict[str, str], again: bool = False, folder: Path = RESULTS
) -> int:
    """Print one line per promise; the exit status."""
    failures = rerun(claims, commands, folder) if again else {}
    words = []
    for claim in claims:
        if claim.result in failures:
            word, reason = failures[claim.result]
            verdict = Verdict(word, claim.what, str(claim.target), note=f"({reason})")
        else:
            verdict = judge(claim)
        print(verdict, flush=True)
        words.append(verdict.word)
    counts = [f"{words.count(word)} {word}" for word in ("PASS", "FAIL", "NOT MEASURED")]
    print(", ".join(counts))
    return int("FAIL" in words)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", metavar="NAME", help=f"one of: {', '.join(known_names())}")
    parser.add_argument("--rerun", action="store_true", help="measure the long promises again")
    parser.add_argument("--list", action="store_true", help="only say what is promised")
    options = parser.parse_args(arguments)
    if options.name not in known_names():
        names = ", ".join(known_names())
        print(f"No promises are named {options.name!r}; type one of: {names}.", file=sys.stderr)
        return 1
    module = importlib.import_module(f"benchmarks.claims_{options.name}")
    if options.list:
        for claim in module.CLAIMS:
            source = f"from {claim.result}" if claim.result else "measured on the spot"
            print(f"{claim.what:<66}  {claim.target!s:<12}  {source}")
        return 0
    return report(module.CLAIMS, module.COMMANDS, again=options.rerun)


if __name__ == "__main__":
    sys.exit(main())
