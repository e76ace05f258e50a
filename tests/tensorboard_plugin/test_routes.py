"""What the plugin answers: every step with both loaders, sentences for what is wrong, and no file but its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

from landscape_callbacks.records import Record, decode
from landscape_callbacks.training.record_writer import RecordWriter, _add_string_tensor
from tests.tensorboard_plugin.browser import tensorboard
from tests.tensorboard_plugin.conftest import SampleRuns, ask, wait_for_runs

STEPS = 1000


def parts(text: str) -> tuple[dict[str, list[int]], list[str]]:
    header, *lines = text.split("\n")
    return json.loads(header), lines


@pytest.mark.parametrize("load_fast", ["true", "false"])
def test_a_thousand_steps_are_all_there(event_folder: Path, load_fast: str) -> None:
    summary_writer = SummaryWriter(str(event_folder / "run"))
    with RecordWriter(event_folder / "run", [summary_writer]) as writer:
        for step in range(STEPS):
            writer.write(Record("slice", "gradient", 3 * step, {"loss": np.array([float(step)])}))
    summary_writer.close()
    with tensorboard(event_folder, f"--load_fast={load_fast}") as address:
        wait_for_runs(address, 1, steps=3 * (STEPS - 1))
        query = {"run": "run", "kind": "slice", "name": "gradient"}
        header, lines = parts(ask(address, "records", **query)[2])
        every = {"first": 0, "steps": list(range(0, 3 * STEPS, 3)), "positions": list(range(STEPS)), "preview": False}
        assert header == every
        assert [decode(line).arrays["loss"].item() for line in lines] == list(range(STEPS))
        # Thinned: the last record and the steps of all; each of the others on request.
        header, lines = parts(ask(address, "records", **query, budget=2000)[2])
        assert len(header["steps"]) == STEPS
        assert header["positions"][-1] == STEPS - 1
        assert 10 < len(lines) < 25
        assert [decode(line).step for line in lines] == [3 * position for position in header["positions"]]
        assert decode(ask(address, "record", **query, position=567)[2]).step == 3 * 567
        # One record of each block.
        header, lines = parts(ask(address, "records", **query, preview=1, budget=2000)[2])
        assert header["steps"] == [3 * step for step in range(7, STEPS, 8)]
        assert header["positions"][-1] == STEPS / 8 - 1
        assert 10 < len(lines) < 25
        assert [decode(line).step for line in lines] == [header["steps"][position] for position in header["positions"]]
        assert header["preview"]
        # Only what is new.
        header, lines = parts(ask(address, "records", **query, first=STEPS - 2)[2])
        assert (header["steps"], header["positions"]) == ([2994, 2997], [998, 999])
        # The caller knows more than there is: the run was started anew.
        assert parts(ask(address, "records", **query, first=STEPS + 1)[2])[0]["first"] == 0


def test_runs_are_listed_with_their_series(sample_runs: SampleRuns) -> None:
    runs = {run["run"]: run["series"] for run in wait_for_runs(sample_runs.address, 2)}
    assert sorted(runs) == ["fast", "slow"]
    assert {(series["kind"], series["name"]) for series in runs["slow"]} == {
        (record.kind, record.name) for record in sample_runs.records["slow"]
    }
    assert max(series["last_step"] for series in runs["slow"]) == 300


def test_scalars_are_read_as_they_were_logged(sample_runs: SampleRuns) -> None:
    status, _, text = ask(sample_runs.address, "metrics", run="slow", tag="train_loss")
    answer = json.loads(text)
    assert (status, answer["available"], list(answer["points"])) == (
        200,
        ["gradient_length", "train_loss"],
        ["train_loss"],
    )
    records = [record for record in sample_runs.records["slow"] if record.kind == "eigenvalues"]
    assert answer["points"]["train_loss"]["steps"] == [record.step for record in records]
    np.testing.assert_allclose(answer["points"]["train_loss"]["values"], [r.info["loss"] for r in records], rtol=1e-6)
    assert json.loads(ask(sample_runs.address, "metrics", run="nowhere", tag="x")[2]) == {"available": [], "points": {}}


@pytest.mark.parametrize(
    ("route", "query", "status", "sentence"),
    [
        ("records", {"run": "nowhere", "kind": "slice", "name": "gradient"}, 404, "no run of this name"),
        ("records", {"run": "../../etc", "kind": "slice", "name": "gradient"}, 404, "no run of this name"),
        ("records", {"run": "slow", "kind": "slice", "name": "sideways"}, 404, "no series slice/sideways"),
        ("record", {"run": "slow", "kind": "slice", "name": "gradient", "position": 10**6}, 404, "no record 1000000"),
        ("record", {"run": "slow", "kind": "slice", "name": "gradient", "position": "-1"}, 400, "whole number"),
        ("records", {"run": "slow", "kind": "slice", "name": "gradient", "budget": "1e9"}, 400, "whole number"),
        ("records", {"kind": "slice", "name": "gradient"}, 400, "lacks the argument 'run'"),
    ],
)
def test_what_is_wrong_is_said(
    sample_runs: SampleRuns, route: str, query: dict[str, object], status: int, sentence: str
) -> None:
    code, content_type, text = ask(sample_runs.address, route, **query)
    assert (code, content_type) == (status, "application/json")
    assert sentence in json.loads(text)["error"]


def test_only_reading_is_answered(sample_runs: SampleRuns) -> None:
    code, _, text = ask(sample_runs.address, "runs", method="POST")
    assert (code, json.loads(text)["error"]) == (405, "Only GET is answered here, got POST.")


@pytest.mark.parametrize("path", ["static/../plugin.py", "static/%2e%2e/plugin.py", "static/nothing.js", "plugin.py"])
def test_no_file_but_the_front_end_is_served(sample_runs: SampleRuns, path: str) -> None:
    status, _, text = ask(sample_runs.address, path)
    assert status == 404
    assert "LandscapePlugin" not in text


def test_scripts_are_served_as_scripts(sample_runs: SampleRuns) -> None:
    for path in ("static/index.js", "static/plot/plot.js"):
        assert ask(sample_runs.address, path)[:2] == (200, "text/javascript; charset=utf-8")


def test_broken_events_leave_the_others_readable(event_folder: Path) -> None:
    summary_writer = SummaryWriter(str(event_folder / "run"))
    for step, text in enumerate(['{"kind":', "null", "[]", '{"kind":"slice"}', "two\nlines"]):
        _add_string_tensor(summary_writer, "slice/gradient/000000", text, step)
    with RecordWriter(None, [summary_writer]) as writer:
        writer._blocks.clear()
        for step in range(10, 13):
            writer.write(Record("slice", "gradient", step))
    for tag in ("slice", "slice/gradient", "slice/gradient/first", "//0"):
        _add_string_tensor(summary_writer, tag, "{}", 0)
    add_number_under_our_name(summary_writer, "eigenvalues/hessian/000000")
    summary_writer.close()
    with tensorboard(event_folder) as address:
        wait_for_runs(address, 1, steps=12)
        header, lines = parts(ask(address, "records", run="run", kind="slice", name="gradient")[2])
        assert header["steps"] == [0, 1, 2, 3, 4, 10, 11, 12]
        assert len(lines) == 8
        assert lines[4] == "null"
        assert [decode(line).step for line in lines[5:]] == [10, 11, 12]
        header, lines = parts(ask(address, "records", run="run", kind="eigenvalues", name="hessian")[2])
        assert (header["steps"], lines) == ([0], ["null"])
        assert ask(address, "runs")[0] == 200


def add_number_under_our_name(summary_writer: SummaryWriter, tag: str) -> None:
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.compat.proto.tensor_pb2 import TensorProto

    metadata = SummaryMetadata(
        plugin_data=SummaryMetadata.PluginData(plugin_name="landscape"), data_class="DATA_CLASS_TENSOR"
    )
    value = Summary.Value(tag=tag, metadata=metadata, tensor=TensorProto(dtype="DT_FLOAT", float_val=[1.5]))
    summary_writer._get_file_writer().add_summary(Summary(value=[value]), 0)


def test_the_plugin_loads_neither_torch_nor_lightning() -> None:
    program = (
        "import sys; import landscape_callbacks.tensorboard_plugin.plugin; "
        "print(sorted({'torch', 'lightning', 'pytorch_lightning', 'matplotlib'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
