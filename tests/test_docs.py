"""The manual builds without a warning and shows what the docstrings say."""

from __future__ import annotations

import os
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
