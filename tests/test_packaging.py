"""Wheel and source distribution: complete, with honest metadata, usable from an environment of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email import message_from_string
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import landscape_callbacks

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def distributions(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel that was built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(repository)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (path,) = distributions.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> str:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return archive.read(name).decode()


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that holds the wheel; its requirements come from the tests' environment."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", str(wheel)], check=True)
    # A .pth file in a folder added this way is not read, so the checkout, which tests see through one, stays unseen.
    site = sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)})
    (Path(site) / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, *arguments: str, cwd: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(python), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_holds_every_file_of_the_package(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if name.endswith("licenses/LICENSE")]
    tracked = subprocess.run(
        ["git", "ls-files", "landscape_callbacks"], cwd=repository, capture_output=True, text=True, check=False
    ).stdout.split()
    assert held >= {"landscape_callbacks/py.typed", "landscape_callbacks/__init__.py", *tracked}
    assert not [name for name in held if not name.startswith("landscape_callbacks/") or "__pycache__" in name]
    assert licences


def test_source_distribution_can_be_tested(distributions: Path, repository: Path) -> None:
    (path,) = distributions.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert held >= {"LICENSE", "Makefile", "conftest.py", "pyproject.toml", "requirements-dev.lock", "README.md"}
    assert held >= {str(file.relative_to(repository)) for file in (repository / "tests").rglob("test_*.py")}


def test_metadata_says_what_is_needed(metadata: str) -> None:
    fields = message_from_string(metadata)
    assert fields["Version"] == landscape_callbacks.__version__
    assert fields["License-Expression"] == "Apache-2.0"
    needed = [Requirement(line) for line in fields.get_all("Requires-Dist")]
    assert {requirement.name for requirement in needed if not requirement.marker} == {
        "torch",
        "lightning",
        "numpy",
        "tensorboard",
    }
    for requirement in needed:
        if requirement.marker is None:
            assert requirement.specifier.contains(version(requirement.name).partition("+")[0]), requirement


def test_lock_file_names_exact_versions_and_no_place(repository: Path) -> None:
    pins = [
        line for line in (repository / "requirements-dev.lock").read_text().splitlines() if not line.startswith("#")
    ]
    parsed = [Requirement(pin) for pin in pins]
    assert all([clause.operator for clause in pin.specifier] == ["=="] and pin.url is None for pin in parsed)
    assert {"torch==2.13.0", "lightning==2.6.6", "pytorch-lightning==2.6.6"} <= {str(pin) for pin in parsed}


def test_tensorboard_finds_the_tab_in_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = """
import landscape_callbacks
from importlib.metadata import entry_points
(plugin, *_) = entry_points(group="tensorboard_plugins", name="landscape")
print(landscape_callbacks.__file__, plugin.load().plugin_name)
"""
    place, name = run(installed, "-c", code, cwd=tmp_path).split()
    assert Path(place).is_relative_to(installed.parent.parent)
    assert name == "landscape"


def test_quick_start_runs_from_the_wheel(installed: Path, repository: Path, tmp_path: Path) -> None:
    script = tmp_path / "quick_start.py"
    script.write_text((repository / "examples" / "quick_start.py").read_text())
    printed = run(installed, str(script), cwd=tmp_path)
    measured = dict(
        line.rsplit(maxsplit=1) for line in printed.splitlines() if line.startswith(("hessian/", "gradient/"))
    )
    assert float(measured["hessian/largest_eigenvalue"]) > float(measured["hessian/smallest_eigenvalue"])
    assert list((tmp_path / "lightning_logs").glob("*/landscape.jsonl"))
