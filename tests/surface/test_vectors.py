from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape_callbacks.surface import ParameterSpace


def space_of(*tensors: torch.Tensor) -> ParameterSpace:
    return ParameterSpace([nn.Parameter(tensor) for tensor in tensors])


def test_flatten_and_split_are_inverse() -> None:
    space = space_of(torch.randn(2, 3), torch.randn(4), torch.randn(()))
    assert space.dimension == space.local_dimension == 11
    pieces = space.split(space.weights())
    assert [piece.shape for piece in pieces] == [(2, 3), (4,), ()]
    assert all(torch.equal(piece, parameter) for piece, parameter in zip(pieces, space.parameters, strict=True))
    assert torch.equal(space.flatten(pieces), space.weights())


def test_weights_are_a_copy() -> None:
    space = space_of(torch.ones(3))
    space.weights().zero_()
    assert space.parameters[0].tolist() == [1.0, 1.0, 1.0]


def test_a_missing_gradient_becomes_zeros() -> None:
    space = space_of(torch.ones(2), torch.ones(3))
    assert space.flatten([None, torch.ones(3)]).tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    wide = space_of(torch.ones(2, dtype=torch.float64))
    assert torch.equal(wide.flatten([None]), wide.zeros())


def test_a_sparse_gradient_is_filled_in() -> None:
    sparse = torch.tensor([[0.0, 0.0], [5.0, 6.0], [0.0, 0.0]]).to_sparse(1)
    assert space_of(torch.ones(3, 2)).flatten([sparse]).tolist() == [0.0, 0.0, 5.0, 6.0, 0.0, 0.0]


@pytest.mark.parametrize("count", [1, 3])
def test_another_number_of_tensors_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="zip"):
        space_of(torch.ones(2), torch.ones(2)).flatten([torch.ones(2)] * count)


def test_tied_parameters_count_once_and_frozen_ones_not_at_all() -> None:
    tied, frozen, last = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(5), False), nn.Parameter(torch.ones(3))
    space = ParameterSpace([("encoder", tied), ("decoder", tied), ("frozen", frozen), ("last", last)])
    assert space.names == ("encoder", "last")
    assert space.dimension == space.largest_local_dimension == 5


def test_parameters_without_names_are_numbered() -> None:
    assert space_of(torch.ones(2), torch.ones(3)).names == ("0", "1")


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ([torch.float16], torch.float32),
        ([torch.bfloat16], torch.float32),
        ([torch.bfloat16, torch.float32], torch.float32),
        ([torch.float16, torch.float64], torch.float64),
    ],
)
def test_vectors_are_at_least_float32(dtypes: list[torch.dtype], expected: torch.dtype) -> None:
    space = space_of(*[torch.ones(2, dtype=dtype) for dtype in dtypes])
    assert space.dtype == space.zeros().dtype == space.random(0).dtype == space.weights().dtype == expected
    assert [piece.dtype for piece in space.split(space.zeros())] == dtypes


@pytest.mark.parametrize("distribution", ["normal", "rademacher"])
def test_random_vectors_are_seeded_and_leave_the_global_stream_alone(distribution: str) -> None:
    space = space_of(torch.ones(1000), torch.ones(1000))
    state = torch.get_rng_state()
    first = space.random(5, distribution)
    assert torch.equal(first, space.random(5, distribution))
    assert not torch.equal(first, space.random(6, distribution))
    assert not torch.equal(first[:1000], first[1000:])
    assert torch.equal(torch.get_rng_state(), state)
    assert abs(float(first.mean())) < 0.1
    assert float(first.std()) == pytest.approx(1.0, abs=0.1)


def test_random_vectors_are_normal_by_default() -> None:
    sizes = space_of(torch.ones(4000)).random(0).abs()
    for bound, share in ((1.0, 0.6827), (2.0, 0.9545), (3.0, 0.9973)):
        assert float((sizes < bound).double().mean()) == pytest.approx(share, abs=0.03)
    assert float(sizes.max()) > 3.0


def test_rademacher_vectors_hold_signs() -> None:
    signs = space_of(torch.ones(1000)).random(0, "rademacher")
    assert set(signs.tolist()) == {-1.0, 1.0}
    assert abs(float(signs.mean())) < 0.1


def test_an_unknown_distribution_is_refused() -> None:
    with pytest.raises(ValueError, match="'uniform'"):
        space_of(torch.ones(1)).random(0, "uniform")


def test_inner_products() -> None:
    space = space_of(torch.ones(4))
    basis = torch.randn(3, 4)
    vector = torch.randn(4)
    torch.testing.assert_close(space.dot(basis[0], vector), (basis[0] * vector).sum())
    torch.testing.assert_close(space.norm(vector), vector.square().sum().sqrt())
    torch.testing.assert_close(space.coefficients(basis, vector), basis @ vector)


def test_long_float32_sums_keep_their_digits() -> None:
    size = 3_000_000
    space = space_of(torch.empty(size))
    vector = space.random(0)
    exact = float(vector.double().square().sum())
    assert float(space.dot(vector, vector)) == pytest.approx(exact, rel=3e-6)
    assert float(space.norm(vector)) == pytest.approx(exact**0.5, rel=3e-6)


@pytest.mark.parametrize("size", [3, 131_072, 131_073, 300_000])
def test_long_sums_hold_every_entry_once(size: int) -> None:
    vector = torch.arange(size, dtype=torch.float64)
    space = space_of(torch.empty(size, dtype=torch.float64))
    ones = torch.ones_like(vector)
    assert space.coefficients(torch.stack([ones, 2 * ones]), vector + 1).tolist() == [
        size * (size + 1) / 2,
        size * (size + 1),
    ]


def test_a_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="flat vector of 3 entries"):
        space_of(torch.ones(3)).split(torch.ones(2))


def test_segments_cover_all_entries_once() -> None:
    space = space_of(torch.ones(3), torch.ones(2))
    assert space.segments() == [(0, 5, 1.0)]
    value = torch.ones(2)
    assert space.sum_over_processes(value) is value


def test_repr_says_what_it_spans() -> None:
    assert repr(space_of(torch.ones(3))) == "ParameterSpace(1 parameters, 3 entries, torch.float32, cpu)"
