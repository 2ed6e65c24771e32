"""SubspaceES, an evolution strategy by gradient on sparse children, and OpenAIES, its dense case."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from evotorch import SolutionBatch
from evotorch.optimizers import get_optimizer_class
from torch import Tensor

from smd_evo.core.delta import SparseDelta
from smd_evo.core.gradient import centered_ranks, es_gradient
from smd_evo.core.optimizers import OPTIMIZERS, Optimizer
from smd_evo.core.subspace import Dense, Subspace
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_number, kept, plain, shown
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.replica import GenerationStep, Replica
from smd_evo.integrations.evotorch.searcher import NetworkSearcher
from smd_evo.integrations.rules import subspace_of
from smd_evo.integrations.words import SEARCHER_WORDS
from smd_evo.mends import not_here

__all__ = ["GradientStep", "OpenAIES", "OptimizerSpec", "SubspaceES"]

_MANY = 0.01
"""Share of the moving parameters whose step may be lost without a word: some are always near a rounding's edge."""

_FLAGS = ("amsgrad", "nesterov")
"""Settings of optimizers that are no numbers."""


@dataclass(frozen=True)
class OptimizerSpec:
    """The name and the settings of one of evotorch.optimizers; :mod:`smd_evo.core.optimizers` computes its steps.

    Raises:
        InvalidValue: there is no such optimizer, or it has no such settings.
    """

    name: str
    learning_rate: float
    config: Mapping[str, Any]

    def __post_init__(self) -> None:
        if not isinstance(self.config, Mapping):
            raise InvalidType(f"optimizer_config: expected a dict of settings, got {self.config!r}")
        config = self.config
        kept(
            self,
            name=check_choice("optimizer", self.name, ("adam", "sgd", "clipup")),
            learning_rate=check_number("center_learning_rate", self.learning_rate, low=0, mend="try 0.01"),
            config=plain(self.config),
        )
        host = get_optimizer_class(self.name)
        try:
            for name, given in self.config.items():
                kinds = (bool,) if name in _FLAGS else (int, float)
                if config[name] is not None and type(given) not in kinds:  # which would be 1, or a default, unseen
                    raise TypeError(f"{name} is no {'truth value' if name in _FLAGS else 'number'}")
            host(solution_length=1, dtype=torch.float32, device="cpu", stepsize=self.learning_rate, **self.config)
            ours = self.make()
            for _ in range(2):  # the second step is the first that knows of another one
                ours.ascent(torch.ones(1, dtype=torch.float32, device="cpu"))
        except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise InvalidValue(
                f"optimizer_config: expected settings of evotorch.optimizers' {self.name}, got "
                f"{shown(self.config)} ({' '.join(str(error).split())[:200]})"
            ) from None

    def make(self) -> Optimizer:
        """A new optimizer."""
        given = {name: value for name, value in self.config.items() if value is not None}  # None is the default
        optimizer: Optimizer = OPTIMIZERS[self.name](self.learning_rate, **given)
        return optimizer

    def restored(self, state: Mapping[str, Tensor], most: int) -> Optimizer:
        """An optimizer of at most so many numbers, with the state of another one of this kind.

        Raises:
            InvalidValue: it is the state of none.
        """
        optimizer, other = self.make(), self.make()
        other.ascent(torch.ones(1, dtype=torch.float32, device="cpu"))
        kinds = {name: (tensor.dtype, tensor.dim()) for name, tensor in other.state.items()}
        found = {name: (tensor.dtype, tensor.dim()) for name, tensor in state.items() if isinstance(tensor, Tensor)}
        sizes = {tensor.numel() for tensor in state.values() if isinstance(tensor, Tensor) and tensor.dim()}
        if state and (found != kinds or len(sizes) > 1 or max(sizes, default=0) > most):
            raise InvalidValue(
                f"optimizer: expected at most D = {most} numbers in each of {', '.join(kinds) or 'nothing'}, got "
                f"{shown({name: list(tensor.shape) for name, tensor in state.items() if name in found} or state)}"
            )
        optimizer.state.update({name: tensor.clone() for name, tensor in state.items()})
        return optimizer


