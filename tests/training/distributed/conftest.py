"""The two processes, started once for all tests of a session."""

from __future__ import annotations

from typing import Any

import pytest

from tests.training.distributed.launch import run_once


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank found: a dict from check to result. Under pytest-xdist all workers share one run."""
    base = tmp_path_factory.getbasetemp()
    return run_once((base.parent if base.name.startswith("popen-") else base) / "ranks")
