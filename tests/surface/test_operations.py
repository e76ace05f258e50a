"""Second derivatives of torch's own operations, beside differences of gradients: what torch gets wrong has to be known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations

from landscape_callbacks.surface import LossSurface, extreme_eigenvalues

pytestmark = pytest.mark.filterwarnings("ignore")
Make = Callable[[], nn.Module]


class Function(nn.Module):
    """A function of the input and of layers as a module."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def after(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), *layers)


def of(function: Callable[[Tensor], Tensor]) -> Make:
    return lambda: after(Function(function))


def reshaped(shape: tuple[int, ...], layer: Callable[[], nn.Module]) -> Make:
    return lambda: after(nn.Unflatten(1, shape), layer(), nn.Flatten())


def sequences(make: Callable[[], nn.Module]) -> Make:
    return lambda: Function(lambda x, layer: layer(x.view(-1, 2, 2))[0].flatten(1), make())


def words(x: Tensor) -> Tensor:
    return (2 * x.abs()).long().clamp(0, 5)


def attention(causal: bool) -> Make:
    def attend(x: Tensor) -> Tensor:
        x = x.view(-1, 1, 3, 2)
        return F.scaled_dot_product_attention(x, x.roll(1, 2), x, is_causal=causal).flatten(1)

    return of(attend)


GROUPS = torch.tensor([0, 0, 1, 1, 2, 2])


def grouped(reduce: str) -> Make:
    return of(lambda x: torch.ones(len(x), 3).scatter_reduce(1, GROUPS.expand(len(x), 6), x, reduce))


ACTIVATIONS = [
    "CELU",
    "ELU",
    "GELU",
    "GLU",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "LeakyReLU",
    "LogSigmoid",
    "Mish",
    "PReLU",
    "ReLU6",
    "SELU",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Softshrink",
    "Softsign",
    "Tanhshrink",
]
FUNCTIONS = [
    "erf",
    "special.erfcx",
    "i0",
    "special.i0e",
    "special.ndtr",
    "special.log_ndtr",
    "sinc",
    "cumsum",
    "cumprod",
    "logcumsumexp",
    "sort",
    "amax",
    "logsumexp",
    "std",
    "var",
    "prod",
]


def named(name: str) -> Callable[[Tensor], Tensor]:
    function: Any = torch
    for part in name.split("."):
        function = getattr(function, part)
    over_axis = name in "cumsum cumprod logcumsumexp sort amax logsumexp std var prod"

    def apply(x: Tensor) -> Tensor:
        result = function(x, 1) if over_axis else function(x)
        result = result[0] if isinstance(result, tuple) else result
        return result.reshape(len(x), -1)

    return apply


