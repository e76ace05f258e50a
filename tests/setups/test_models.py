"""Rows of the support table: layers and parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from landscape_callbacks.training.lightning_namespace import MisconfigurationException
from tests.setups.harness import Case, Setup, check, check_values, classification, run, tokens


class Attention(nn.Module):
    """One head of scaled-dot-product attention in torch's fused form."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.qkv = nn.Linear(4, 12, bias=False)
        self.head = nn.Linear(4, 3)

    def forward(self, drawn: Tensor) -> Tensor:
        query, key, value = self.qkv(self.embedding(drawn)).unsqueeze(1).chunk(3, dim=-1)
        attended = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.head(attended.squeeze(1).mean(1))


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.layer = nn.TransformerEncoderLayer(4, 2, dim_feedforward=4, dropout=0.0, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, drawn: Tensor) -> Tensor:
        return self.head(self.layer(self.embedding(drawn)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, cell: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = cell(3, 3, batch_first=True)
        self.head = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


class Bag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(6, 4, mode="mean")
        self.head = nn.Sequential(nn.Tanh(), nn.Linear(4, 3))

    def forward(self, drawn: Tensor) -> Tensor:
        return self.head(self.bag(drawn))


class SparseEmbedding(Setup):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.Embedding(6, 4, sparse=True), nn.Flatten(), nn.Tanh(), nn.Linear(20, 3)))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.first, self.second = nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(checkpoint(self.first, x.requires_grad_(self.reentrant), use_reentrant=self.reentrant))


class CheckpointedAttention(Attention):
    """A fused kernel and batch-norm statistics inside of the region that a backward runs again."""

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.norm = nn.BatchNorm1d(4)

    def attend(self, embedded: Tensor) -> Tensor:
        query, key, value = self.qkv(embedded).unsqueeze(1).chunk(3, dim=-1)
        return self.norm(nn.functional.scaled_dot_product_attention(query, key, value).squeeze(1).mean(1))

    def forward(self, drawn: Tensor) -> Tensor:
        return self.head(checkpoint(self.attend, self.embedding(drawn), use_reentrant=self.reentrant))


class ManualCheckpoints(Setup):
    """Manual optimization is measured on the live graph, whose backward runs the region again."""

    def __init__(self, reentrant: bool = False) -> None:
        super().__init__(CheckpointedAttention(reentrant))
        self.automatic_optimization = False

    def loss(self, batch: Any) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return super().loss(batch)

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        self.optimizers().zero_grad()
        with sdpa_kernel(SDPBackend.MATH):
            self.manual_backward(loss)
        self.optimizers().step()


