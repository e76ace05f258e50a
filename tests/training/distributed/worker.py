"""Runs all checks on one of two processes, one after the other, and keeps what each found. Started by ``launch.py``."""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from tests.training.distributed import ddp_checks, sharded_checks


def main(folder: Path) -> None:
    rank = int(os.environ["LOCAL_RANK"])
    torch.set_num_threads(1)
    # As Lightning would: it finds the group and keeps it for all trainers of this process.
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    results: dict[str, Any] = {}
    for check in (*ddp_checks.CHECKS, *sharded_checks.CHECKS):
        started = time.perf_counter()
        try:
            results[check.__name__] = check()
        except Exception:
            results[check.__name__] = traceback.format_exc()
        sys.stdout.write(f"{check.__name__}: {time.perf_counter() - started:.1f} s\n")
        sys.stdout.flush()
        torch.save(results, folder / f"results_{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
