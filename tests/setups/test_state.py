"""Rows of the support table: what a training step keeps and edits beside its buffers."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape_callbacks import HessianEigenvalueMonitor
from tests.hard_module import fingerprint
from tests.setups.harness import Case, Setup, check, check_values, classification, run

Move = Callable[[nn.Parameter, nn.Parameter], None]


def by_lerp(teacher: nn.Parameter, student: nn.Parameter) -> None:
    with torch.no_grad():
        teacher.lerp_(student, 0.1)


def in_place(teacher: nn.Parameter, student: nn.Parameter) -> None:
    teacher.data.mul_(0.9).add_(student.data, alpha=0.1)


def by_another_tensor(teacher: nn.Parameter, student: nn.Parameter) -> None:
    teacher.data = teacher.data * 0.9 + student.data * 0.1


class Momentum(Setup):
    """A teacher follows the student at the start of every step, as in BYOL, MoCo and DINO; a second one in a list."""

    def __init__(self, move: Move) -> None:
        super().__init__()
        self.move = move
        self.teacher = nn.Linear(4, 5).requires_grad_(False)
        self.others = [nn.Linear(4, 5).requires_grad_(False)]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        for teacher in (self.teacher, *self.others):
            for followed, leading in zip(teacher.parameters(), self.net[0].parameters(), strict=True):
                self.move(followed, leading)
        return super().training_step(batch, batch_idx)

    def loss(self, batch: Any) -> Tensor:
        with torch.no_grad():
            target = torch.tanh(sum(teacher(batch[0]) for teacher in (self.teacher, *self.others)))
        hidden = self.net[1](self.net[0](batch[0]))
        return super().loss(batch) + (hidden - target).square().mean()


def of_a_moved_teacher(module: Momentum, batch: Any) -> Tensor:
    """The loss after the teachers have followed the student once, where the student stands at the step."""
    if torch.is_grad_enabled() and not hasattr(module, "moved"):
        module.moved = True
        for followed, leading in zip(module.teacher.parameters(), module.net[0].parameters(), strict=True):
            module.move(followed, leading)
    return module.loss(batch)


@pytest.mark.parametrize("move", [by_lerp, in_place, by_another_tensor])
def test_a_momentum_teacher_moves_once_a_step(move: Move) -> None:
    class Alone(Momentum):
        """The reference is a fresh module, which has no lists of the run."""

        def __init__(self) -> None:
            super().__init__(move)
            self.others = []

    check(Case(lambda: Momentum(move)))
    case = Case(Alone, reference=of_a_moved_teacher, slices=False)
    check_values(case, check(case))


class Constrained(nn.Module):
    """Weights that every forward brings below a norm, as in EEGNet."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.first, self.second = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.first.weight
        if self.how == "another tensor":
            weight.data = torch.renorm(weight.data, p=2, dim=0, maxnorm=0.4)
        elif self.how == "in place":
            weight.data.mul_(0.99)
        elif self.how == "in place, counted":
            with torch.no_grad():
                weight.mul_(0.99)
        return self.second(torch.tanh(self.first(x)))


@pytest.mark.parametrize("how", ["another tensor", "in place", "in place, counted"])
def test_weights_that_a_forward_writes_to(how: str) -> None:
    case = Case(lambda: Setup(Constrained(how)))
    watched = check(case)
    if how == "another tensor":
        # The values are those at the weights within the constraint, from where training goes on.
        first = min(watched.recorder.seen)
        state, _ = watched.recorder.seen[first]
        state["net.first.weight"] = torch.renorm(state["net.first.weight"], p=2, dim=0, maxnorm=0.4)
        check_values(Case(lambda: Setup(Constrained("no more")), slices=False), watched, (first,))
    address = watched.module.net.first.weight.data_ptr()
    assert address == watched.trainer.optimizers[0].param_groups[0]["params"][0].data_ptr()


class Meter:
    def __init__(self) -> None:
        self.sum = self.count = 0.0
        self.history: list[float] = []

    def update(self, value: float) -> float:
        self.sum, self.count = self.sum + value, self.count + 1
        self.history.append(value)
        return self.sum / self.count


