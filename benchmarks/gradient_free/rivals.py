"""Rivals: gradient-free methods of other packages, each by its own step, and MeZO's, which is a few lines.

All mutate the selected floating point parameters of a copy of the parent and ask a ``Cost``, which counts. Their
strengths are in units of the calibrated dense one, and step sizes are given as what a step moves a coordinate by in
such units if the cost tells nothing: the root mean square of a random walk. So one small grid serves every network.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import warnings
from typing import Any

import torch
from frame import Cost, Task, calibrated
from ours import OpenAIESSearch, moves
from torch import Tensor, nn

from smd_evo.core.keys import derive
from smd_evo.core.selection import select_names

__all__ = ["MAKERS", "grids", "methods"]

RANKS = 12**-0.5
"""Root mean square of centred ranks."""


class Rival:
    """A copy of the parent whose selected parameters alone ask for a gradient, as the packages want to be told."""

    def __init__(self, task: Task, seed: int) -> None:
        self._network = copy.deepcopy(task.network).eval()
        named = dict(self._network.named_parameters())
        chosen = set(select_names(self._network, named, task.select))
        for name, parameter in named.items():
            parameter.requires_grad_(name in chosen)
        self.chosen = {name: parameter for name, parameter in named.items() if name in chosen}
        self.size = sum(parameter.numel() for parameter in self.chosen.values())
        self.cost = Cost(task, seed)
        self.unit = calibrated(task)

    @property
    def module(self) -> nn.Module:
        return self._network

    def step(self) -> int:
        before = self.cost.spent
        self.cost.turn()
        self._step()
        return self.cost.spent - before

    def _step(self) -> None:
        raise NotImplementedError


class MeZO(Rival):
    """Two-point steps of SGD along one direction each, which a seed makes again (Malladi et al., arXiv 2305.17333).

    Args:
        sigma: half of the distance of the two points.
        rate: what a step moves a coordinate by. The slope that this is relative to is the root mean square of those
            of the first eight directions, without a step; they count.
    """

    def __init__(self, task: Task, seed: int, sigma: float, rate: float) -> None:
        super().__init__(task, seed)
        self.sigma, self.rate, self.slope = sigma * self.unit, rate * self.unit, 0.0
        self.key, self.number = derive(seed, "mezo"), 0

    def _step(self) -> None:
        if not self.slope:
            found = torch.tensor([self._difference() for _ in range(8)])
            self.slope = float(found.square().mean().sqrt()) or 1.0
        self._move(-self.rate * self._difference() / self.slope)

    def _difference(self) -> float:
        """The slope along a new direction."""
        self.number += 1
        self._move(self.sigma)
        above = self.cost(self._network)
        self._move(-2 * self.sigma)
        below = self.cost(self._network)
        self._move(self.sigma)
        return (above - below) / (2 * self.sigma)

    @torch.no_grad()
    def _move(self, by: float) -> None:
        """Along the present direction."""
        noise = torch.Generator().manual_seed(derive(self.key, self.number) % 2**32)  # all that it takes
        for parameter in self.chosen.values():
            parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=by)


class Eggroll(Rival):
    """The package eggroll-es: its noise, its trainer's evaluation of a population, its step.

    Its noise is the sum over the rank of products of two normal numbers, for each coordinate by itself: no matrix of
    low rank, so it is not the method of its name, which is ``OpenAIESSearch`` with a rank; and by the root of the
    rank weaker than its sigma says, which is made good here.
    """

    def __init__(self, task: Task, seed: int, sigma: float, rate: float, rank: int = 8) -> None:
        from eggroll import EggrollConfig, EggrollTrainer

        super().__init__(task, seed)
        root, pairs = rank**0.5, task.children // 2
        move = rate * self.unit
        config = EggrollConfig(
            population_size=pairs,  # of which each is mirrored
            rank=rank,
            sigma=sigma * self.unit * root,
            lr=move * root * task.children**0.5 / RANKS,
            device="cpu",
            seed=seed,
        )
        with contextlib.redirect_stdout(io.StringIO()):
            self.trainer = EggrollTrainer(self._network, config, lambda module, batch: -self.cost(module))
        self.config = config

    def _step(self) -> None:
        from eggroll import evolve_step

        base = self.trainer._get_params()
        noise = self.trainer.noiser.sample_perturbations(self.config.population_size)
        fitness = self.trainer._evaluate_population(base, noise, None)
        with torch.no_grad():
            self.trainer._set_params(evolve_step(base, noise, fitness, self.config))


class XEvolution(Rival):
    """The package x-evolution: mirrored noise, z-scores, its optimizer (SGD with a little momentum and decay)."""

    def __init__(self, task: Task, seed: int, sigma: float, rate: float) -> None:
        from x_evolution import EvoStrategy

        super().__init__(task, seed)
        strength, pairs = sigma * self.unit, task.children // 2
        self.strategy = EvoStrategy(
            self._network,
            environment=lambda noisy: -self.cost(noisy.model),
            num_generations=1,
            noise_population_size=pairs,
            noise_scale=strength,
            learning_rate=rate * self.unit * strength * task.children**0.5,
            params_to_optimize=[*self.chosen],
            checkpoint_path=tempfile.gettempdir(),  # which has to be there
            cpu=True,
            verbose=False,
        )
        self.strategy.checkpoint = lambda *names: None  # a file of all weights after each generation

    def _step(self) -> None:
        self.strategy()


class PolyStep(Rival):
    """The package polystep: corners of simplices in a rotating subspace, and their barycentre by softmax.

    Args:
        radius: of corners, in norms of the calibrated dense mutation.
        reach: how far a step may go, over that.
        rank: dimensions of its subspace; None: as many as children, by which it takes about as many steps as others.
            (64, its package's least, are fewer steps, and came less far on ``toy.py``: a loss of 0.80 and not 0.74.)
        warmth: temperature of the softmax, over the mean cost above the least.
    """

    def __init__(
        self, task: Task, seed: int, radius: float, reach: float, rank: int | None = None, warmth: float = 0.5
    ) -> None:
        from polystep import AdaptiveSubspace, ParamLayout, PolyStepOptimizer

        super().__init__(task, seed)
        rank = min(rank or task.children, self.size)
        self.optimizer = PolyStepOptimizer(
            self._network,
            subspace=AdaptiveSubspace.from_layout(ParamLayout.from_module(self._network), rank=rank),
            epsilon=radius * self.unit * self.size**0.5,
            ent_epsilon=warmth,
            scale_cost="mean",
            probe_radius=2.0,  # its one probe is half way there
            step_radius=reach,
            projection_type="auto",
            seed=seed,
        )
        self.trial = copy.deepcopy(self._network)
        self.places = dict(self.trial.named_parameters())

    def _step(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on what could be faster
            self.optimizer.step(self._costs)

    @torch.no_grad()
    def _costs(self, candidates: dict[str, Tensor]) -> Tensor:
        found = []
        for number in range(len(next(iter(candidates.values())))):
            for name, values in candidates.items():
                self.places[name].copy_(values[number])
            found.append(self.cost(self.trial))
        return torch.tensor(found)


MAKERS: dict[str, Any] = {
    "openai-es": OpenAIESSearch,
    "eggroll": OpenAIESSearch,
    "eggroll-es": Eggroll,
    "mezo": MeZO,
    "polystep": PolyStep,
    "x-evolution": XEvolution,
}


def grids(by: float = 1.0) -> dict[str, list[dict[str, Any]]]:
    """Four settings of each, whose steps are as many times longer as told."""
    mezo = ((0.5, 0.15), (0.5, 0.05), (0.5, 0.5), (1.0, 0.15))
    polystep = ((1.0, 1.0), (1.0, 0.3), (0.5, 1.0), (2.0, 1.0))
    return {
        "openai-es": moves(by),
        "eggroll": [{"rank": 1, **each} for each in moves(by)],
        "eggroll-es": moves(by),
        "mezo": [{"sigma": sigma, "rate": by * rate} for sigma, rate in mezo],
        "polystep": [{"radius": radius, "reach": by * reach} for radius, reach in polystep],
        "x-evolution": moves(by),
    }


def methods(by: float = 1.0) -> dict[str, Any]:
    """Makers and grids of all."""
    return {name: (maker, grids(by)[name]) for name, maker in MAKERS.items()}
