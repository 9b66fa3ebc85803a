"""Published LRAS checkpoints at the command line.

python -m lras.official inspect FILE                     what is in a published file
python -m lras.official convert FILE OUT                 as an export of ours (safetensors)
python -m lras.official convert FILE OUT --quantizer Q   predictor and quantizer as one model
python -m lras.official verify OUT --golden DIR          its numbers beside the published ones
python -m lras.official export MODEL FILE                a model of ours in the published layout
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from lras.checkpoint import load_predictor, load_quantizer, read
from lras.lpq import LPQ
from lras.official.convert import convert
from lras.official.export import export
from lras.official.files import WEIGHT_KEYS, as_official, read_torch_file
from lras.official.golden import compare
from lras.shown import shown


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message}; see {self.prog} --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m lras.official",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("inspect", help="print what is in a published checkpoint file")
    one.add_argument("path", metavar="FILE", type=Path)
    one.set_defaults(run=inspect_file)
    one = commands.add_parser("convert", help="write a published checkpoint as an export of ours")
    one.add_argument("path", metavar="FILE", type=Path)
    one.add_argument("out", metavar="OUT", type=Path, help="folder to write")
    one.add_argument("--quantizer", metavar="FILE", type=Path, help="put its quantizer beside it")
    one.add_argument("--max-shard", default="5GB", help="largest weights file (default 5GB)")
    one.set_defaults(run=convert_file)
    one = commands.add_parser("verify", help="compare an export's answers with published arrays")
    one.add_argument("path", metavar="OUT", type=Path)
    one.add_argument("--golden", metavar="DIR", type=Path, required=True)
    one.set_defaults(run=verify_export)
    one = commands.add_parser("export", help="write a model of ours in the published layout")
    one.add_argument("path", metavar="MODEL", type=Path)
    one.add_argument("out", metavar="FILE", type=Path)
    one.add_argument("--part", choices=("predictor", "quantizer"), help="which, where both are")
    one.set_defaults(run=export_model)
    return parser


def inspect_file(options: argparse.Namespace) -> int:
    """Print the file's contents, then whether it can be used; even if it contradicts itself."""
    state = read_torch_file(options.path)
    for key, value in state.items():
        if isinstance(value, Mapping) and key in ("cfg", *WEIGHT_KEYS):
            print(f"{key}: {len(value)} entries")
            for name, item in value.items():
                print(f"  {_bare(name)}: {_shown(item)}")
        else:
            print(f"{_bare(key)}: {_shown(value)}")
    official = as_official(options.path, state)
    total = sum(value.numel() for value in official.weights.values())
    kinds = ", ".join(sorted({_kind(value) for value in official.weights.values()}))
    size = sum(value.nbytes for value in official.weights.values())
    print(f"a published {official.kind}: {total:,} numbers, {size / 1e9:.2f} GB, {kinds}")
    return 0


def convert_file(options: argparse.Namespace) -> int:
    print(convert(options.path, options.out, options.quantizer, options.max_shard))
    return 0


def export_model(options: argparse.Namespace) -> int:
    print(export(options.path, options.out, options.part))
    return 0


def verify_export(options: argparse.Namespace) -> int:
    """One line per array; status 1 when any is too far off."""
    about, _ = read(options.path)
    predictor = load_predictor(options.path).float() if "predictor" in about else None
    quantizer = load_quantizer(options.path) if "quantizer" in about else None
    if quantizer is not None and not isinstance(quantizer, LPQ):
        raise ValueError(
            f"{options.path} holds a quantizer of our own, but published arrays are of the "
            "published network; verify a converted checkpoint."
        )
    checks = compare(predictor, quantizer, options.golden)
    for check in checks:
        print(check)
    failed = sum(not check.passed for check in checks)
    print(f"{len(checks) - failed} of {len(checks)} agree")
    return int(failed > 0)


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {_kind(value)}"
    if isinstance(value, argparse.Namespace):
        return ", ".join(f"{_bare(name)}={shown(item)}" for name, item in vars(value).items())
    return f"{len(value)} entries" if isinstance(value, Mapping) else shown(value)


def _bare(name: Any) -> str:
    """A name as it is; whatever else a file may use as one, as short text."""
    return shown(name).strip("'")


def _kind(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"error: {str(error).strip()}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
