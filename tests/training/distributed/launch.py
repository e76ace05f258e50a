"""Runs checks on two processes that talk by gloo, once for all tests of a session, also under pytest-xdist."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).parents[3]
SECONDS = 240


def run_once(folder: Path) -> list[dict[str, Any]]:
    """What each rank of ``worker.py`` found: a dict from check to result."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ran").exists():
            (folder / "ran").touch()
            _run(folder)
    outputs = [(folder / f"output_{rank}").read_text() for rank in range(2)]
    files = [folder / f"results_{rank}.pt" for rank in range(2)]
    assert all(file.exists() for file in files), "\n".join(outputs)
    return [torch.load(file, weights_only=False) for file in files]


def _run(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "NODE_RANK": "0",
            "LOCAL_RANK": str(rank),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
        }
        with (folder / f"output_{rank}").open("w") as output:
            processes.append(
                subprocess.Popen(
                    [sys.executable, str(Path(__file__).parent / "worker.py"), str(folder)],
                    env=environment,
                    cwd=folder,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        for process in processes:
            process.wait(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
