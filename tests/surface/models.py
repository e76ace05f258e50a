"""Small models with dense Hessians that share no code with the library: the ground truth of the surface tests."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape_callbacks.surface import LossSurface
from landscape_callbacks.surface.vectors import ParameterSpace


@dataclass
class Model:
    """A module with a batch and a loss."""

    module: nn.Module
    inputs: Tensor
    targets: Tensor
    criterion: Callable[[Tensor, Tensor], Tensor]

    def loss(self) -> Tensor:
        return self.criterion(self.module(self.inputs), self.targets)

    def surface(self) -> LossSurface:
        return LossSurface(self.loss, self.module.named_parameters())

    def hessian(self) -> np.ndarray:
        """The dense Hessian in float64 from differences of plain gradients; nothing in it is differentiated twice.

        Fourth-order central differences are good to 1e-9 here. torch.func.hessian (forward over reverse) is none:
        in torch 2.13 its rows of batch-norm and layer-norm weights are wrong in the second digit.
        """
        module = copy.deepcopy(self.module).double()
        inputs, targets = (t.double() if t.is_floating_point() else t for t in (self.inputs, self.targets))
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        weights = nn.utils.parameters_to_vector(parameters).detach()
        step = 2e-6

        def gradient(at: Tensor) -> Tensor:
            nn.utils.vector_to_parameters(at, parameters)
            return torch.cat(
                [g.reshape(-1) for g in torch.autograd.grad(self.criterion(module(inputs), targets), parameters)]
            )

        rows = []
        for unit in step * torch.eye(len(weights), dtype=torch.float64):
            near = gradient(weights + unit) - gradient(weights - unit)
            far = gradient(weights + 2 * unit) - gradient(weights - 2 * unit)
            rows.append((8 * near - far) / (12 * step))
        hessian = torch.stack(rows).numpy()
        return np.asarray((hessian + hessian.T) / 2)


class Attention(nn.Module):
    """One causal self-attention layer on tokens, with layer norm."""

    def __init__(self, tokens: int = 7, width: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.head = nn.Linear(width, tokens)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        query, key, value = self.qkv(self.norm(x)).chunk(3, dim=-1)
        scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        x = x + scores.masked_fill(future, float("-inf")).softmax(-1) @ value
        return self.head(x).transpose(1, 2)


class TiedAutoencoder(nn.Module):
    """Encoder and decoder share one weight matrix, which is also registered under two names."""

    def __init__(self, inputs: int = 6, hidden: int = 3) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(hidden, inputs) / inputs**0.5)
        self.decoder_weight = self.weight
        self.bias = nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight.T + self.bias) @ self.decoder_weight


def _classes(count: int, classes: int) -> Tensor:
    return torch.arange(count) % classes


def tanh_net() -> Model:
    module = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3))
    return Model(module, torch.randn(20, 6), _classes(20, 3), F.cross_entropy)


def relu_net() -> Model:
    """The 25-4-4-3 net that a peer checks against its dense Hessian."""
    module = nn.Sequential(nn.Linear(25, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))
    return Model(module, torch.randn(30, 25), _classes(30, 3), F.cross_entropy)


def batch_norm_net() -> Model:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.ReLU(),
        nn.Conv2d(4, 3, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return Model(module, torch.randn(16, 1, 7, 7), _classes(16, 3), F.cross_entropy)


def attention_net() -> Model:
    tokens = torch.randint(0, 7, (6, 9))
    return Model(Attention(), tokens[:, :-1], tokens[:, 1:], F.cross_entropy)


def softmax_regression() -> Model:
    return Model(nn.Linear(7, 4), torch.randn(40, 7), _classes(40, 4), F.cross_entropy)


def tied_net() -> Model:
    inputs = torch.randn(15, 6)
    return Model(TiedAutoencoder(), inputs, inputs.clone(), F.mse_loss)


MODELS = (tanh_net, relu_net, batch_norm_net, attention_net, softmax_regression, tied_net)


def build(make: Callable[[], Model], dtype: torch.dtype = torch.float64, seed: int = 0) -> Model:
    """A model with seeded weights and data in a dtype."""
    torch.manual_seed(seed)
    model = make()
    model.module.to(dtype)
    for name in ("inputs", "targets"):
        tensor = getattr(model, name)
        if tensor.is_floating_point():
            setattr(model, name, tensor.to(dtype))
    return model


def softmax_regression_hessian(model: Model) -> np.ndarray:
    """The closed form (1/N) Σ (diag(p) − ppᵀ) ⊗ xxᵀ in the order (weight, bias)."""
    inputs = model.inputs.double().numpy()
    with torch.no_grad():
        probabilities = model.module(model.inputs).double().softmax(1).numpy()
    count, width = inputs.shape
    classes = probabilities.shape[1]
    extended = np.column_stack([inputs, np.ones(count)])
    blocks = np.einsum("nc,cd->ncd", probabilities, np.eye(classes)) - np.einsum(
        "nc,nd->ncd", probabilities, probabilities
    )
    full = np.einsum("ncd,ni,nj->cidj", blocks, extended, extended) / count
    weights = full[:, :width, :, :width].reshape(classes * width, classes * width)
    cross = full[:, :width, :, width].reshape(classes * width, classes)
    return np.block([[weights, cross], [cross.T, full[:, width, :, width]]])


class Diagonal:
    """The operator diag(curvatures), counting its products; the space is that of one parameter."""

    def __init__(self, curvatures: Tensor) -> None:
        self.curvatures = curvatures
        self.space = ParameterSpace([nn.Parameter(torch.zeros_like(curvatures))])
        self.products = 0

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        self.products += 1
        return self.curvatures * vector


class Dense:
    """The operator of a symmetric matrix."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix = matrix
        self.space = ParameterSpace([nn.Parameter(torch.zeros(len(matrix), dtype=matrix.dtype))])

    def hessian_vector_product(self, vector: Tensor) -> Tensor:
        return self.matrix @ vector
