"""Every example runs from a checkout and prints what it promises; long ones with fewer steps."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

FEWER_STEPS = {
    "lightning_cli.py": [
        "fit",
        "--config",
        str(Path(__file__).parents[1] / "examples" / "lightning_cli.yaml"),
        "--trainer.max_epochs=3",
    ],
    "edge_of_stability.py": ["--max-steps", "30"],
    "mnist.py": ["--max-steps", "230"],
    "plain_pytorch.py": ["--max-steps", "100"],
    "plateau_rescue.py": ["--max-steps", "150"],
    "quick_start.py": [],
    "sharpness_across_runs.py": ["--epochs", "1"],
    "transformer.py": ["--max-steps", "20"],
    "two_minima.py": ["--max-steps", "200"],
}


def run(script: Path, *arguments: str) -> str:
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_run_here(repository: Path) -> None:
    assert {path.name for path in (repository / "examples").glob("*.py")} == set(FEWER_STEPS)


@pytest.mark.parametrize("name", [name for name in FEWER_STEPS if name != "mnist.py"])
def test_example_runs(repository: Path, name: str) -> None:
    assert run(repository / "examples" / name, *FEWER_STEPS[name]).strip()


def test_demo_prints_what_it_measured(repository: Path) -> None:
    printed = run(repository / "examples" / "mnist.py", *FEWER_STEPS["mnist.py"])
    rows = [line.split() for line in printed.splitlines() if re.match(r" +\d+ +\d", line)]
    assert rows, printed
    for step, loss, norm, largest, _, largest_error, smallest, _, smallest_error, ratio, spent in rows:
        assert int(step) >= 0
        assert float(largest) > 0 > float(smallest)
        assert 0 <= float(largest_error) < float(largest)
        assert 0 <= float(smallest_error) < float(largest)
        assert min(float(loss), float(norm), float(ratio)) > 0
        assert 0 < float(spent.rstrip("%")) < 100
    assert "tensorboard --logdir lightning_logs" in printed
    assert list(Path("lightning_logs").glob("version_0/events.out.tfevents.*"))
