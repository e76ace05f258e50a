from __future__ import annotations

from dataclasses import replace

from landscape_callbacks.diagnosis.episodes import EpisodeLog
from landscape_callbacks.diagnosis.verdict import Verdict

FLOOR = Verdict("noise floor", False, (), 8, 80.0, "", "", 0.0, None)


def test_an_episode_knows_when_its_verdict_was_measured() -> None:
    """A look that decided nothing leaves the verdict, and the step at which it was measured, as they were."""
    log = EpisodeLog()
    started, ended = log.verdict(100, FLOOR)
    assert started is not None and ended is None
    assert (started.start, started.measured, started.end) == (100, 100, None)
    log.verdict(200, replace(FLOOR, samples=9))
    log.verdict(300, replace(FLOOR, label="undetermined", samples=10))
    last = log.progress(400, "the run ended")
    assert last is not None
    assert (last.start, last.measured, last.end, last.verdict.samples) == (100, 200, 400, 9)


def test_another_verdict_ends_an_episode_and_begins_one() -> None:
    log = EpisodeLog()
    log.verdict(100, FLOOR)
    started, ended = log.verdict(200, replace(FLOOR, label="flat"))
    assert started is not None and ended is not None
    assert (started.start, started.measured) == (200, 200)
    assert (ended.start, ended.measured, ended.end, ended.reason) == (100, 100, 200, "now flat")
