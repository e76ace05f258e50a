"""The manual builds without a warning and shows what the docstrings say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

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


def test_worked_example_of_a_monitor_measures(repository: Path) -> None:
    from lightning.pytorch import Trainer
    from lightning.pytorch.demos.boring_classes import BoringModel

    text = (repository / "docs" / "adding_a_monitor.md").read_text()
    names: dict[str, Any] = {"__name__": "worked_example"}
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, "adding_a_monitor.md", "exec"), names)
    names["test_share_in_direction"]()
    trainer = Trainer(
        max_steps=4,
        accelerator="cpu",
        callbacks=[names["GradientAlignmentMonitor"](every_n_steps=1, max_overhead=None)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(BoringModel())
    share = float(trainer.callback_metrics["gradient/share_in_sharpest_direction"])
    assert 0.0 < share <= 1.0 + 1e-6
    assert "landscape/failed_measurements" not in trainer.callback_metrics


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