class Tied(nn.Module):
    """Encoder and decoder share a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(torch.tanh(self.encoder(x)))


def frozen() -> Setup:
    module = Setup()
    module.net[0].requires_grad_(False)
    return module


def unused() -> Setup:
    module = Setup()
    module.spare = nn.Linear(2, 2)
    return module


class Lazy(Setup):
    """A lazy layer that one batch in ``setup`` gives its shape."""

    def __init__(self, dry_run: bool = True) -> None:
        super().__init__(nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(3)))
        self.dry_run = dry_run

    def setup(self, stage: str) -> None:
        if self.dry_run:
            self.net(torch.zeros(1, 4))


class LowRank(nn.Module):
    """A frozen linear layer with a trained low-rank change (Hu et al. 2021)."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, base.in_features) / 2)
        self.up = nn.Parameter(0.3 * torch.randn(base.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + x @ self.down.T @ self.up.T


class SmoothSquare(torch.autograd.Function):
    """x² whose backward is made of differentiable operations."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        context.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return 2 * x * gradient


class OnceSquare(SmoothSquare):
    """x² as an extension in another language gives it: its backward cannot be differentiated."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(context: Any, gradient: Tensor) -> Tensor:
        (x,) = context.saved_tensors
        return 2 * x * gradient


class Custom(nn.Module):
    def __init__(self, function: type[torch.autograd.Function]) -> None:
        super().__init__()
        self.function = function
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.tanh(self.function.apply(self.first(x))))


def reparametrized(change: Callable[[nn.Linear], nn.Module], width: int = 5) -> Setup:
    return Setup(nn.Sequential(change(nn.Linear(4, width)), nn.Tanh(), nn.Linear(width, 3)))


def frequency_scaled() -> Setup:
    """The gradient of a word is divided by how often it comes: it is the gradient of no loss."""
    return Setup(nn.Sequential(nn.Embedding(6, 4, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(20, 3)))


def with_vectors_held(module: Any, batch: Any) -> Tensor:
    """The loss with the singular vectors of a spectral norm as the training step moves them, held there."""
    norm = module.net[0].parametrizations.weight[0]
    if torch.is_grad_enabled():
        if not hasattr(module, "held"):
            with torch.no_grad():
                module.loss(batch)
            module.held = norm._u.clone(), norm._v.clone()
        norm._u, norm._v = module.held
        norm.eval()
    return module.loss(batch)


def sequences() -> Any:
    return classification(16, shape=(4, 3))


COARSE = {"tolerance": 2e-3}
APPROXIMATE = "eigenvalues are approximate"
CASES = {
    "scaled-dot-product attention": Case(lambda: Setup(Attention()), tokens),
    "TransformerEncoderLayer": Case(lambda: Setup(Encoder()), tokens, tolerance=5e-3),
    "LSTM": Case(lambda: Setup(Recurrent(nn.LSTM)), sequences),
    "GRU": Case(lambda: Setup(Recurrent(nn.GRU)), sequences),
    "EmbeddingBag": Case(lambda: Setup(Bag()), tokens, monitor=COARSE, warning=APPROXIMATE),
    "sparse embedding": Case(SparseEmbedding, tokens),
    "checkpointing": Case(lambda: Setup(Checkpointed(reentrant=False))),
    "reentrant checkpointing": Case(lambda: Setup(Checkpointed(reentrant=True))),
    "checkpointed attention": Case(lambda: Setup(CheckpointedAttention(reentrant=False)), tokens),
    "reentrant checkpointed attention": Case(lambda: Setup(CheckpointedAttention(reentrant=True)), tokens),
    "checkpoints under manual optimization": Case(ManualCheckpoints, tokens, slices=False),
    "tied parameters": Case(lambda: Setup(Tied())),
    "frozen parameters": Case(frozen),
    "unused parameters": Case(unused),
    "lazy parameters": Case(Lazy),
    "low-rank adapters": Case(
        lambda: Setup(nn.Sequential(LowRank(nn.Linear(4, 5)), nn.Tanh(), LowRank(nn.Linear(5, 3))))
    ),
    "custom function": Case(lambda: Setup(Custom(SmoothSquare))),
    "custom function without second derivative": Case(
        lambda: Setup(Custom(OnceSquare)), monitor=COARSE, warning=APPROXIMATE
    ),
    "weight norm": Case(lambda: reparametrized(parametrizations.weight_norm)),
    "weight norm over the other axis": Case(lambda: reparametrized(lambda m: parametrizations.weight_norm(m, dim=1))),
    "weight norm by a hook": Case(lambda: reparametrized(nn.utils.weight_norm)),
    "spectral norm": Case(
        lambda: reparametrized(parametrizations.spectral_norm), slices=False, reference=with_vectors_held
    ),
    "orthogonal weights": Case(
        lambda: reparametrized(lambda m: parametrizations.orthogonal(m, orthogonal_map="matrix_exp"), width=4)
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_model(name: str) -> None:
    check_values(CASES[name], check(CASES[name]))


def test_a_gradient_that_is_none_of_the_loss_is_named() -> None:
    case = Case(frequency_scaled, tokens, monitor={"tolerance": 1e-3}, warning="products are not symmetric")
    watched = check(case)
    rows = [row for _, row in watched.rows.our_rows() if "hessian/largest_eigenvalue" in row]
    assert all(row["hessian/asymmetry"] > 0.01 for row in rows)
    # No value is passed off as known, and no products are spent on what cannot converge.
    assert all(row["hessian/largest_eigenvalue_error"] > 1e-3 * row["hessian/largest_eigenvalue"] for row in rows)
    assert all(row["hessian/products"] < 60 for row in rows)


def test_reentrant_checkpoints_in_a_live_graph_are_refused_with_a_way_out() -> None:
    case = Case(lambda: ManualCheckpoints(reentrant=True), tokens, slices=False)
    with pytest.warns(RuntimeWarning, match="use_reentrant=False"):
        watched = run(case, measured=True)
    assert watched.monitors[0].coordinator.failed == 4
    assert watched.prints == run(case, measured=False).prints


class Manual(Setup):
    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.automatic_optimization = False

    def training_step(self, batch: Any, batch_idx: int) -> None:
        loss = self.loss(batch)
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()


@pytest.mark.parametrize(
    ("net", "data", "steps", "way_out"),
    [
        (Bag, tokens, 4, Case(monitor=COARSE, warning=APPROXIMATE)),
        (lambda: reparametrized(parametrizations.weight_norm).net, classification, 6, Case()),
    ],
    ids=["EmbeddingBag", "weight norm"],
)
def test_a_live_graph_without_second_derivative_is_refused_with_a_way_out(
    net: Callable[[], nn.Module], data: Callable[[], Any], steps: int, way_out: Case
) -> None:
    case = Case(lambda: Manual(net()), data, slices=False)
    with pytest.warns(RuntimeWarning, match="loss_fn="):
        watched = run(case, measured=True)
    assert watched.monitors[0].coordinator.failed == steps
    assert watched.prints == run(case, measured=False).prints
    with_loss = {**way_out.monitor, "loss_fn": lambda module, batch: module.loss(batch)}
    way_out = replace(way_out, module=case.module, data=data, monitor=with_loss)
    check_values(way_out, check(way_out))


def test_lazy_parameters_without_a_shape_are_refused() -> None:
    with pytest.raises(MisconfigurationException, match="Run one batch through the model first"):
        run(Case(lambda: Lazy(dry_run=False)), measured=True)
