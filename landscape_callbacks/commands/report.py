"""Write what a run recorded as one page that needs neither TensorBoard nor a network."""

from __future__ import annotations

import argparse
import base64
import hashlib
import html
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from landscape_callbacks.commands.run_metrics import read_run_metrics
from landscape_callbacks.commands.run_records import RunRecords, find_runs
from landscape_callbacks.tensorboard_plugin.bundle import bundle

STATIC_FOLDER = Path(__file__).parent.parent / "tensorboard_plugin" / "static"
DESCRIPTION = "Write the landscape of a run, or of several, as one self-contained HTML page."

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; script-src {script_hash}; style-src {style_hash}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header class="report-head"><h1>{title}</h1><p>{note}</p></header>
<div id="landscape"></div>
<script type="application/json" id="landscape-runs">{runs}</script>
<script type="application/json" id="landscape-metrics">{metrics}</script>
{series}
<script>{script}</script>
</body>
</html>
"""


@dataclass(frozen=True)
class Thinning:
    """How many records of a run were kept for the page."""

    kept: int
    total: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("run_dir", type=Path, help="log directory of a run, or a directory with several runs below it")
    parser.add_argument("-o", "--output", type=Path, default=Path("report.html"), help="page to write (report.html)")
    parser.add_argument("--title", help="title of the page (the name of the directory)")
    parser.add_argument(
        "--max-megabytes",
        type=float,
        default=20.0,
        help="megabytes of records in the page (20); longer series are thinned evenly, the last record always stays",
    )


def main(arguments: argparse.Namespace) -> int:
    """Writes the page; 0 when it was written, 1 when there was nothing to write or nowhere to write it."""
    if not arguments.run_dir.is_dir():
        return _refuse(
            f"{arguments.run_dir} is not a directory. Give the log directory of a run, as lightning_logs/version_0."
        )
    runs = find_runs(arguments.run_dir)
    if not runs:
        return _refuse(
            f"No landscape records were found in {arguments.run_dir} or below. Add LandscapeMonitor() to the callbacks "
            "of the trainer and train; the records lie in landscape.jsonl in the log directory of the run."
        )
    title = arguments.title or f"Loss landscape: {arguments.run_dir.resolve().name}"
    page, thinning = build_page(runs, title, int(arguments.max_megabytes * 1e6))
    try:
        arguments.output.write_text(page, encoding="utf-8")
    except OSError as error:
        return _refuse(f"The page could not be written to {arguments.output}: {error.strerror}.")
    thinned = f", thinned from {thinning.total}" if thinning.kept < thinning.total else ""
    print(f"{arguments.output}: {len(runs)} runs, {thinning.kept} records{thinned}, {len(page) / 1e6:.1f} MB.")  # noqa: T201
    return 0


def build_page(runs: Sequence[RunRecords], title: str, budget: int) -> tuple[str, Thinning]:
    """The page as text.

    Args:
        runs: The runs to show.
        title: Title of the page.
        budget: Bytes of records, shared evenly by all series that need more than their share.
    """
    series = [(run, key) for run in runs for key in run.series]
    share = _fair_share([run.size(key) for run, key in series], budget)
    index: dict[str, list[dict[str, object]]] = {run.name: [] for run in runs}
    blocks = []
    kept = total = 0
    for number, (run, key) in enumerate(series):
        steps, lines = run.thinned(key, share)
        kept, total = kept + len(steps), total + len(run.series[key])
        header = json.dumps({"first": 0, "steps": steps, "positions": list(range(len(steps)))})
        content = "\n".join([header, *lines]).replace("<", "\\u003c")
        blocks.append(f'<script type="application/x-ndjson" id="landscape-series-{number}">{content}</script>')
        entry = {"kind": key[0], "name": key[1], "number": number, "last_step": max(steps), "last_time": run.changed}
        index[run.name].append(entry)
    listing = [{"run": name, "series": entries} for name, entries in index.items()]
    metrics = [[run.name, read_run_metrics(run.folder)] for run in runs]
    script = bundle("report.js", lambda name: (STATIC_FOLDER / name).read_text(encoding="utf-8"))
    style = (STATIC_FOLDER / "style.css").read_text(encoding="utf-8")
    page = _PAGE.format(
        title=html.escape(title),
        note=_note(kept, total),
        script_hash=_hash(script),
        style_hash=_hash(style),
        style=style,
        runs=_embedded(listing),
        metrics=_embedded(metrics),
        series="\n".join(blocks),
        script=script,
    )
    return page, Thinning(kept, total)


def _embedded(content: object) -> str:
    """JSON that cannot end the script element that it stands in."""
    return json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")


def _note(kept: int, total: int) -> str:
    if kept == total:
        return f"{total} records, all of them."
    return f"{kept} of {total} records, evenly spaced, to keep the page small. The record files hold all."


def _fair_share(sizes: Sequence[int], budget: int) -> int:
    """The most a series may take so that the sum stays within the budget: small series leave room to large ones."""
    left, share = budget, budget
    for position, size in enumerate(sorted(sizes)):
        share = left // (len(sizes) - position)
        if size > share:
            return share
        left -= size
    return max([*sizes, share])


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _refuse(sentence: str) -> int:
    print(sentence, file=sys.stderr)  # noqa: T201
    return 1


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(description=DESCRIPTION)
    add_arguments(_parser)
    sys.exit(main(_parser.parse_args()))
