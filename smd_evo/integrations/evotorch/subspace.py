"""SubspaceProblem: a pre-trained network as a function of k numbers, for any numeric EvoTorch searcher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from evotorch import Solution, SolutionBatch
from evotorch.distributions import ExpGaussian
from torch import Tensor, nn

from smd_evo.core.delta import SparseDelta, placed
from smd_evo.core.keys import Key
from smd_evo.core.mutation import SCALES, Lineage
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Select
from smd_evo.core.subspace import RandomSubspace, Subspace
from smd_evo.errors import InvalidType, InvalidValue, check_choice, shown
from smd_evo.evaluation.fitness import Fitness
from smd_evo.evaluation.objectives import Objective
from smd_evo.integrations.evotorch.base import NetworkProblem
from smd_evo.integrations.evotorch.host import key_of, space_of
from smd_evo.integrations.evotorch.replica import Replica
from smd_evo.integrations.rules import subspace_of_dimensions
from smd_evo.integrations.words import PROBLEM_WORDS
from smd_evo.mends import not_here

__all__ = ["Move", "SubspaceProblem"]


class SubspaceProblem(NetworkProblem):
    """A pre-trained network seen along k coordinates: k numbers for any EvoTorch searcher.

    ``child_S = parent_S + scale_S * x`` on a subspace S of k coordinates; x = 0, where every search starts, is
    the parent. The subspace is static until :meth:`rebase` folds a point into the parent and draws the next.

    Args:
        parent: the network, which is copied and never touched, unless ``copy`` is False; or a ParameterSpace of it.
        data: see :func:`smd_evo.evaluation.data.make_batches`; None if the fitness brings its own.
        fitness, eval_data: as for :class:`FinetuneProblem`.
        dimensions: k, for a random subspace of so many coordinates. Give this or ``subspace``.
        subspace: a RandomSubspace, or any rule that is static.
        scale: "absolute", or "relative" to multiply x by each tensor's standard deviation in the first parent.
        select, minibatch_size, batch_size, together, copy, host: as for :class:`FinetuneProblem`.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: an unusable parent, data, fitness or setting.

    Example:
        >>> from evotorch.algorithms import SNES
        >>> problem = SubspaceProblem(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)), dimensions=5, seed=1)
        >>> searcher = SNES(problem, stdev_init=0.1, popsize=20)
        >>> searcher.run(10)
        >>> problem.rebase(searcher.status["center"])
        >>> network = problem.make_net()
    """

    @not_here(**PROBLEM_WORDS)
    def __init__(
        self,
        parent: nn.Module | ParameterSpace,
        data: Any = None,
        fitness: str | Fitness | Sequence[str | Objective] = "cross_entropy",
        *,
        eval_data: Sequence[str | Objective] = (),
        dimensions: int | None = None,
        subspace: Subspace | None = None,
        scale: str = "absolute",
        select: Select = "all",
        minibatch_size: int | None = None,
        batch_size: int | str = "auto",
        together: int | None = None,
        copy: bool = True,
        **host: Any,
    ) -> None:
        scale = check_choice("scale", scale, SCALES)
        space = space_of(parent, select)
        subspace = subspace_of_dimensions(dimensions, subspace, space.size)
        if not (subspace.static or isinstance(subspace, RandomSubspace)):
            raise InvalidValue(
                f"subspace: expected one of the same size at every draw, got {subspace.spec}; make it static"
            )
        key = key_of(host.get("seed"))
        self.subspace, self.scale = subspace, scale
        self._subspace_of: tuple[tuple[Key, int], Tensor] | None = None
        super().__init__(
            space,
            data,
            fitness,
            eval_data=eval_data,
            minibatch_size=minibatch_size,
            batch_size=batch_size,
            together=together,
            copy=copy,
            solution_length=len(subspace.coordinates(subspace.draw(key), space.layout)),
            dtype=torch.float32,
            key=key,
            host=host,
        )

    def make_net(self, values: Solution | SolutionBatch | Tensor | None = None) -> nn.Module:
        """A point as an independent network: a copy with nothing shared; None: the present parent.

        Args:
            values: a solution, a batch of one or [k] values, from after the last :meth:`rebase`.
        """
        return self.space.make_child(Lineage() if values is None else self._delta(self._point(values)))

    def rebase(self, values: Solution | SolutionBatch | Tensor) -> None:
        """Fold a point into the parent and draw the next subspace (the same again if it is static).

        x = 0 is then the new parent, so a searcher that goes on must start from there. EvoTorch's ``best``
        and ``worst`` begin anew, as the old ones are of another subspace.

        Args:
            values: a solution or [k] values, finite; ``searcher.status["center"]``, for instance.

        Raises:
            InvalidValue: the values are not finite, or not k.
        """
        point = self._point(values)
        if not bool(point.isfinite().all()):
            raise InvalidValue("values: expected finite ones, got NaN or infinity; has the searcher diverged?")
        self.change(Move(self.subspace, self._draw(), point.cpu().clone(), self.scale))  # the caller's may change
        self._best = self._worst = None

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NetworkProblem.state_dict`."""
        return {**super().state_dict(), "rule": [self.subspace.spec, self.scale]}

    def _loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        become, rule = super()._loading(state), [self.subspace.spec, self.scale]
        if state.get("rule", rule) != rule:  # those of 0.1.0 have none
            raise InvalidValue(
                f"state: expected one of {' '.join(rule)}, got one of {' '.join(map(str, state['rule']))}, in which "
                "points are other networks; make the problem as it was made then"
            )
        return become

    def _take_key(self, key: Key) -> None:
        """Another subspace, to which the best and the worst so far do not belong."""
        length = len(self.subspace.coordinates(self.subspace.draw(key), self.space.layout))
        if length != self.solution_length:
            raise InvalidValue(
                f"seed: expected one whose subspace has {self.solution_length} coordinates, as this problem has, got "
                f"{length}; make the problem with seed="
            )
        super()._take_key(key)
        self._best = self._worst = None

    def _point(self, values: Solution | SolutionBatch | Tensor) -> Tensor:
        if isinstance(values, SolutionBatch) and len(values) == 1:
            values = values[0]
        batched = isinstance(values, Solution | SolutionBatch)
        tensor: Any = values.access_values(keep_evals=True) if batched else values  # type: ignore[union-attr]
        device = self.space.device
        try:
            point: Tensor = torch.as_tensor(tensor, device=device).as_subclass(Tensor).detach().to(torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise InvalidType(
                f"values: expected a solution or [{self.solution_length}] numbers, got {shown(values)}"
            ) from None
        if point.shape != (self.solution_length,):
            raise InvalidValue(f"values: expected [{self.solution_length}] numbers, got shape {list(point.shape)}")
        return point

    def _draw(self) -> int:
        return self.subspace.draw(self.key, generation=self.changes - self._seeded_at)

    def _delta(self, point: Tensor) -> SparseDelta:
        at = self.key, self.changes - self._seeded_at
        if self._subspace_of is None or self._subspace_of[0] != at:
            coordinates = self.subspace.coordinates(self._draw(), self.space.layout, self.space.device)
            self._subspace_of = at, coordinates
        return placed(point, self._subspace_of[1], self.space.layout, self.scale)

    def sample_and_compute_gradients(
        self,
        distribution: Any,
        popsize: int,
        *,
        num_interactions: int | None = None,
        popsize_max: int | None = None,
        obj_index: int | None = None,
        ranking_method: str | None = None,
        with_stats: bool = True,
        ensure_even_popsize: bool = False,
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """What PGPE, SNES and CEM ask for with ``distributed=True``: the gradient of a population.

        EvoTorch's own has each actor sample, rank and follow a population of its own, so that a run depends on how
        many there are and on which is first. Here the population is sampled in the main process, evaluated as any
        other, and ranked as a whole: its points are those of ``distributed=False``, to the bit.

        Args:
            distribution, popsize, obj_index, ranking_method, with_stats: as EvoTorch's.
            num_interactions, popsize_max: None; networks on data have no interactions.
            ensure_even_popsize: makes one more of an odd popsize, as EvoTorch's.

        Returns:
            With actors a list of one dict, else the dict: ``gradients``, ``num_solutions`` and ``mean_eval``; the
            gradients alone without stats.

        Raises:
            InvalidValue: there are interactions to count; or XNES asks, whose gradient EvoTorch cannot add up.
        """
        if num_interactions is not None or popsize_max is not None:
            raise InvalidValue(
                f"num_interactions: expected None for networks on data, got {num_interactions} (popsize_max "
                f"{popsize_max}); give a larger popsize"
            )
        if self.num_actors and isinstance(distribution, ExpGaussian):
            raise InvalidValue(
                "distributed: expected False for XNES, of which EvoTorch has no distributed steps, got True; leave "
                "it out, actors share the evaluations all the same"
            )
        self.before_grad_hook()
        found = self._gradient_computation_helper(
            distribution,
            popsize + popsize % 2 if ensure_even_popsize else popsize,
            obj_index=obj_index,
            ranking_method=ranking_method,
            with_stats=with_stats,
        )
        result = [found] if self.num_actors else found
        self._after_eval_status.update(self.after_grad_hook.accumulate_dict(result))
        return result

    @property
    def _nonserialized_attribs(self) -> list[str]:
        return [*super()._nonserialized_attribs, "_subspace_of"]  # which is soon made again

    def _fill(self, values: Tensor) -> None:
        values.zero_()

    def _children(self, values: Tensor) -> Iterator[Child]:
        return (self._delta(point) for point in values.to(self.space.device, torch.float32))

    def _labels(self, values: Tensor) -> list[bytes]:
        """A digest of each point's numbers, of the type that its child is made of."""
        values = values.to(torch.float32)
        nonzero = (values != 0).any(1).tolist()
        rows = values.as_subclass(Tensor).detach().cpu().contiguous().numpy()
        return [
            blake2b(row.tobytes(), digest_size=16).digest() if own else b""
            for row, own in zip(rows, nonzero, strict=True)
        ]


@dataclass(frozen=True)
class Move:
    """A point of a subspace becomes the parent."""

    subspace: Subspace
    draw: int
    values: Tensor
    scale: str

    def apply(self, replica: Replica) -> None:
        """Add the values at their coordinates, for good."""
        space = replica.space
        coordinates = self.subspace.coordinates(self.draw, space.layout, space.device)
        space.fold(placed(self.values.to(space.device), coordinates, space.layout, self.scale))
