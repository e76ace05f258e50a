"""The manual builds without a warning and shows what the docstrings say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command,
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_public_callback_is_in_the_reference(site: Path) -> None:
    import landscape_callbacks

    page = (site / "reference" / "callbacks" / "index.html").read_text()
    callbacks = [name for name, module in landscape_callbacks._MODULES.items() if module.startswith("callbacks.")]
    assert [name for name in callbacks if f".{name}" not in page] == []


def test_docstring_markup_is_rendered(site: Path) -> None:
    pages = {path: path.read_text() for path in (site / "reference").rglob("*.html")}
    assert pages
    for path, page in pages.items():
        assert ":class:`" not in page, path
        assert "=====  ===" not in page, path
    assert "<td><code>gradient/norm_clipped</code></td>" in pages[site / "reference" / "callbacks" / "index.html"]


def test_no_page_asks_another_host(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        assert 'src="http' not in text, page
        assert 'rel="stylesheet" href="http' not in text, page


def follow(page: str, folder: Path) -> list[str]:
    """Writes the files of a page under the names in their titles and applies its changes; gives the names of the files."""
    new = []
    for language, name, block in re.findall(r'```(python|diff) title="([^"]+)"\n(.*?)```', page, flags=re.DOTALL):
        path = folder / name
        if language == "python":
            path.write_text(block)
            new.append(name)
            continue
        for change in block.split("@@\n"):
            lines = change.splitlines(keepends=True)
            before = "\n" + "".join(line[1:] for line in lines if line[0] != "+")
            after = "\n" + "".join(line[1:] for line in lines if line[0] != "-")
            text = path.read_text()
            # Whoever goes through the page has made the change already.
            if after not in text:
                assert text.count(before) == 1, f"{name} does not hold once: {before}"
                path.write_text(text.replace(before, after))
    return new


@pytest.fixture(scope="module")
def with_worked_example(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A copy of the repository in which docs/adding_a_monitor.md was followed, and the files that the page writes."""
    folder = tmp_path_factory.mktemp("worked_example")
    ignore = shutil.ignore_patterns("__pycache__", "static")
    for name in ("landscape_callbacks", "tests", "docs"):
        shutil.copytree(repository / name, folder / name, ignore=ignore)
    for name in ("conftest.py", "pyproject.toml", "CHANGELOG.md"):
        shutil.copy(repository / name, folder / name)
    return folder, follow((repository / "docs" / "adding_a_monitor.md").read_text(), folder)


def in_copy(folder: Path, *arguments: str) -> str:
    # The copy's package comes before the installed one.
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_worked_example_of_a_monitor_is_clean(with_worked_example: tuple[Path, list[str]]) -> None:
    folder, new = with_worked_example
    assert len(new) == 4
    in_copy(folder, "ruff", "check", "--no-cache", *new, "landscape_callbacks/__init__.py")
    in_copy(folder, "ruff", "format", "--no-cache", "--check", *new, "landscape_callbacks/__init__.py")


def test_worked_example_of_a_monitor_passes_its_tests(with_worked_example: tuple[Path, list[str]]) -> None:
    folder, new = with_worked_example
    tests = [name for name in new if name.startswith("tests/")]
    assert "8 passed" in in_copy(folder, "pytest", "-q", "-p", "no:cacheprovider", *tests)
    structure = ["tests/test_architecture.py", "-k", "type_checkers or alignment"]
    assert "7 passed" in in_copy(folder, "pytest", "-q", "-p", "no:cacheprovider", *structure)


def documented_tags(repository: Path) -> list[str]:
    """One regular expression a tag of the table; ``…_error`` stands for the first tag of its cell with that end."""
    tags = []
    for line in (repository / "docs" / "reference" / "tags.md").read_text().splitlines():
        if not line.startswith("| `"):
            continue
        cell = re.findall(r"`([^`]+)`", line.split(" | ")[0])
        for tag in cell:
            tag = tag.replace("…", cell[0]).replace("_2", r"_\d+")
            tags.append(re.sub(r"<\w+>", r"[\\w.]+", tag))
    return tags


def test_every_logged_tag_is_in_the_table(repository: Path) -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.demos.boring_classes import BoringModel

    from landscape_callbacks import LandscapeMonitor, PlateauLearningRateAdjuster

    trainer = Trainer(
        max_steps=12,
        accelerator="cpu",
        callbacks=[
            LandscapeMonitor(
                every_n_steps=2,
                max_overhead=None,
                figures=False,
                gradient_norms={"per_module": 1, "noise_scale_batches": 3},
                eigenvalues={"trace": True, "largest": 2},
            ),
            PlateauLearningRateAdjuster(),
        ],
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(BoringModel())
    logged = [name for name in trainer.callback_metrics if "/" in name]
    assert len(logged) > 20
    documented = documented_tags(repository)
    assert [name for name in logged if not any(re.fullmatch(tag, name) for tag in documented)] == []


def test_measured_numbers_of_the_readme_stand_in_a_result(repository: Path) -> None:
    """As they are, as a share, or rounded: what a benchmark no longer prints, the README may not say."""
    number = r"(?<![\w-])\d[\d,]*(?:\.\d+)*(?:e-?\d+)?"
    results = "\n".join(path.read_text() for path in (repository / "benchmarks" / "results").glob("*.md"))
    printed = {word.rstrip(",") for word in re.findall(number, results)}
    values = [float(word.replace(",", "")) for word in printed if word.count(".") < 2]
    readme = (repository / "README.md").read_text()
    claims = readme[readme.index("## What it promises") : readme.index("## More")]
    claims = re.sub(r"`[^`]*`|\]\([^)]*\)|\d{4}-\d\d-\d\d", "", claims)
    words = {word.rstrip(",") for word in re.findall(number, claims)}
    assert len(words) > 50

    def stands(word: str) -> bool:
        if word in printed or word.count(".") > 1:
            return word in printed
        value, exponent = float(word.replace(",", "")), re.search(r"e-?\d+", word)
        digits = len(word.partition("e")[0].partition(".")[2])
        half = 0.5001 * 10.0 ** (int(exponent[0][1:]) if exponent else 0) * 10.0**-digits
        if "," in word:
            half *= 1000
        return any(abs(scale * measured - value) <= half for measured in values for scale in (1, 100))

    assert sorted(word for word in words if not stands(word)) == []
