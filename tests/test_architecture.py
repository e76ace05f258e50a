"""The structure that the design promises: imports point one way, files stay short, and loading the package is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

import landscape_callbacks

PACKAGE = Path(landscape_callbacks.__file__).parent
NAME = "landscape_callbacks"

# What each part may import of ours, besides itself.
OURS = {
    "records": set(),
    "surface": {"diagnosis"},
    "diagnosis": {"surface"},
    "figures": {"surface", "diagnosis", "records"},
    "training": {"surface", "records"},
    "callbacks": {"training", "surface", "diagnosis", "figures", "records"},
    "tensorboard_plugin": {"records"},
    "interpolate": {"surface"},
    "commands": {
        "interpolate",
        "callbacks",
        "training",
        "surface",
        "diagnosis",
        "figures",
        "tensorboard_plugin",
        "records",
    },
    "__main__": {"commands"},
    "__init__": {"callbacks", "records"},
}
# What each part may import of others, besides the standard library.
OTHERS = {
    "records": {"numpy"},
    "surface": {"torch", "numpy"},
    "diagnosis": {"torch", "numpy"},
    "figures": {"matplotlib", "numpy", "sklearn"},
    "training": {
        "torch",
        "numpy",
        "lightning",
        "pytorch_lightning",
        "lightning_utilities",
        "torchmetrics",
        "tensorboard",
        "tensorboardX",
    },
    "callbacks": {"torch", "numpy", "lightning", "pytorch_lightning", "lightning_utilities", "matplotlib"},
    "tensorboard_plugin": {"tensorboard", "werkzeug", "numpy"},
    "interpolate": {"torch"},
    "commands": {"torch", "numpy", "lightning", "pytorch_lightning", "tqdm", "tensorboard", "google"},
    "__main__": set(),
    "__init__": set(),
}
HEAVY = ("matplotlib", "sklearn")
LINES = 250
FILES = sorted(PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    """The part of the package that a file belongs to: its folder, or its own name at the top."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Absolute dotted names of everything that is imported anywhere in a tree, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; this package imports by absolute names"
            if node.module == NAME:
                yield from (f"{NAME}.{alias.name}" for alias in node.names)
            elif node.module is not None:
                yield node.module


def names_loaded_with(tree: ast.Module) -> set[str]:
    """What is imported when the module is: not what stands in functions or under ``if TYPE_CHECKING``."""
    names: set[str] = set()
    pending: list[ast.stmt] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names.update(imported_names(ast.Module([node], [])))
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for field in ("body", "orelse", "finalbody"):
                pending += getattr(node, field, [])
            for handler in getattr(node, "handlers", []):
                pending += handler.body
    return names


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def in_new_process(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    assert part in OURS, f"{part} is a new part of the package: say in this test what it may import"
    for name in imported_names(parse(path)):
        top, *rest = name.split(".")
        if top == NAME:
            other = rest[0] if rest else "__init__"
            assert other == part or other in OURS[part] or other == "__version__", f"{path} imports {name}"
        elif top not in sys.stdlib_module_names:
            assert top in OTHERS[part], f"{path} imports {name}: a requirement that {part} does not have"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pictures_load_only_when_they_are_drawn(path: Path) -> None:
    forbidden = (*HEAVY, f"{NAME}.figures") if part_of(path) != "figures" else ("sklearn",)
    loaded = [name for name in names_loaded_with(parse(path)) if name.startswith(forbidden)]
    assert not loaded, f"{path} loads {loaded} when it is imported; import it in the function that needs it"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_hold_one_idea(path: Path) -> None:
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= 1.4 * LINES, f"{path} has {length} lines: split it by idea"
    if length > LINES:
        warnings.warn(f"{path.relative_to(PACKAGE)} has {length} lines, more than {LINES}", stacklevel=1)


def test_import_loads_neither_torch_nor_lightning() -> None:
    heavy = ["torch", "lightning", "pytorch_lightning", "numpy", "matplotlib"]
    assert in_new_process(f"import sys, {NAME}; print([name for name in {heavy} if name in sys.modules])") == "[]"


@pytest.mark.parametrize("module", ["records", "tensorboard_plugin.plugin"])
def test_what_tensorboard_loads_needs_neither_torch_nor_lightning(module: str) -> None:
    # None in sys.modules makes an import fail, so this holds for an installation without them too.
    absent = ["torch", "lightning", "pytorch_lightning", *HEAVY]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent})); import {NAME}.{module}; print('fine')"
    assert in_new_process(code) == "fine"


def test_every_public_name_loads_without_pictures() -> None:
    # torchmetrics loads matplotlib where it is installed, so what matters is what comes after Lightning.
    unwanted = (*HEAVY, f"{NAME}.figures", f"{NAME}.tensorboard_plugin")
    code = f"""
import sys, lightning.pytorch
before = set(sys.modules)
import {NAME}
for name in {NAME}.__all__:
    getattr({NAME}, name)
print([name for name in set(sys.modules) - before if name.startswith({unwanted})])
"""
    assert in_new_process(code) == "[]"


def test_public_names_are_listed_and_unknown_ones_refused() -> None:
    assert set(landscape_callbacks.__all__) <= set(dir(landscape_callbacks))
    with pytest.raises(AttributeError, match="has no attribute 'LandscapeMonitr'"):
        landscape_callbacks.LandscapeMonitr  # noqa: B018


def test_type_checkers_see_the_names_that_load_lazily() -> None:
    tree = parse(PACKAGE / "__init__.py")
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.asname: f"{node.module}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    }
    assert seen == {name: f"{NAME}.{module}" for name, module in landscape_callbacks._MODULES.items()}
    assert set(seen) == set(landscape_callbacks.__all__) - {"__version__"}
