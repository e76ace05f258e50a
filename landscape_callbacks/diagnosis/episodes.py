"""From verdicts to episodes: a state of training with a beginning and an end, so that a person is told once."""

from __future__ import annotations

from dataclasses import dataclass, replace

from landscape_callbacks.diagnosis.verdict import Verdict


@dataclass(frozen=True)
class Episode:
    """A stretch of training with the same verdict.

    Attributes:
        verdict: The latest verdict of it.
        start: Step of the first one.
        measured: Step of the latest one.
        end: Step at which it was over; ``None`` while it lasts.
        reason: Why it is over.
    """

    verdict: Verdict
    start: int
    measured: int
    end: int | None = None
    reason: str = ""


class EpisodeLog:
    """Follows the verdicts of a run.

    *Undetermined* is no state of training: it neither ends an episode nor hides that one was going on.

    Attributes:
        current: The episode that lasts, if any.
    """

    def __init__(self) -> None:
        self.current: Episode | None = None

    def verdict(self, step: int, verdict: Verdict) -> tuple[Episode | None, Episode | None]:
        """Takes a verdict in; gives the episode that it begins and the one that it ends, if any."""
        before = self.current
        if before is not None and verdict.label in (before.verdict.label, "undetermined"):
            if verdict.label != "undetermined":
                self.current = replace(before, verdict=verdict, measured=step)
            return None, None
        self.current = Episode(verdict, step, measured=step)
        ended = None if before is None else replace(before, end=step, reason=f"now {verdict.label}")
        return self.current, ended

    def progress(self, step: int, reason: str) -> Episode | None:
        """Ends an episode that a falling loss contradicts; gives it, if there was one that it does."""
        before = self.current
        if before is None or (before.verdict.label == "progressing" and reason != "the run ended"):
            return None
        self.current = None
        return replace(before, end=step, reason=reason)
