"""The house rules a machine can check: who imports whom, and what folders may be called."""

import ast
from pathlib import Path

import pytest

import data

ROOT = Path(__file__).resolve().parents[1]
FROM_TRACING = {
    "lras.grid",
    "data.types",
    "data.coords",
    "data.index",
    "data.readers",
    "data.synthetic",
    "data.textures",
}
MAY_USE = {"lras": set(), "data": set(), "tracing": FROM_TRACING}
NO_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "src", "notebooks"}


def imported_names(source: str) -> set[str]:
    """Dotted names a module imports, wherever in the file; ``from a import b`` gives a.b."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def forbidden_imports(package: str, source: str) -> set[str]:
    others = MAY_USE.keys() - {package}
    ours = {name for name in imported_names(source) if name.split(".")[0] in others}
    return {name for name in ours if ".".join(name.split(".")[:2]) not in MAY_USE[package]}


def python_files(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_USE)
def test_imports_point_one_way(package):
    broken = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in python_files(package)
        for name in forbidden_imports(package, path.read_text())
    }
    assert not broken


@pytest.mark.parametrize("package", MAY_USE)
def test_packages_import_neither_doors_nor_tests(package):
    doors = {"train", "eval", "scaling", "app", "studies", "tests", "benchmarks"}
    broken = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in python_files(package)
        for name in imported_names(path.read_text())
        if name.split(".")[0] in doors
    }
    assert not broken


@pytest.mark.parametrize(
    "package, source, found",
    [
        ("lras", "import data.types", {"data.types"}),
        ("lras", "def f():\n    from tracing import kl", {"tracing.kl"}),
        ("data", "from lras.grid import PatchGrid", {"lras.grid.PatchGrid"}),
        ("tracing", "from lras.predictor import FramePredictor", {"lras.predictor.FramePredictor"}),
        ("tracing", "import lras", {"lras"}),
        ("tracing", "from lras.grid import PatchGrid\nfrom data import coords", set()),
        ("tracing", "from . import kl\nimport dataclasses\nimport tracing.reveal", set()),
    ],
)
def test_the_import_check_sees_what_it_should(package, source, found):
    assert forbidden_imports(package, source) == found


def test_data_is_our_folder():
    assert Path(data.__file__).resolve().parent == ROOT / "data"


def test_no_room_is_a_junk_room():
    ours = [path for name in (*MAY_USE, "tests", "benchmarks") for path in (ROOT / name).rglob("*")]
    top = [path for path in ROOT.iterdir() if path.is_dir()]
    bad = [p.relative_to(ROOT) for p in ours + top if p.stem in NO_NAMES or p.suffix == ".ipynb"]
    assert not bad


def test_tests_never_hold_a_package_named_data():
    assert not (ROOT / "tests" / "data").exists()


@pytest.mark.parametrize("package", MAY_USE)
def test_every_folder_of_code_is_a_real_package(package):
    folders = {path.parent for path in python_files(package)}
    assert not [str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").is_file()]


def test_data_holds_code_only():
    files = [path for path in (ROOT / "data").rglob("*") if path.is_file()]
    assert not [p.name for p in files if p.suffix != ".py" and "__pycache__" not in p.parts]


def test_no_annotation_hides_from_the_shape_checker():
    banned = "__future__.annotations"
    files = python_files(*MAY_USE, "benchmarks")
    assert not [p.name for p in files if banned in imported_names(p.read_text())]
