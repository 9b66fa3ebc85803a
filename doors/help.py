"""``--help`` of both doors, put together from what stands in the code and the configs anyway."""

import ast
import textwrap
from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 100


def door_help(door: str) -> str:
    """What the door does, three examples, its groups, its keys and, for training, experiments.

    Sources: the docstring of ``door``.py, the comments that open configs/``door``.yaml, its
    defaults list and keys, and the files of each group with the comments that open them.
    """
    text = (ROOT / "configs" / f"{door}.yaml").read_text()
    groups = _groups(text)
    parts = [
        ast.get_docstring(ast.parse((ROOT / f"{door}.py").read_text())),
        "EXAMPLES\n" + _indent("\n".join(_opening(text))),
    ]
    if groups:
        choices = _indent(_choices(groups))
        parts.append("GROUPS, group=choice; the default is in [brackets]\n" + choices)
    if "experiment" in groups:
        parts.append("EXPERIMENTS, experiment=name\n" + _indent(_experiments()))
    parts.append("KEYS, key=value; all of them: --cfg job\n" + _indent(_keys(text)))
    # Hydra fills a template in which $ means something.
    return "\n\n".join(parts).replace("$", "$$")


def _groups(text: str) -> dict[str, list[str]]:
    """The groups of a defaults list and what each is by default, in their order."""
    defaults = OmegaConf.to_container(OmegaConf.create(text))["defaults"]
    pairs = [pair for entry in defaults if isinstance(entry, dict) for pair in entry.items()]
    return {
        name: value if isinstance(value, list) else [value]
        for name, value in pairs
        if not name.startswith("override ")
    }


def _choices(groups: dict[str, list[str]]) -> str:
    lines = []
    for group, default in groups.items():
        if group == "experiment":
            continue
        folder = ROOT / "configs" / group.partition("@")[0]
        names = sorted(path.stem for path in folder.glob("*.yaml"))
        shown = " ".join(f"[{name}]" if name in default else name for name in names)
        wrapped = textwrap.wrap(shown, WIDTH - 21, break_on_hyphens=False)
        lines += [f"{group if not i else '':<19}{line}" for i, line in enumerate(wrapped)]
    return "\n".join(lines)


def _experiments() -> str:
    lines = []
    for path in sorted((ROOT / "configs" / "experiment").glob("*.yaml")):
        about = [line for line in _opening(path.read_text()) if not line.startswith("@package")]
        lines.append(f"{path.stem:<19}{about[0]}")
    return "\n".join(lines)


def _keys(text: str) -> str:
    """Everything between the defaults list and hydra's own settings, comments and all."""
    body = text.partition("\ndefaults:")[2].partition("\nhydra:")[0]
    lines = body.splitlines()
    first = next(i for i, line in enumerate(lines) if line and line[0] not in " -#")
    return "\n".join(line for line in lines[first:] if line)


def _opening(text: str) -> list[str]:
    """The comment lines that a file opens with, without their marks."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def _indent(text: str) -> str:
    return textwrap.indent(text, "  ")


OmegaConf.register_new_resolver("door_help", door_help, replace=True)
