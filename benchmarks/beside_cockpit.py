"""Cockpit beside ours on one network: what gradient norms at every step cost, and the largest Hessian eigenvalue.

Cockpit needs the network extended by BackPACK and a training loop of its own, so both are measured in plain PyTorch.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks._curvature_models import PROBLEMS, Problem
from benchmarks._turns import in_turns
from benchmarks.curvature import by_eigsh, relative_error
from landscape_callbacks.surface import extreme_eigenvalues
from landscape_callbacks.surface.gradients import gradient_norms

STEPS = 40


class Loop:
    """Training steps on one batch, with a Cockpit or with our norms."""

    def __init__(self, problem: Problem, *, quantity: Any = None, ours: bool = False) -> None:
        from backpack import extend

        self.x, self.y = problem.probe
        net = copy.deepcopy(problem.net)
        self.net = net if quantity is None else extend(net)
        self.loss, self.each = nn.CrossEntropyLoss(), nn.CrossEntropyLoss(reduction="none")
        if quantity is not None:
            self.loss, self.each = extend(self.loss), extend(self.each)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3)
        self.quantity, self.ours, self.step = quantity, ours, 0
        if quantity is not None:
            from cockpit import Cockpit

            self.cockpit = Cockpit(self.net.parameters(), quantities=[quantity])

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        loss = self.loss(self.net(self.x), self.y)
        if self.quantity is None:
            loss.backward()
        else:
            info = {
                "batch_size": len(self.x),
                "individual_losses": self.each(self.net(self.x), self.y),
                "loss": loss,
                "optimizer": self.optimizer,
            }
            with self.cockpit(self.step, info=info):
                loss.backward(create_graph=self.cockpit.create_graph(self.step))
        if self.ours:
            gradient_norms([parameter.grad for parameter in self.net.parameters()]).tolist()
        self.optimizer.step()
        self.step += 1


def main() -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    try:
        from cockpit.quantities import GradNorm, HessMaxEV
        from cockpit.utils.schedules import linear
    except ImportError as error:
        print(f"Left out: {error}. See requirements-benchmark.lock.")
        return
    problem = PROBLEMS[0]()
    problem.train(50)
    surface = problem.surface()
    reference, _ = by_eigsh(problem.in_float64(), 1, tol=1e-9)
    top = HessMaxEV(linear(1))
    contenders = {
        "a step without": Loop(problem),
        "ours, gradient norms": Loop(problem, ours=True),
        "Cockpit, GradNorm": Loop(problem, quantity=GradNorm(linear(1))),
        "Cockpit, HessMaxEV": Loop(problem, quantity=top),
    }
    seconds = in_turns(
        {**contenders, "ours, eigenvalue": lambda: extreme_eigenvalues(problem.surface())}, STEPS, time.perf_counter
    )
    took = {name: statistics.median(own) for name, own in seconds.items()}
    unit = took["a step without"]
    found = extreme_eigenvalues(surface)
    first = float(top.get_output()[0])
    print(f"{problem.name}, after 50 steps, batch {len(problem.probe[0])}; a step takes {1e3 * unit:.2f} ms.\n")
    print("| | times the step (with it, where it is part of one) | error of the largest eigenvalue |")
    print("|---|---|---|")
    cockpit = f"Cockpit {version('cockpit-for-pytorch')}"
    own, theirs = relative_error(found.values.numpy(), reference), relative_error([first], reference)
    print(f"| gradient norms, ours | {took['ours, gradient norms'] / unit:.2f} | |")
    print(f"| {cockpit}, GradNorm | {took['Cockpit, GradNorm'] / unit:.2f} | |")
    print(f"| largest eigenvalue, ours | {took['ours, eigenvalue'] / unit:.1f} | {own:.0e} |")
    print(f"| {cockpit}, HessMaxEV | {took['Cockpit, HessMaxEV'] / unit:.1f} | {theirs:.0e} |")


if __name__ == "__main__":
    main()
