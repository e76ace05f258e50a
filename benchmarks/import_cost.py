"""What ``import landscape_callbacks`` adds to ``import lightning.pytorch``, in seconds.

Run with ``python benchmarks/import_cost.py [--repeats N]``. Each figure is a median over fresh processes taking turns.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

CODE = """
import time
{first}
started = time.perf_counter()
{then}
print(time.perf_counter() - started)
"""
CASES = {
    "lightning.pytorch alone": ("", "import lightning.pytorch"),
    "landscape_callbacks, after it": ("import lightning.pytorch", "import landscape_callbacks"),
    "LandscapeMonitor, after it": ("import lightning.pytorch", "from landscape_callbacks import LandscapeMonitor"),
    "every public name, after it": ("import lightning.pytorch", "from landscape_callbacks import *"),
    "the TensorBoard plugin, after tensorboard": (
        "import tensorboard.default",
        "import landscape_callbacks.tensorboard_plugin.plugin",
    ),
}


def seconds(first: str, then: str) -> float:
    code = CODE.format(first=first, then=then)
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    measured: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(repeats + 1):
        for name, case in CASES.items():
            measured[name].append(seconds(*case))
    print(f"| import | seconds (median of {repeats}) | range |\n|---|---|---|")
    for name, times in measured.items():
        times = times[1:]  # the first fills the file cache
        print(f"| {name} | {statistics.median(times):.3f} | {min(times):.3f}-{max(times):.3f} |")


if __name__ == "__main__":
    main()
