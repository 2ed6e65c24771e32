"""SubspaceES, an evolution strategy by gradient on sparse children, and OpenAIES, its dense case."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from evotorch import SolutionBatch
from torch import Tensor

from smd_evo.core.delta import SparseDelta, SparseValues
from smd_evo.core.feedback import take_step
from smd_evo.core.gradient import centered_ranks, es_gradient
from smd_evo.core.optimizers import Optimizer
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.subspace import Dense, Subspace
from smd_evo.errors import InvalidValue, check_number, check_pairs, shown
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.optimizing import OptimizerSpec, moved_by, restored_rest
from smd_evo.integrations.evotorch.replica import GenerationStep, Replica
from smd_evo.integrations.evotorch.searcher import NetworkSearcher
from smd_evo.integrations.rules import subspace_of
from smd_evo.integrations.words import SEARCHER_WORDS
from smd_evo.mends import not_here

__all__ = ["GradientStep", "OpenAIES", "OptimizerSpec", "SubspaceES"]


@dataclass(frozen=True, eq=False)
class GradientStep(GenerationStep):
    """One step of the parent along the ES gradient, from scalars and keys alone.

    ``carries`` says whether what the parameters' types round away is carried on: see :mod:`smd_evo.core.feedback`.
    Steps of before there was that do not, and are the same again.

    Reference: Salimans et al., arXiv 1703.03864, algorithm 2 (every worker applies the update itself).
    """

    antithetic = True
    optimizer: OptimizerSpec
    weight_decay: float
    carries: bool = field(default=False, kw_only=True)

    def apply(self, replica: Replica) -> None:
        """Make the children's noise again, and move the parent; the optimizer's state is the replica's.

        All of them move, or nothing does: Ctrl-C may come anywhere.
        """
        space = replica.space
        layout, device = space.layout, space.device
        moved = moved_by(self.subspace)
        coordinates = moved.coordinates(moved.draw(self.key), layout, device)
        some = None if isinstance(moved, Dense) else coordinates
        gradient = es_gradient(self.mutations(), self.weights, layout, coordinates=some, device=device)
        if not bool(gradient.any()):
            return  # no child was better than another; ClipUp would divide by the gradient's norm
        scales = layout.scales(coordinates).float() if self.scale == "relative" else None
        if self.weight_decay:
            decay = self.weight_decay / self.sigma * space.values_at(coordinates)
            gradient -= decay if scales is None else decay / scales
        optimizer, rest = self._optimizer_of(replica)
        step = optimizer.ascent(gradient)
        if scales is not None:
            step *= scales
        if self.carries:
            rest = self._carried(space, coordinates, step, rest)
        else:
            space.fold(SparseDelta(coordinates, step))
        vars(replica).update(optimizer=(self.key, optimizer), rest=rest)

    def _carried(self, space: ParameterSpace, coordinates: Tensor, step: Tensor, rest: Tensor | None) -> Tensor:
        """Take the step; what is left of it is found out when the parent has moved, which an interrupt takes back."""
        before = space.values_at(coordinates, torch.promote_types(space.dtype, torch.float32))
        try:
            return take_step(space, coordinates, step, rest)
        except BaseException:
            space.fold(SparseValues(coordinates, before))
            raise

    def _optimizer_of(self, replica: Replica) -> tuple[Optimizer, Tensor | None]:
        """A copy of this searcher's optimizer, which its key tells from another one's, and of what steps have left.

        A copy, by which the replica's is as it was until the parent has moved; on the parent's device.
        """
        if replica.optimizer is None or replica.optimizer[0] != self.key:
            return self.optimizer.make(), None
        optimizer: Optimizer = copy(replica.optimizer[1])
        device = replica.space.device
        optimizer.state = {
            name: tensor.to(device if tensor.dim() else tensor.device, copy=True)
            for name, tensor in optimizer.state.items()
        }
        return optimizer, None if replica.rest is None else replica.rest.to(device)


class SubspaceES(NetworkSearcher):
    """Evolution strategy that moves the parent along the gradient its children tell.

    Each generation: antithetic pairs of mutations, fitness shaped to centred ranks u, and
    ``g = 1 / (N sigma) * sum_i u_i * sign_i * eps_i - weight_decay / sigma * theta``, which the optimizer turns
    into a step of the problem's parent. ``problem.make_net()`` is the present parent; ``status["parent_eval"]`` the
    fitness of the one before the step. Only ranks and keys are needed, so each of Ray's actors takes the
    step by itself. The gradient costs O(N k); the step O(k) in a static subspace, else O(D).

    Steps of parameters of 16 bits, and of integers, are often below the distance to the next number of their type. So
    what a step is rounded by is carried to the next one, in float32: k numbers in a static subspace, else D. Children
    are those of the rounded parent.

    The optimizer and what is carried belong to the parent, which has those of one searcher: where another one has
    moved it in between they begin anew, which is told once.

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

    _told = False

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
        check_pairs("popsize", self._popsize)
        config = {} if optimizer_config is None else optimizer_config
        self._optimizer = OptimizerSpec(optimizer, center_learning_rate, config)
        self.add_status_getters({"center": self._get_center})
        self._weight_decay = check_number(
            "weight_decay", weight_decay, low=0, high=1, closed=True, mend="0 is none, OpenAI's is 0.005"
        )
        space = problem.space
        shifted = [name for name, each in zip(space.names, space.tensors, strict=True) if each.dtype == torch.uint8]
        if self._weight_decay and shifted:
            raise InvalidValue(
                f"weight_decay: expected 0 for uint8, whose zero is no weight's, got {self._weight_decay:g} for "
                f"{shifted[0]}; give 0"
            )

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NetworkSearcher.state_dict`."""
        replica = self.problem.replica
        key, optimizer = replica.optimizer or (None, None)
        own = rest = None
        if optimizer is not None and key == self._key:
            own = {name: tensor.to("cpu", copy=True) for name, tensor in optimizer.state.items()}
            rest = None if replica.rest is None else {"rest": replica.rest.to("cpu", copy=True)}
        return {**super().state_dict(), "optimizer": own, "optimizer_name": self._optimizer.name, **(rest or {})}

    def _loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        become_searcher, replica = super()._loading(state), self.problem.replica
        if (name := state.get("optimizer_name", self._optimizer.name)) != self._optimizer.name:
            raise InvalidValue(
                f"state: expected one of optimizer {self._optimizer.name}, got {shown(name)}; make the searcher as "
                "it was made then"
            )
        if state["optimizer"] is None:
            return become_searcher
        optimizer = self._optimizer.restored(state["optimizer"], replica.space.size)
        rest = restored_rest(state.get("rest"), self._subspace, state["key"], replica.space)

        def become() -> None:
            become_searcher()
            replica.optimizer, replica.rest = (self._key, optimizer), rest

        return become

    def _solutions(self) -> SolutionBatch:
        return self._mutated(self.problem.generate_batch(self._popsize), antithetic=True)

    def _learn(self, solutions: SolutionBatch, parent_eval: float | None) -> None:
        problem, self._population = self.problem, solutions
        self._say_if_displaced()
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
                carries=problem.space.narrow,
            )
        )
        if self._units is not None:
            self._units.learn(solutions, parent_eval)

    def _say_if_displaced(self) -> None:
        """Say once that another searcher has taken the optimizer's place since the last step."""
        key, _ = self.problem.replica.optimizer or (self._key, None)
        lost = self._optimizer.remembers or self.problem.space.narrow
        if key == self._key or not self.step_count or not lost or self._told:
            return
        self._told = True
        warnings.warn(
            "optimizer: expected no other searcher's steps between those of this one, got some: it begins anew, as "
            'a parent has one; run one searcher to its end (Staged), or give optimizer="sgd" without momentum',
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
