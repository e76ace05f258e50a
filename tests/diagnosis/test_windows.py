"""Windows of doubling length against the series itself."""

import json

import numpy as np
import pytest

from landscape_callbacks.diagnosis.windows import BLOCKS, DoublingWindows


def test_every_window_holds_the_latest_values():
    series = np.random.default_rng(0).standard_normal(1000)
    windows = DoublingWindows()
    for value in series:
        windows.push(value)
    for level, (means, squares) in enumerate(zip(windows.means, windows.squares, strict=True)):
        block = 2**level
        whole = series[: len(series) // block * block].reshape(-1, block)[-BLOCKS:]
        np.testing.assert_allclose(means, whole.mean(axis=1), atol=1e-12)
        np.testing.assert_allclose(squares, ((whole - whole.mean(axis=1, keepdims=True)) ** 2).sum(axis=1), atol=1e-9)


@pytest.mark.parametrize("level", [0, 1, 3])
def test_a_window_is_due_when_full_and_then_every_quarter(level):
    windows, block = DoublingWindows(), 2**level
    due = [count for count in range(1, 151 * block) if level in windows.push(0.0)]
    assert due == [block * count for count in range(60, 151, 15)][: len(due)]
    assert len(due) >= 6


def test_a_saved_state_continues():
    series = np.random.default_rng(1).standard_normal(500)
    whole, first, second = DoublingWindows(), DoublingWindows(), DoublingWindows()
    expected = [whole.push(value) for value in series]
    for value in series[:137]:
        first.push(value)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [second.push(value) for value in series[137:]] == expected[137:]
    assert second.state_dict() == whole.state_dict()
