"""``python -m landscape_callbacks interpolate`` on real checkpoints of a module and data in a user's file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest

from landscape_callbacks.__main__ import main
from landscape_callbacks.records import read_records

USER_FILE = """
import lightning.pytorch as pl
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Net(pl.LightningModule):
    def __init__(self, width=3):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Sequential(nn.Linear(2, width), nn.Dropout(0.5), nn.Linear(width, 2))

    def training_step(self, batch, batch_idx):
        x, y = batch
        loss = nn.functional.cross_entropy(self.layer(x), y)
        self.log("loss", loss)
        return {"loss": loss}

    def validation_step(self, batch, batch_idx):
        return 2 * self.training_step(batch, batch_idx)["loss"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(48, 2, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16)


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return loader()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints with hyperparameters, and the file that defines the module and its data."""
    place = tmp_path_factory.mktemp("user")
    (place / "user_module.py").write_text(USER_FILE)
    sys.path.insert(0, str(place))
    try:
        import user_module
    finally:
        sys.path.remove(str(place))
    for seed in range(3):
        pl.seed_everything(seed, verbose=False)
        trainer = pl.Trainer(
            max_epochs=1,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(user_module.Net(width=5), user_module.loader())
        trainer.save_checkpoint(place / f"{seed}.ckpt")
    return place


def arguments(folder: Path, count: int, *more: str, data: str = "loader") -> list[str]:
    checkpoints = [str(folder / f"{seed}.ckpt") for seed in range(count)]
    file = folder / "user_module.py"
    return ["interpolate", *checkpoints, "--module", f"{file}:Net", "--data", f"{file}:{data}", *more]


def test_a_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(folder, 2, "--output", str(tmp_path), "--points", "9")) == 0
    printed = capsys.readouterr()
    assert "barrier" in printed.out
    assert "onnected by the straight line" in printed.out
    assert "evaluating" in printed.err
    (record,) = read_records(tmp_path)
    assert (record.kind, record.name) == ("slice", "checkpoints")
    assert {"landscape.jsonl", "slice.npz", "line.png"} <= {path.name for path in tmp_path.iterdir()}
    with np.load(tmp_path / "slice.npz") as data:
        np.testing.assert_array_equal(data["loss"], record.arrays["loss"])


def test_a_plane_of_a_data_module(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = ("--output", str(tmp_path), "--points", "5", "--theme", "dark")
    assert main(arguments(folder, 3, *more, data="Data")) == 0
    assert "plane of" in capsys.readouterr().out
    (record,) = read_records(tmp_path)
    assert (record.kind, record.name) == ("plane", "checkpoints")
    assert len(record.arrays["trajectory_x"]) == 3
    assert {"contour.png", "surface.png"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("count", "more"), [(2, ()), (2, ("--points", "9")), (3, ("--points", "4"))], ids=["adaptive", "line", "plane"]
)
def test_the_progress_bar_ends_full(
    count: int, more: tuple[str, ...], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(folder, count, "--output", str(tmp_path), *more)) == 0
    shown = re.findall(r"(\d+)/(\d+) \[", capsys.readouterr().err)
    (record,) = read_records(tmp_path)
    assert shown[-1][0] == shown[-1][1] == str(3 * record.arrays["loss"].size)
    # What is announced at the start is not too little, or the bar would vanish on its way.
    assert shown[0][0] == "0"
    assert int(shown[0][1]) >= int(shown[-1][0])


def test_the_validation_step(folder: Path, tmp_path: Path) -> None:
    losses = []
    for step in ("training", "validation"):
        main(arguments(folder, 2, "--output", str(tmp_path / step), "--points", "5", "--step", step, "--batches", "2"))
        losses.append(next(iter(read_records(tmp_path / step))).arrays["loss"])
    np.testing.assert_allclose(losses[1], 2 * losses[0])


def test_mistakes_are_told_in_a_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "user_module.py"
    for given, message in (
        (arguments(folder, 1), "two checkpoints for a line or three"),
        (["interpolate", "missing.ckpt", "b", "--module", f"{file}:Net", "--data", f"{file}:loader"], "missing.ckpt"),
        (arguments(folder, 2, data="nothing"), "has nothing named 'nothing'"),
        ([*arguments(folder, 2)[:3], "--module", "Net", "--data", "x:y"], "such as train.py:Net"),
        ([*arguments(folder, 2)[:3], "--module", f"{file}:loader", "--data", f"{file}:loader"], "not a module"),
        ([*arguments(folder, 2)[:3], "--module", f"{file}:Net", "--data", f"{file}:USER"], "has nothing named"),
    ):
        assert main(given) == 2
        assert message in capsys.readouterr().err


def test_as_a_program_and_only_the_command_asked_for_is_loaded() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "landscape_callbacks", "--help"], capture_output=True, text=True, check=True
    )
    assert "interpolate" in done.stdout
    assert "report" in done.stdout
    code = "import sys, landscape_callbacks.__main__; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(SystemExit):
        main(["fly"])