LAYERS: dict[str, Make] = {
    **{name: (lambda name=name: after(getattr(nn, name)())) for name in ACTIVATIONS},
    **{name: of(named(name)) for name in FUNCTIONS},
    "GELU by tanh": lambda: after(nn.GELU("tanh")),
    "Softmax": lambda: after(nn.Softmax(1)),
    "LayerNorm": lambda: after(nn.LayerNorm(6)),
    "RMSNorm": lambda: after(nn.RMSNorm(6)),
    "GroupNorm": lambda: after(nn.GroupNorm(2, 6)),
    "BatchNorm1d": lambda: after(nn.BatchNorm1d(6)),
    "InstanceNorm1d": reshaped((2, 3), lambda: nn.InstanceNorm1d(2, affine=True)),
    "LocalResponseNorm": reshaped((6, 1), lambda: nn.LocalResponseNorm(2)),
    "weight norm": lambda: after(parametrizations.weight_norm(nn.Linear(6, 5))),
    "weight norm over the other axis": lambda: after(parametrizations.weight_norm(nn.Linear(6, 5), dim=1)),
    "weight norm of all": lambda: after(parametrizations.weight_norm(nn.Linear(6, 5), dim=None)),
    "weight norm by a hook": lambda: after(nn.utils.weight_norm(nn.Linear(6, 5))),
    "weight norm of a convolution": reshaped((2, 3), lambda: parametrizations.weight_norm(nn.Conv1d(2, 3, 2))),
    "spectral norm in eval mode": lambda: after(parametrizations.spectral_norm(nn.Linear(6, 5))).eval(),
    "orthogonal, Cayley": lambda: after(parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="cayley")),
    "orthogonal, exponential": lambda: after(parametrizations.orthogonal(nn.Linear(6, 6), orthogonal_map="matrix_exp")),
    "Bilinear": lambda: Function(lambda x, layer: layer(x, x), nn.Bilinear(4, 4, 3)),
    "Embedding": lambda: Function(
        lambda x, table, layer: layer(torch.tanh(table(words(x)).mean(1))), nn.Embedding(6, 4), nn.Linear(4, 3)
    ),
    "LSTM": sequences(lambda: nn.LSTM(2, 3, batch_first=True)),
    "LSTM with projection": sequences(lambda: nn.LSTM(2, 3, proj_size=2, batch_first=True)),
    "GRU": sequences(lambda: nn.GRU(2, 3, batch_first=True)),
    "RNN": sequences(lambda: nn.RNN(2, 3, batch_first=True)),
    "LSTMCell": lambda: Function(lambda x, cell: cell(x)[0], nn.LSTMCell(4, 3)),
    "GRUCell": lambda: Function(lambda x, cell: cell(x), nn.GRUCell(4, 3)),
    "MultiheadAttention": lambda: Function(
        lambda x, layer: layer(*[x.view(-1, 2, 2)] * 3)[0].flatten(1), nn.MultiheadAttention(2, 1, batch_first=True)
    ),
    "attention": attention(causal=False),
    "causal attention": attention(causal=True),
    "Conv1d": reshaped((2, 3), lambda: nn.Conv1d(2, 3, 2)),
    "Conv2d, circular": reshaped((1, 2, 3), lambda: nn.Conv2d(1, 3, 2, padding=1, padding_mode="circular")),
    "Conv3d": reshaped((1, 1, 2, 3), lambda: nn.Conv3d(1, 2, (1, 2, 2))),
    "ConvTranspose1d": reshaped((2, 3), lambda: nn.ConvTranspose1d(2, 3, 2)),
    "MaxPool1d": reshaped((1, 6), lambda: nn.MaxPool1d(2)),
    "AvgPool2d": reshaped((1, 2, 3), lambda: nn.AvgPool2d(2, 1)),
    "LPPool1d": reshaped((1, 6), lambda: nn.LPPool1d(2, 2)),
    "AdaptiveAvgPool2d": reshaped((1, 2, 3), lambda: nn.AdaptiveAvgPool2d((2, 2))),
    "Upsample": reshaped((1, 2, 3), lambda: nn.Upsample(scale_factor=2, mode="bicubic")),
    "Unfold": reshaped((1, 2, 3), lambda: nn.Unfold((2, 2))),
    "grid_sample": of(
        lambda x: F.grid_sample(x.view(-1, 1, 2, 3), torch.tanh(x).view(-1, 3, 1, 2), align_corners=False).flatten(1)
    ),
    "cdist": of(lambda x: torch.cdist(x, x[:3] + 1.0)),
    "cdist of order 3": of(lambda x: torch.cdist(x, x[:3] + 1.0, p=3.0)),
    "normalize": of(F.normalize),
    "cosine_similarity": of(lambda x: torch.stack([x[:, 0], F.cosine_similarity(x, x.roll(1, 0))], 1)),
    "svdvals": of(lambda x: torch.linalg.svdvals(x.view(-1, 2, 3))),
    "inv": of(lambda x: torch.linalg.inv(x[:, :4].reshape(-1, 2, 2) + 3 * torch.eye(2)).flatten(1)),
    "fft": of(lambda x: torch.fft.rfft(x).abs()),
    "complex": of(lambda x: (torch.view_as_complex(x.view(-1, 3, 2).contiguous()) ** 2).abs()),
    "lgamma": of(lambda x: torch.lgamma(x.abs() + 1)),
    "pow": of(lambda x: (x.abs() + 1) ** x),
    "atan2": of(lambda x: torch.atan2(x, x.roll(1, 1) + 2)),
    "logaddexp": of(lambda x: torch.logaddexp(x, x.roll(1, 1))),
    "einsum": of(lambda x: torch.einsum("bi,bj->bij", x, x).flatten(1)),
    "index_add": of(lambda x: torch.zeros(len(x), 3).index_add(1, GROUPS, x)),
    "scatter_reduce, mean": grouped("mean"),
    "scatter_reduce, product": grouped("prod"),
    "segment_reduce": of(lambda x: torch.segment_reduce(x.t().contiguous(), "mean", lengths=torch.tensor([2, 4])).t()),
    "vmap of grad": of(lambda x: torch.func.vmap(torch.func.grad(lambda row: (row**3).sum()))(x)),
    "grad inside": of(lambda x: torch.autograd.grad((x**3).sum(), x, create_graph=True)[0]),
}


