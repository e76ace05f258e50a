"""The files of the front end: small, without a way to parse markup, and none that nobody imports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from landscape_callbacks.tensorboard_plugin.bundle import bundle
from landscape_callbacks.tensorboard_plugin.plugin import STATIC_FOLDER

SCRIPTS = sorted(STATIC_FOLDER.rglob("*.js"))
KILOBYTES = 165


def read(name: str) -> str:
    return (STATIC_FOLDER / name).read_text(encoding="utf-8")


def test_all_files_together_are_small() -> None:
    assert sum(path.stat().st_size for path in STATIC_FOLDER.rglob("*") if path.is_file()) <= KILOBYTES * 1000


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(STATIC_FOLDER).as_posix())
def test_no_script_parses_markup_or_code(path: Path) -> None:
    """Text from event files cannot become markup where nothing turns text into markup."""
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc"
    forbidden = markup + r"|\beval\(|new Function|setTimeout\(['\"]"
    assert re.findall(forbidden, path.read_text(encoding="utf-8")) == []


def test_every_script_is_part_of_the_tab_or_the_report() -> None:
    used: set[str] = set()
    for entry in ("index.js", "report.js"):
        used |= set(re.findall(r'^modules\["([^"]+)"\] = ', bundle(entry, read), re.MULTILINE))
    assert used == {path.relative_to(STATIC_FOLDER).as_posix() for path in SCRIPTS}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(STATIC_FOLDER).as_posix())
def test_a_script_begins_with_what_it_is_for_and_stays_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("// ")
    assert len(lines) <= 300


def test_colours_of_the_light_theme_have_a_dark_one() -> None:
    style = read("style.css")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    names = [set(re.findall(r"(--[\w-]+): #", theme)) for theme in (light, dark)]
    assert names[0] - names[1] == {"--cursor-on-map"}  # lies on viridis in both
    used = {name for path in SCRIPTS for name in re.findall(r'"(--[a-z0-9-]+)"', path.read_text(encoding="utf-8"))}
    assert used - names[0] == {"--swatch", "--verdict", "--columns"}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ('import x from "./b.js";\n', "not understood"),
        ("export default 3;\n", "not understood"),
        ('import { a } from "./a.js";\n', "in a circle"),
    ],
)
def test_the_bundle_refuses_what_it_cannot_translate(source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bundle("a.js", {"a.js": source, "b.js": ""}.__getitem__)