@dataclass(frozen=True, eq=False)
class GradientStep(GenerationStep):
    """One step of the parent along the ES gradient, from scalars and keys alone.

    Reference: Salimans et al., arXiv 1703.03864, algorithm 2 (every worker applies the update itself).
    """

    antithetic = True
    optimizer: OptimizerSpec
    weight_decay: float

    def apply(self, replica: Replica) -> None:
        """Make the children's noise again, and move the parent; the optimizer's state is the replica's."""
        space = replica.space
        layout, device = space.layout, space.device
        common = self.subspace.static and self.subspace.siblings == 1  # the parts of a partition are several
        moved = self.subspace if common else Dense()
        coordinates = moved.coordinates(moved.draw(self.key), layout, device)
        some = None if isinstance(moved, Dense) else coordinates
        gradient = es_gradient(self.mutations(), self.weights, layout, coordinates=some, device=device)
        if not bool(gradient.any()):
            return  # no child was better than another; ClipUp would divide by the gradient's norm
        scales = layout.scales(coordinates).float() if self.scale == "relative" else None
        if self.weight_decay:
            decay = self.weight_decay / self.sigma * space.values_at(coordinates)
            gradient -= decay if scales is None else decay / scales
        step = self._optimizer_of(replica).ascent(gradient)
        if scales is not None:
            step *= scales
        narrow = space.narrowest.itemsize < 4  # a wider type loses steps that are beyond all use
        before = space.values_at(coordinates) if narrow else step
        space.fold(SparseDelta(coordinates, step))
        if narrow:
            stays = (space.values_at(coordinates) == before) & (step != 0)
            replica.swallowed = int(stays.sum()), int((step != 0).sum())

    def _optimizer_of(self, replica: Replica) -> Optimizer:
        """The optimizer of this searcher, which its key tells from another one's, with its state by the parent."""
        if replica.optimizer is None or replica.optimizer[0] != self.key:
            replica.optimizer = self.key, self.optimizer.make()
        optimizer: Optimizer = replica.optimizer[1]
        moved = {name: tensor.to(replica.space.device) for name, tensor in optimizer.state.items() if tensor.dim()}
        optimizer.state.update(moved)
        return optimizer


