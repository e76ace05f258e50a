"""Runs every benchmark, one after the other, and keeps what each printed in ``benchmarks/results/``.

``python -m benchmarks`` runs all, ``python -m benchmarks slices overhead`` those two. A benchmark is a script in this
folder that prints Markdown tables and needs no argument; all ratios of a table come from one process. What stands under
``## Notes`` at the end of a result is written by hand, and kept.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
NOTES = "\n## Notes\n"
NOT_BENCHMARKS = {"__main__", "__init__", "diagnosis_study"}


def machine() -> str:
    """The class of machine and the versions that the figures hold for."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "numpy"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {platform.machine()}, {platform.system()}, Python {platform.python_version()}, {packages}"


def main() -> int:
    scripts = {
        path.stem: path
        for path in sorted(HERE.glob("*.py"))
        if path.stem not in NOT_BENCHMARKS
        and not path.stem.startswith("_")
        and 'if __name__ == "__main__":' in path.read_text()
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which ones: {', '.join(scripts)} (all)")
    names = parser.parse_args().names or list(scripts)
    if unknown := set(names) - set(scripts):
        parser.error(f"no benchmark is named {', '.join(sorted(unknown))}; there are {', '.join(scripts)}")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        with subprocess.Popen([sys.executable, str(scripts[name])], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line)
        if process.returncode:
            failed.append(name)
            continue
        head = f"# {name}\n\n{datetime.date.today().isoformat()}, {machine()}. By `python -m benchmarks {name}`.\n\n"
        path = results / f"{name}.md"
        _, heading, notes = path.read_text().partition(NOTES) if path.exists() else ("", "", "")
        path.write_text(head + "".join(lines) + heading + notes)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