class Shadow:
    """Copies of weights that follow them."""

    def __init__(self) -> None:
        self.weights = [torch.zeros(5, 4), torch.zeros(5)]

    def update(self, layer: nn.Linear) -> float:
        for weight, leading in zip(self.weights, layer.parameters(), strict=True):
            weight.lerp_(leading.detach(), 0.1)
        return float(self.weights[0].sum())


@dataclass
class Schedule:
    momentum: float = 0.9
    inner: Any = None


class Slotted:
    __slots__ = ("count", "total")

    def __init__(self) -> None:
        self.count, self.total = 0, torch.zeros(2)


class Keeping(Setup):
    """Its loss depends on what the step keeps, so that a trace would show in the weights as well."""

    def __init__(self, kept: Any, use: Callable[[Any, Keeping, float], float]) -> None:
        super().__init__()
        self.kept, self.use = kept, use

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        return loss * (1.0 + 0.01 * self.use(self.kept, self, float(loss.detach())))


def meter(kept: Meter, module: Keeping, loss: float) -> float:
    return kept.update(loss)


def nested(kept: dict[str, Any], module: Keeping, loss: float) -> float:
    return kept["a"].update(loss) + kept["b"][0].update(loss) + kept["c"][0].update(loss)


def shadow(kept: Shadow, module: Keeping, loss: float) -> float:
    return kept.update(module.net[0])


def schedule(kept: Schedule, module: Keeping, loss: float) -> float:
    kept.momentum *= 0.99
    kept.inner.momentum *= 0.9
    return kept.momentum + kept.inner.momentum


def array(kept: np.ndarray, module: Keeping, loss: float) -> float:
    kept += loss
    return float(kept[0])


def arrays(kept: list[Any], module: Keeping, loss: float) -> float:
    kept[0] += loss
    kept[1]["histogram"][1] += 1
    kept[2].append(kept[2][0].add_(1))
    return float(kept[0][0] + kept[1]["histogram"][1] + kept[2][0])


def tensors(kept: list[Any], module: Keeping, loss: float) -> float:
    kept[0].add_(loss)
    kept[1][0].mul_(1.1)
    kept[1][1][0] += 1
    return float(kept[0][0] + kept[1][0][0] + kept[1][1][0])


def slots(kept: Slotted, module: Keeping, loss: float) -> float:
    kept.count += 1
    kept.total.add_(loss)
    return float(kept.count + kept.total[0])


def namespace(kept: SimpleNamespace, module: Keeping, loss: float) -> float:
    kept.count += 1
    kept.total.add_(loss)
    return float(kept.count + kept.total[0])


KEPT: dict[str, tuple[Callable[[], Any], Callable[[Any, Any, float], float]]] = {
    "a meter": (Meter, meter),
    "meters in containers": (lambda: {"a": Meter(), "b": [Meter()], "c": (Meter(),)}, nested),
    "copies of weights": (Shadow, shadow),
    "a schedule in a schedule": (lambda: Schedule(inner=Schedule()), schedule),
    "an array": (lambda: np.zeros(3), array),
    "arrays in containers": (lambda: [np.zeros(3), {"histogram": np.zeros(2)}, deque([torch.zeros(())], 3)], arrays),
    "tensors in a tuple": (lambda: [torch.zeros(3), (torch.ones(2), np.zeros(1))], tensors),
    "an object with slots": (Slotted, slots),
    "a namespace": (lambda: SimpleNamespace(count=0, total=torch.zeros(2)), namespace),
}


def contents(kept: Any) -> Any:
    """Values all the way down."""
    if isinstance(kept, (list, tuple, deque)):
        return [contents(entry) for entry in kept]
    if isinstance(kept, dict):
        return {key: contents(entry) for key, entry in kept.items()}
    if isinstance(kept, Slotted):
        return [kept.count, contents(kept.total)]
    if isinstance(kept, (Tensor, np.ndarray)):
        return kept.tolist()
    return contents(vars(kept)) if hasattr(kept, "__dict__") else kept


@pytest.mark.parametrize("name", KEPT)
def test_what_a_step_keeps(name: str) -> None:
    make, use = KEPT[name]
    case = Case(lambda: Keeping(make(), use))
    watched = check(case)
    assert fingerprint(contents(watched.module.kept)) == fingerprint(contents(run(case, measured=False).module.kept))