class SubspaceES(NetworkSearcher):
    """Evolution strategy that moves the parent along the gradient its children tell.

    Each generation: antithetic pairs of mutations, fitness shaped to centred ranks u, and
    ``g = 1 / (N sigma) * sum_i u_i * sign_i * eps_i - weight_decay / sigma * theta``, which the optimizer turns
    into a step of the problem's parent. ``problem.make_net()`` is the present parent; ``status["parent_eval"]`` the
    fitness of the one before the step. Only ranks and keys are needed, so each of Ray's actors takes the
    step by itself. The gradient costs O(N k); the step O(k) in a static subspace, else O(D).

    Parameters of 16 bits stay where they are while steps are below half of the distance to the next number of their
    type; a ``RuntimeWarning`` tells once how many. Evolve a float32 copy then, under autocast.

    Args:
        problem: a FinetuneProblem.
        popsize: N, even.
        center_learning_rate: step size of the optimizer.
        density: share of the coordinates that a mutation touches, in (0, 1]. Give this or ``subspace``.
        subspace: another rule of the coordinates.
        static: with ``density``: one subspace for the whole run; only its coordinates ever move.
        sigma: mutation strength; "auto" calibrates it at the first generation, by some 110 evaluations.
        optimizer: "adam", "sgd" (``optimizer_config={"momentum": 0.9}``) or "clipup".
        optimizer_config: further settings of :mod:`evotorch.optimizers`.
        weight_decay: in the units of OpenAI's code (``l2coeff``), whose gradient is sigma times this one.
        keep: with "auto": share of the parent's score that the median child keeps.
        scale: "relative" searches, and steps, in units of each tensor's standard deviation.

    Raises:
        InvalidValue, InvalidType: the above does not hold.

    Example:
        >>> from torch import nn
        >>> problem = FinetuneProblem(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)), seed=1)
        >>> searcher = SubspaceES(problem, popsize=20, density=0.5, sigma=0.1, center_learning_rate=0.1)
        >>> searcher.run(10)
        >>> network = problem.make_net()

    References: Salimans et al., arXiv 1703.03864; Toklu et al., arXiv 2008.02387 (ClipUp); Kingma, Ba, arXiv
    1412.6980 (Adam).
    """

    @not_here(**SEARCHER_WORDS)
    def __init__(
        self,
        problem: FinetuneProblem,
        *,
        popsize: int,
        center_learning_rate: float,
        density: float | None = None,
        subspace: Subspace | None = None,
        static: bool = False,
        sigma: float | str = "auto",
        optimizer: str = "adam",
        optimizer_config: Mapping[str, Any] | None = None,
        weight_decay: float = 0.0,
        keep: float = 0.99,
        scale: str = "absolute",
    ) -> None:
        rule = subspace_of(density, subspace, static)
        super().__init__(problem, popsize=popsize, sigma=sigma, subspace=rule, scale=scale, keep=keep)
        if self._popsize % 2:
            raise InvalidValue(f"popsize: expected an even number for antithetic pairs, got {self._popsize}")
        config = {} if optimizer_config is None else optimizer_config
        self._optimizer = OptimizerSpec(optimizer, center_learning_rate, config)
        self._told = False
        self.add_status_getters({"center": self._get_center})
        self._weight_decay = check_number(
            "weight_decay", weight_decay, low=0, high=1, closed=True, mend="0 is none, OpenAI's is 0.005"
        )

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NetworkSearcher.state_dict`."""
        key, optimizer = self.problem.replica.optimizer or (None, None)
        own = None
        if optimizer is not None and key == self._key:
            own = {name: tensor.to("cpu", copy=True) for name, tensor in optimizer.state.items()}
        return {**super().state_dict(), "optimizer": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`NetworkSearcher.load_state_dict`."""
        super().load_state_dict(state)
        if state["optimizer"] is not None:
            optimizer = self._optimizer.restored(state["optimizer"], self.problem.space.size)
            self.problem.replica.optimizer = self._key, optimizer

    def _solutions(self) -> SolutionBatch:
        return self._mutated(self.problem.generate_batch(self._popsize), antithetic=True)

    def _learn(self, solutions: SolutionBatch, parent_eval: float | None) -> None:
        problem, self._population = self.problem, solutions
        ranks = centered_ranks(solutions.access_evals(0), problem.objective_sense)
        units = None
        if self._units is not None:
            units = self._units.drawn
            ranks = ranks.cpu() * self._units.weights()
        problem.change(
            GradientStep(
                key=self._key,
                generation=self.step_count,
                weights=ranks.float().cpu(),
                subspace=self._subspace,
                sigma=self.sigma,
                scale=self._scale,
                optimizer=self._optimizer,
                weight_decay=self._weight_decay,
                units=units,
            )
        )
        if self._units is not None:
            self._units.learn(solutions, parent_eval)
        self._tell_swallowed(*problem.replica.swallowed)

    def _tell_swallowed(self, count: int, total: int) -> None:
        """Say once that many parameters do not move, by no fault of the search."""
        if self._told or count <= _MANY * total:
            return
        self._told = True
        kind = str(self.problem.space.narrowest).removeprefix("torch.")
        warnings.warn(
            f"{count:,} of {total:,} selected parameters did not move in generation {self.step_count + 1}: the step "
            f"is below the resolution of their type ({kind}); evolve a float32 copy of the network, under autocast "
            "if it is to compute in fewer bits, or give a larger center_learning_rate",
            RuntimeWarning,
            stacklevel=2,
        )


class OpenAIES(SubspaceES):
    """OpenAI-ES, the dense baseline: :class:`SubspaceES` with every coordinate and the published settings.

    Defaults: sigma 0.02, Adam with step size 0.01, weight decay 0.005, of the MuJoCo experiments. They are for
    policies trained from scratch: a pre-trained network wants a smaller step and sigma.

    Args:
        problem: a FinetuneProblem.
        popsize: N, even.
        center_learning_rate, sigma, optimizer, optimizer_config, weight_decay, keep, scale: see SubspaceES.

    References: Salimans et al., arXiv 1703.03864; configuration files of its published code
    (openai/evolution-strategies-starter: noise_stdev, stepsize, l2coeff).
    """

    @not_here(**SEARCHER_WORDS)
    def __init__(
        self,
        problem: FinetuneProblem,
        *,
        popsize: int,
        center_learning_rate: float = 0.01,
        sigma: float | str = 0.02,
        optimizer: str = "adam",
        optimizer_config: Mapping[str, Any] | None = None,
        weight_decay: float = 0.005,
        keep: float = 0.99,
        scale: str = "absolute",
    ) -> None:
        super().__init__(
            problem,
            popsize=popsize,
            center_learning_rate=center_learning_rate,
            subspace=Dense(),
            sigma=sigma,
            optimizer=optimizer,
            optimizer_config=optimizer_config,
            weight_decay=weight_decay,
            keep=keep,
            scale=scale,
        )
