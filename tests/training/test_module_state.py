"""What is put aside of a module, and what is left alone: data sets, live objects, long histories."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from landscape_callbacks.training.held_parameters import HeldParameters
from landscape_callbacks.training.module_state import ModuleState


class Plain:
    def __init__(self, **held: Any) -> None:
        self.__dict__.update(held)


def module(**held: Any) -> nn.Module:
    made = nn.Linear(2, 2)
    made.__dict__.update(held)
    return made


def test_objects_with_a_life_of_their_own_are_left_alone() -> None:
    client = Plain(lock=threading.Lock(), sent=0)
    around = Plain(inner=client, count=0)
    state = ModuleState(module(client=client, around=around))
    with state.isolated():
        client.sent = around.count = 1
    assert (client.sent, around.count) == (1, 1)


def test_iterators_are_found_wherever_they_are_held(tmp_path: Path) -> None:
    loader = torch.utils.data.DataLoader(torch.arange(4))
    file = (tmp_path / "log.txt").open("w")
    inner = module(direct=iter(loader))
    made = module(
        inner=inner,
        several=[iter(loader), iter(loader)],
        helper=Plain(feed=(n for n in range(3)), count=0),
        copied=iter([1, 2]),
        file=file,
        loader=loader,
    )
    state = ModuleState(made)
    file.close()
    assert sorted(state.iterators) == ["Linear.direct", "Linear.helper", "Linear.several"]
    taken = made.copied
    with state.isolated():
        assert next(made.copied) == 1
        made.helper.count = 1
    assert made.copied is taken
    assert next(taken) == 1
    assert made.helper.count == 0


def test_objects_of_torch_are_left_alone() -> None:
    class Samples(torch.utils.data.Dataset):
        served = 0

    samples = Samples()
    with ModuleState(module(samples=samples)).isolated():
        samples.served = 3
    assert samples.served == 3


def test_helpers_without_attributes_do_not_keep_others_from_being_restored() -> None:
    class Loss:
        def __call__(self) -> float:
            return 0.0

    helper = Plain(loss=Loss(), count=0)
    with ModuleState(module(helper=helper)).isolated():
        helper.count = 5
        helper.new = 1
    assert vars(helper).keys() == {"loss", "count"}
    assert helper.count == 0


def test_a_history_of_losses_is_not_cloned_and_its_length_is_restored() -> None:
    history = [torch.zeros(()) for _ in range(100)]
    first = history[0]
    with ModuleState(module(history=history)).isolated():
        assert history[0] is first
        history.append(torch.ones(()))
    assert len(history) == 100
    short = [torch.zeros(())]
    kept = short[0]
    with ModuleState(module(short=short)).isolated():
        short[0].add_(1)
    assert short[0] is kept
    assert float(kept) == 0.0


def test_a_data_set_in_a_list_is_not_looked_into_and_keeps_its_length() -> None:
    samples = [torch.zeros(2) for _ in range(10_001)]
    first = samples[0]
    with ModuleState(module(samples=samples)).isolated():
        assert samples[0] is first
        samples.append(first)
    assert len(samples) == 10_001


def test_large_arrays_and_files_are_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "array.npy", np.zeros(10))
    mapped = np.load(tmp_path / "array.npy", mmap_mode="r+")
    large = np.zeros(9_000_000)
    many = [torch.zeros(5_000_000) for _ in range(4)]
    made = module(mapped=mapped, large=large, many=many)
    addresses = [tensor.data_ptr() for tensor in many]
    with ModuleState(made).isolated():
        assert made.mapped is mapped
        assert made.large is large
        # The first three fit into 64 MiB.
        assert [tensor.data_ptr() == address for tensor, address in zip(many, addresses, strict=True)] == [
            False,
            False,
            False,
            True,
        ]
    assert [tensor.data_ptr() for tensor in many] == addresses


def test_what_cannot_be_written_to_is_left_alone() -> None:
    fixed = np.zeros(3)
    fixed.flags.writeable = False
    with torch.inference_mode():
        inferred = torch.zeros(2)
    made = module(fixed=(fixed, inferred))
    with ModuleState(made).isolated():
        pass
    assert made.fixed[0] is fixed


def test_order_and_identity_of_containers_come_back() -> None:
    inner: list[int] = [1, 2]
    outer = OrderedDict(a=inner, b={"set"})
    with ModuleState(module(outer=outer)).isolated():
        inner.append(3)
        outer.move_to_end("a")
        outer["b"].add("more")
        outer["c"] = 1
    assert list(outer) == ["a", "b"]
    assert outer["a"] is inner
    assert inner == [1, 2]
    assert outer["b"] == {"set"}


def parameter(*shape: int, trained: bool = True) -> nn.Parameter:
    return nn.Parameter(torch.ones(*shape), requires_grad=trained)


def test_held_parameters_come_back_to_their_values_and_storages() -> None:
    trained, frozen = parameter(3), parameter(3, trained=False)
    addresses = trained.data_ptr(), frozen.data_ptr()
    versions = trained._version, frozen._version
    held = HeldParameters([trained, frozen])
    assert held.bytes == 24
    trained.data = torch.full((3,), 2.0)
    frozen.data = torch.full((3,), 3.0)
    held.after_evaluation()
    # A trained parameter keeps what was written to it while measuring goes on; a frozen one starts over.
    assert trained.tolist() == [2.0] * 3
    assert frozen.tolist() == [1.0] * 3
    trained.data.mul_(5.0)
    frozen.data.mul_(5.0)
    held.after_evaluation()
    assert trained.tolist() == [10.0] * 3
    assert frozen.tolist() == [1.0] * 3
    held.restore()
    assert trained.tolist() == frozen.tolist() == [1.0] * 3
    assert (trained.data_ptr(), frozen.data_ptr()) == addresses
    assert (trained._version, frozen._version) == versions


def test_a_large_frozen_part_is_not_copied_unless_its_shapes_are_those_of_trained_ones() -> None:
    trained, teacher = parameter(7), parameter(7, trained=False)
    backbone = parameter(17_000_000, trained=False)
    held = HeldParameters([trained, teacher, backbone])
    assert held.bytes == 4 * 14
    address = backbone.data_ptr()
    backbone.data = torch.zeros(17_000_000)
    teacher.data.zero_()
    held.after_evaluation()
    assert backbone.data_ptr() == address
    assert float(backbone.sum()) == 17_000_000.0
    assert teacher.tolist() == [1.0] * 7
    assert HeldParameters([trained, teacher, parameter(1000, trained=False)]).bytes == 4 * 1014


def test_parameters_without_a_shape_are_passed_over() -> None:
    assert HeldParameters([nn.LazyLinear(3).weight]).bytes == 0
