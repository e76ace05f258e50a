"""Shows the docstrings' Sphinx markup, which editors and `help()` readers know, in a Markdown manual."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|meth|func|attr|mod):`~?\.?([^`]+)`")
_RULE = re.compile(r"^=+(?: +=+)+$")


def to_markdown(text: str) -> str:
    """Roles become code and simple tables Markdown tables; examples get the heading by which griffe knows doctests."""
    text = re.sub(r"^( *)Example::?$", r"\1Examples:", _ROLE.sub(r"`\1`", text), flags=re.MULTILINE)
    lines, table = [], None
    for line in text.split("\n"):
        if _RULE.match(line.strip()):
            if table is None:
                table = _Table(line)
            elif table.rules == 1:
                table.rules = 2
            else:
                lines += table.rows()
                table = None
        elif table is not None:
            table.lines.append(line)
        else:
            lines.append(line)
    return "\n".join(lines)


class _Table:
    """A simple table: a column begins where the rule has a run of equals signs; an empty first cell continues a row."""

    def __init__(self, rule: str) -> None:
        self.starts = [match.start() for match in re.finditer("=+", rule)]
        self.lines: list[str] = []
        self.rules = 1

    def rows(self) -> list[str]:
        rows: list[list[str]] = []
        for line in self.lines:
            ends = [*self.starts[1:], None]
            cells = [line[start:end].strip().replace("|", "\\|") for start, end in zip(self.starts, ends, strict=True)]
            if cells[0] or not rows:
                rows.append(cells)
            else:
                rows[-1] = [f"{above} {cell}".strip() for above, cell in zip(rows[-1], cells, strict=True)]
        rows.insert(1, ["---"] * len(self.starts))
        return [f"| {' | '.join(cells)} |" for cells in rows]


class SphinxMarkup(griffe.Extension):
    """Rewrites every docstring as it is loaded."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for each object."""
        if obj.docstring is not None:
            obj.docstring.value = to_markdown(obj.docstring.value)
