"""One plain script out of the front end's ES modules, for a page that has to stand alone.

A page opened from disk cannot load modules beside it. The modules keep to the simplest forms of import and export, so
that no build tool is needed: each becomes a function that returns what it exports.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable

_IMPORT = re.compile(r'^import \{([^}]*)\} from "(\.[^"]+)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async function|function|class|const) (\w+))", re.MULTILINE)
_OTHER = re.compile(r"^(?:import|export)\b.*", re.MULTILINE)


def bundle(entry: str, read: Callable[[str], str]) -> str:
    r"""The entry module and all that it imports, as one script.

    Args:
        entry: Name of the module to begin with, such as ``"report.js"``.
        read: The text of a module by its name; names are relative to the same folder.

    Raises:
        ValueError: When modules import each other in a circle, or by a form other than
            ``import { a, b } from "./file.js";``, ``export function``, ``export class``, ``export const``.

    Example:
        >>> modules = {
        ...     "main.js": 'import { two } from "./lib/numbers.js";\nconsole.log(two);\n',
        ...     "lib/numbers.js": "export const two = 2;\n",
        ... }
        >>> print(bundle("main.js", modules.__getitem__))
        (() => {
        "use strict";
        const modules = {};
        modules["lib/numbers.js"] = (() => {
        const two = 2;
        return { two };
        })();
        modules["main.js"] = (() => {
        const { two } = modules["lib/numbers.js"];
        console.log(two);
        return {  };
        })();
        })();
    """
    written: dict[str, str] = {}
    _write(entry, read, written, ())
    return '(() => {\n"use strict";\nconst modules = {};\n' + "\n".join(written.values()) + "\n})();"


def _write(name: str, read: Callable[[str], str], written: dict[str, str], importers: tuple[str, ...]) -> None:
    if name in importers:
        raise ValueError(f"Modules import each other in a circle: {' → '.join([*importers, name])}.")
    if name in written:
        return
    source = read(name)
    for target in _IMPORT.finditer(source):
        _write(_resolve(name, target[2]), read, written, (*importers, name))
    exports = ", ".join(found[1] for found in _EXPORT.finditer(source))
    body = _EXPORT.sub("", _IMPORT.sub(lambda found: _assignment(name, found), source))
    if other := _OTHER.search(body):
        raise ValueError(f"{name}: this form of import or export is not understood: {other[0]!r}.")
    written[name] = f'modules["{name}"] = (() => {{\n{body}return {{ {exports} }};\n}})();'


def _assignment(name: str, found: re.Match[str]) -> str:
    return f'const {{{found[1]}}} = modules["{_resolve(name, found[2])}"];\n'


def _resolve(importer: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(importer), target))