class Editing(Setup):
    """Its step does something that a second call would do again."""

    def __init__(self, edit: Callable[[Editing, Any], float]) -> None:
        super().__init__()
        self.edit = edit
        self.numbers = itertools.count()
        type(self).calls = 0

    calls = 0

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "frequency": 1000}}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        factor = self.edit(self, batch)
        return factor * super().training_step(batch, batch_idx)


def the_batch(module: Editing, batch: Any) -> float:
    batch[0].sub_(0.1).div_(1.5)
    return 1.0


def the_labels(module: Editing, batch: Any) -> float:
    batch[1] = (batch[1] + 1) % 3
    return 1.0


def the_rate(module: Editing, batch: Any) -> float:
    for group in module.trainer.optimizers[0].param_groups:
        group["lr"] *= 0.97
    return 1.0


def the_schedule(module: Editing, batch: Any) -> float:
    module.lr_schedulers().step()
    return 1.0


def a_stop(module: Editing, batch: Any) -> float:
    # True of weights that are looked at sooner than of those that training comes by.
    if float(module.loss(batch)) < 1.02:
        module.trainer.should_stop = True
    return 1.0


def of_the_trainer(module: Editing, batch: Any) -> float:
    module.trainer.calls = getattr(module.trainer, "calls", 0) + 1
    return 1.0 + 0.01 * module.trainer.calls


def of_the_class(module: Editing, batch: Any) -> float:
    type(module).calls += 1
    return 1.0 + 0.01 * type(module).calls


def of_a_parameter(module: Editing, batch: Any) -> float:
    weight = module.net[0].weight
    weight.calls = getattr(weight, "calls", 0) + 1
    return 1.0 + 0.01 * weight.calls


def a_number(module: Editing, batch: Any) -> float:
    return 1.0 + 0.01 * next(module.numbers)


def a_hook(module: Editing, batch: Any) -> float:
    module.net[0].weight.register_hook(lambda gradient: 1.01 * gradient)
    return 1.0


EDITS = [the_batch, the_labels, the_rate, the_schedule, a_stop, of_the_trainer, of_the_class, of_a_parameter, a_number]


@pytest.mark.parametrize("edit", [*EDITS, a_hook], ids=lambda edit: edit.__name__.strip("_"))
def test_what_a_step_edits(edit: Callable[[Editing, Any], float]) -> None:
    watched = check(Case(lambda: Editing(edit)))
    untouched = run(Case(lambda: Editing(edit)), measured=False)
    assert watched.trainer.global_step == untouched.trainer.global_step


class Taking(Setup):
    """Takes a second batch from an iterator of its own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.more = make()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        item = next(self.more)
        return super().training_step(batch, batch_idx) * (1.0 + 0.001 * float(item[0].mean()))


def more_batches() -> Any:
    return iter(DataLoader(TensorDataset(torch.arange(400.0)), batch_size=4, shuffle=True))


@pytest.mark.parametrize("make", [more_batches, lambda: (torch.full((1, 1), float(n)) for n in range(99))])
def test_an_iterator_of_the_module_is_not_taken_from_and_there_is_a_way_out(make: Callable[[], Any]) -> None:
    case = Case(lambda: Taking(make))
    with pytest.warns(RuntimeWarning, match=r"the iterator that the module holds in Taking\.more.*loss_fn=\.\.\."):
        watched = run(case, measured=True)
    assert watched.monitors[0].coordinator.failed > 0
    assert watched.prints == run(case, measured=False).prints
    way_out = replace(case, monitor={"loss_fn": lambda module, batch: module.loss(batch)})
    check_values(way_out, check(way_out))


def test_batches_that_were_edited_are_not_looked_at_again() -> None:
    monitor = HessianEigenvalueMonitor(every_n_steps=1, max_overhead=None, batches=3)
    samples: list[int] = []

    class Looks(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            samples.append(sum(seen.samples for seen in monitor.coordinator._last_batches(3)))

    def fit(edit: Callable[[Editing, Any], float]) -> None:
        samples.clear()
        options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = pl.Trainer(max_epochs=1, accelerator="cpu", callbacks=[monitor, Looks()], **options)
        trainer.fit(Editing(edit), classification())

    fit(a_number)
    assert samples == [8, 16, 24]
    with pytest.warns(RuntimeWarning, match="training_step edits its batches.*Let it edit a copy"):
        fit(the_batch)
    assert samples == [0, 0, 0]
    assert monitor.coordinator.failed == 0
