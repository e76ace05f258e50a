"""Modules of other libraries, unchanged, with every part of ``LandscapeMonitor`` at every step: ``make
test-integrations``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

pytestmark = [
    pytest.mark.integrations,
    pytest.mark.filterwarnings("ignore"),
]

STEPS = 6


def demo_transformer() -> tuple[Any, Any, Any]:
    """Lightning's own demo: its default ``nn.TransformerEncoderLayer`` has dropout and, fused, no second derivative."""
    import lightning.pytorch as pl
    from lightning.pytorch.demos import Transformer
    from torch.utils.data import DataLoader, TensorDataset

    class Demo(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = Transformer(vocab_size=20, ninp=8, nhead=2, nhid=8, nlayers=2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            output = self.model(*batch)
            return torch.nn.functional.nll_loss(output, batch[1].view(-1))

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.model.parameters(), lr=0.1)

    tokens = torch.randint(0, 20, (32, 9), generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), batch_size=8, shuffle=True)
    return pl, Demo(), loader


def forecasting() -> tuple[Any, Any, Any]:
    """A temporal fusion transformer: LSTMs, attention, quantile loss, dict batches with a pandas index, its own
    metrics and logs.
    """
    import lightning.pytorch as pl
    import numpy as np
    import pandas as pd
    from pytorch_forecasting import TemporalFusionTransformer, TimeSeriesDataSet
    from pytorch_forecasting.metrics import QuantileLoss

    generator = np.random.default_rng(1)
    series = [
        pd.DataFrame(
            {
                "time": np.arange(40),
                "group": str(group),
                "value": np.sin(np.arange(40) / 3 + group) + generator.normal(0, 0.1, 40),
            }
        )
        for group in range(3)
    ]
    data = TimeSeriesDataSet(
        pd.concat(series, ignore_index=True),
        time_idx="time",
        target="value",
        group_ids=["group"],
        max_encoder_length=8,
        max_prediction_length=3,
        time_varying_unknown_reals=["value"],
        time_varying_known_reals=["time"],
        randomize_length=(0.5, 0.5),
    )
    module = TemporalFusionTransformer.from_dataset(
        data,
        hidden_size=4,
        attention_head_size=1,
        hidden_continuous_size=4,
        dropout=0.1,
        loss=QuantileLoss([0.1, 0.5, 0.9]),
        learning_rate=0.01,
        optimizer="adam",
        log_interval=-1,
    )
    return pl, module, data.to_dataloader(train=True, batch_size=8, num_workers=0)


def molecules() -> tuple[Any, Any, Any]:
    """chemprop's message passing network on molecular graphs: batches are objects of its own, batch norm, a Noam
    schedule.
    """
    from chemprop import data, featurizers, models, nn
    from lightning import pytorch as pl

    smiles = ["CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCC", "CNC", "CC#N", "C1CCCCC1", "CO", "OCCO", "CCOC", "ClCCl"]
    points = [data.MoleculeDatapoint.from_smi(text, [float(len(text))]) for text in smiles]
    dataset = data.MoleculeDataset(points, featurizers.SimpleMoleculeMolGraphFeaturizer())
    dataset.normalize_targets()
    message_passing = nn.BondMessagePassing(d_h=8, depth=2)
    module = models.MPNN(
        message_passing,
        nn.MeanAggregation(),
        nn.RegressionFFN(input_dim=8, hidden_dim=8),
        batch_norm=True,
        metrics=[nn.metrics.RMSE()],
    )
    return pl, module, data.build_dataloader(dataset, batch_size=4, num_workers=0, shuffle=True)


def train(make: Callable[[], tuple[Any, Any, Any]], watched: bool) -> tuple[dict[str, Any], dict[str, float], Any]:
    from landscape_callbacks import LandscapeMonitor

    torch.manual_seed(3)
    pl, module, loader = make()
    monitor = LandscapeMonitor(max_overhead=None, every_n_steps=1, figures=False, summary=False) if watched else None
    pl.seed_everything(5, verbose=False)
    trainer = pl.Trainer(
        max_steps=STEPS,
        max_epochs=-1,
        accelerator="cpu",
        devices=1,
        callbacks=[monitor] if monitor is not None else [],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not measure.*")
        trainer.fit(module, loader)
    state = {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, torch.Tensor)}
    optimizer = {
        f"optimizer {i}": value
        for i, value in enumerate(torch.nn.utils.parameters_to_vector(p for p in _moments(trainer)))
    }
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    return {**state, **optimizer, "random": torch.get_rng_state()}, metrics, monitor


def _moments(trainer: Any) -> list[Any]:
    states = [state for optimizer in trainer.optimizers for state in optimizer.state.values()]
    found = [value for state in states for value in state.values() if isinstance(value, torch.Tensor)]
    return found or [torch.zeros(1)]


@pytest.mark.parametrize(
    ("make", "library"),
    [(demo_transformer, "lightning"), (forecasting, "pytorch_forecasting"), (molecules, "chemprop")],
)
def test_training_is_bit_identical_and_values_are_sensible(
    make: Callable[[], tuple[Any, Any, Any]], library: str
) -> None:
    pytest.importorskip(library)
    untouched, _, _ = train(make, watched=False)
    watched, metrics, monitor = train(make, watched=True)
    assert sorted(watched) == sorted(untouched)
    assert all(torch.equal(watched[name], untouched[name]) for name in watched)
    assert monitor.parts["eigenvalues"].cadence.measurements == STEPS
    assert monitor.parts["eigenvalues"].coordinator.failed == 0
    largest, error = metrics["hessian/largest_eigenvalue"], metrics["hessian/largest_eigenvalue_error"]
    assert 0.0 < largest < 1e4
    assert error < 0.05 * largest
    assert metrics["hessian/smallest_eigenvalue"] < largest
    assert 0.0 < metrics["gradient/norm"] < 1e4