def spread(y: Tensor, outputs: Tensor) -> Tensor:
    return y[:, None].to(outputs).expand_as(outputs)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross entropy, smoothed": lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1),
    "mean squares": lambda o, y: F.mse_loss(o, spread(y, o)),
    "absolute": lambda o, y: F.l1_loss(o, spread(y, o) + 0.3),
    "Huber": lambda o, y: F.huber_loss(o, spread(y, o)),
    "smooth absolute": lambda o, y: F.smooth_l1_loss(o, spread(y, o)),
    "binary with logits": lambda o, y: F.binary_cross_entropy_with_logits(
        o, spread(y % 2, o), pos_weight=torch.tensor(2.0)
    ),
    "binary": lambda o, y: F.binary_cross_entropy(o.sigmoid(), spread(y % 2, o)),
    "Kullback-Leibler": lambda o, y: F.kl_div(o.log_softmax(1), torch.full_like(o, 1 / 3), reduction="batchmean"),
    "Gaussian": lambda o, y: F.gaussian_nll_loss(o, spread(y, o), o.exp()),
    "Poisson": lambda o, y: F.poisson_nll_loss(o, spread(y, o)),
    "triplet": lambda o, y: F.triplet_margin_loss(o, o.roll(1, 0), o.roll(2, 0)),
    "squared margin": lambda o, y: F.multi_margin_loss(o, y, p=2),
    "soft margin": lambda o, y: F.soft_margin_loss(o, spread(2 * (y % 2) - 1, o)),
    "cosine embedding": lambda o, y: F.cosine_embedding_loss(o, o.roll(1, 0), 2 * (y % 2) - 1),
    "connectionist": lambda o, y: F.ctc_loss(
        o.expand(4, -1, -1).log_softmax(2), (y % 2 + 1)[:, None], torch.full((8,), 4), torch.full((8,), 1)
    ),
}


def closure_of(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], Tensor]:
    x, y = torch.randn(8, 4), torch.randint(0, 3, (8,))
    return lambda: loss(net(x), y)


@pytest.fixture(autouse=True)
def _float64() -> Any:
    torch.manual_seed(3)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def check(net: nn.Module, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    closure = closure_of(net, loss)
    surface = LossSurface(closure, net.parameters())
    space = surface.space
    vector, start = space.random(1), space.weights()
    with sdpa_kernel(SDPBackend.MATH):
        product = surface.hessian_vector_product(vector)

        def gradient_at(distance: float) -> Tensor:
            nn.utils.vector_to_parameters(start + distance * vector, net.parameters())
            return space.flatten(torch.autograd.grad(closure(), space.parameters, allow_unused=True))

        expected = (gradient_at(1e-6) - gradient_at(-1e-6)) / 2e-6
    allowed = 1e-6 if surface.approximation is None else 1e-4
    assert float((product - expected).norm()) <= allowed * float(expected.norm()) + 1e-9


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    check(LAYERS[name](), lambda o, y: (torch.tanh(o - 0.1) ** 2).mean() + 0.1 * o.square().mean())


@pytest.mark.parametrize("name", LOSSES)
def test_loss(name: str) -> None:
    check(after(nn.Linear(6, 3)), LOSSES[name])


@pytest.mark.parametrize("change", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_weight_norm_is_exact_and_torch_is_as_it_was_after_it(change: Callable[[nn.Module], nn.Module]) -> None:
    fused, hooked = torch._weight_norm, nn.utils.weight_norm
    net = after(change(nn.Linear(6, 3)))
    surface = LossSurface(closure_of(net, F.cross_entropy), net.parameters())
    pairs = extreme_eigenvalues(surface, 1, 1)
    assert all(pairs.converged)
    assert pairs.asymmetry < 1e-10
    assert surface.approximation is None
    assert torch._weight_norm is fused
    assert nn.utils.weight_norm is hooked
    assert "WeightNormInterfaceBackward0" in graph_names(net(torch.randn(2, 4)))


def graph_names(output: Tensor) -> set[str]:
    names, pending = set(), [output.grad_fn]
    while pending:
        node = pending.pop()
        if node is not None:
            names.add(node.name())
            pending += [following for following, _ in node.next_functions]
    return names
