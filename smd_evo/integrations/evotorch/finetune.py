"""FinetuneProblem: populations of children of a pre-trained network, each a lineage of mutations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from evotorch import Solution, SolutionBatch
from torch import Tensor, nn

from smd_evo.core.keys import Key
from smd_evo.core.mutation import SCALES, Lineage, Mutation
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.rows import WORDS, append_steps, decode_rows, row_lengths, sample_rows
from smd_evo.core.selection import Select
from smd_evo.core.subspace import Subspace, check_subspace
from smd_evo.errors import InvalidType, InvalidValue, WrongParent, check_choice, check_count
from smd_evo.evaluation.fitness import Fitness
from smd_evo.evaluation.objectives import Objective
from smd_evo.integrations.evotorch.base import NetworkProblem, space_of
from smd_evo.integrations.evotorch.replica import Change, Fold, Replica
from smd_evo.integrations.evotorch.solutions import changes_of, head, labels_of, rows_of, rule_of, without_steps
from smd_evo.integrations.words import PROBLEM_WORDS
from smd_evo.mends import not_here

__all__ = ["FinetuneProblem"]


class FinetuneProblem(NetworkProblem):
    """Children of a pre-trained network: each solution is a lineage of mutations, in a few int64.

    A solution is a row of ``1 + 3 * steps`` int64: a head, which tells the parent and the rule of the
    coordinates, and the steps of :mod:`smd_evo.core.rows`. A row without steps is the parent, from which every
    population starts. So populations are ordinary numeric EvoTorch tensors, on any device, of 32 bytes a
    one-step child, whatever the network's size.

    Solutions that are equal are evaluated once, and those of the last evaluation not again while parent and
    samples are the same, so GeneticAlgorithm's default of evaluating its parents again costs nothing.

    Args:
        parent: the network, which is copied and never touched; or a ParameterSpace of it.
        data: see :func:`smd_evo.evaluation.data.make_batches`; None if the fitness brings its own.
        fitness: "cross_entropy", "accuracy", a BatchFitness or a ModuleFitness; it says the objective sense. A list
            of several is several objectives, see :class:`smd_evo.evaluation.objectives.Objectives`; for EvoTorch's
            GeneticAlgorithm.
        eval_data: further ones that are no objectives, in that order in the columns behind them: features for
            MAPElites.
        steps: longest lineage: generations that a GeneticAlgorithm may run. The searchers of this package
            fold what all parents share into the parent and need one, or two for several parents.
        select: which parameters are mutated, see :func:`smd_evo.core.selection.select_names`.
        minibatch_size: samples of an evaluation: another minibatch for each call of ``evaluate``, the same
            for all its solutions; None for all samples.
        batch_size: samples a forward pass, or "auto".
        together: children a forward pass, for small networks: see :class:`smd_evo.evaluation.evaluator.Evaluator`.
        host: further keywords of ``evotorch.Problem``: seed, device, num_actors, num_gpus_per_actor, ... The
            network is evaluated where it is, or on ``device`` if that is no CPU, or on the actors' devices.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: an unusable parent, data, fitness or setting.

    Example:
        >>> problem = FinetuneProblem(nn.Linear(4, 4), (torch.eye(4), torch.arange(4)), seed=1)
        >>> population = problem.generate_batch(3)
        >>> problem.evaluate(population)
        >>> bool((population.evals == problem.status["parent_eval"]).all())
        True
        >>> problem.status["evaluations"]  # three times the parent: evaluated once
        1
    """

    @not_here(**PROBLEM_WORDS)
    def __init__(
        self,
        parent: nn.Module | ParameterSpace,
        data: Any = None,
        fitness: str | Fitness | Sequence[str | Objective] = "cross_entropy",
        *,
        eval_data: Sequence[str | Objective] = (),
        steps: int = 1,
        select: Select = "all",
        minibatch_size: int | None = None,
        batch_size: int | str = "auto",
        together: int | None = None,
        **host: Any,
    ) -> None:
        steps = check_count("steps", steps)
        super().__init__(
            space_of(parent, select),
            data,
            fitness,
            eval_data=eval_data,
            minibatch_size=minibatch_size,
            batch_size=batch_size,
            together=together,
            solution_length=1 + WORDS * steps,
            dtype=torch.int64,
            host=host,
        )
        self.steps = steps
        self._rules: list[tuple[Subspace, str]] = []
        self._first: Replica | None = None  # the pre-trained parent, once there is another one

    def ensure_numeric(self) -> None:
        """Refuse searchers on numbers, which ask for them here: the words of a lineage are none.

        MAPElites asks, too, and has no need of them: its operators make solutions and it moves them whole. What tells
        it from the others is that it works with evaluation data.
        """
        if not self.eval_data_length:
            self.ensure_unbounded()

    def ensure_unbounded(self) -> None:
        """Refuse the searchers that draw numbers from a distribution, which ask for this."""
        raise InvalidType(
            "problem: expected decision variables that are numbers, got lineages in a FinetuneProblem; use "
            "SubspaceProblem for this searcher"
        )

    def make_gaussian(self, *shape: Any, **options: Any) -> Tensor:
        """Refuse EvoTorch's GaussianMutation, which asks for noise here: the words of a lineage take none."""
        raise InvalidType(
            "operator: expected one for lineages, got one that adds noise to numbers; write AddMutation(problem, "
            "stdev=0.01, density=0.01)"
        )

    def rule(self, subspace: Subspace, scale: str = "absolute") -> int:
        """The number under which heads of rows know a subspace and a scale; a new one is taken note of.

        Raises:
            InvalidValue: the network is too small for the subspace, or there is no such scale.
        """
        scale = check_choice("scale", scale, SCALES)
        if (check_subspace(subspace), scale) not in self._rules:
            subspace.coordinates(subspace.draw(0), self.space.layout)
            self._rules.append((subspace, scale))
        return self._rules.index((subspace, scale))

    def mutate(
        self,
        parents: SolutionBatch,
        *,
        key: Key,
        subspace: Subspace,
        sigma: float,
        generation: int = 0,
        scale: str = "absolute",
        antithetic: bool = False,
        units: Tensor | None = None,
    ) -> SolutionBatch:
        """A child of each solution: its lineage and one more mutation.

        Args:
            parents: N solutions.
            key, subspace, sigma, generation, scale, antithetic, units: of the N mutations, as in
                :func:`smd_evo.core.mutation.sample_mutations`.

        Raises:
            InvalidValue: a lineage has ``steps`` steps already, or steps of another rule.
        """
        rows = parents.access_values(keep_evals=True)
        rule = self.rule(subspace, scale)
        lengths = row_lengths(rows[:, 1:])
        if bool(((lengths > 0) & (rule_of(rows) != rule)).any()):
            raise InvalidValue(
                f"subspace: expected that of the lineages' other steps, got {subspace.spec}, {scale}; rebase() before"
            )
        if bool((lengths >= self.steps).any()):
            raise InvalidValue(
                f"steps: expected room for another one in each lineage, got {self.steps} of {self.steps} taken; "
                "FinetuneProblem(steps=...) makes more, rebase() folds them"
            )
        new = sample_rows(
            key,
            len(rows),
            subspace=subspace,
            sigma=sigma,
            generation=generation,
            antithetic=antithetic,
            units=units,
        )
        heads = head(changes_of(rows), rule)
        children = SolutionBatch(like=parents, empty=True)
        children.set_values(torch.cat([heads[:, None], append_steps(rows[:, 1:], new)], dim=1))
        return children

    def lineages(self, solutions: SolutionBatch | Solution) -> list[Lineage]:
        """The lineages that solutions stand for, each from the parent that its head tells."""
        return self._decoded(rows_of(solutions))

    def _decoded(self, rows: Tensor) -> list[Lineage]:
        self._check_rules(rows)
        rows = rows.cpu()
        found: list[Lineage] = [Lineage()] * len(rows)
        for number, (subspace, scale) in enumerate(self._rules):
            own = (rule_of(rows) == number).nonzero().flatten()
            decoded = decode_rows(rows[own, 1:], subspace=subspace, scale=scale)
            for place, lineage in zip(own.tolist(), decoded, strict=True):
                found[place] = lineage
        return found

    def make_net(self, solution: Solution | None = None) -> nn.Module:
        """A solution as an independent network: a copy with nothing shared; None: the present parent.

        A solution from before :meth:`rebase` or a gradient step makes the same network as then: its parent is
        made again from the pre-trained one, which takes as long as the changes took.
        """
        if solution is None:
            return self.space.make_child(Lineage())
        changes = int(changes_of(rows_of(solution))[0])
        return self._parent_at(changes).make_child(self.lineages(solution)[0])

    def rebase(self, child: Solution | Lineage | Mutation) -> None:
        """Fold a child into the parent: the next population starts there, with room for all its steps.

        Args:
            child: a child of the present parent.

        Raises:
            WrongParent: a solution of another parent.
        """
        if isinstance(child, Solution):
            self._check_present(rows_of(child))
            child = self.lineages(child)[0]
        self.change(Fold(child))

    def change(self, change: Change) -> None:
        """See :meth:`NetworkProblem.change`; the pre-trained parent is kept for :meth:`make_net`."""
        if self._first is None:
            self._first = self._replica.copied()
        super().change(change)

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NetworkProblem.state_dict`."""
        rules = [[subspace.spec, scale] for subspace, scale in self._rules]
        return {**super().state_dict(), "rules": rules}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`NetworkProblem.load_state_dict`; solutions of parents before this one make no networks then."""
        rules = [[subspace.spec, scale] for subspace, scale in self._rules]
        if state["rules"] != rules:
            raise InvalidValue(
                f"state: expected one of rules {rules}, got {state['rules']}; make the same searchers before"
            )
        super().load_state_dict(state)
        self._first = None

    def fold_common(self, solutions: SolutionBatch) -> int:
        """Fold the steps that all lineages begin with into the parent, and take them out of the solutions.

        They stay the same children, bit for bit, and their evaluations stay.

        Returns:
            The number of steps.

        Raises:
            InvalidValue: a fitness is of what differs from the parent, which would be another one then.
        """
        if of_changes := self._measures.of_changes:
            raise InvalidValue(
                f"fitness: expected none of the change where steps become part of the parent, got {of_changes[0]}; "
                "give the problem steps for all generations"
            )
        rows = solutions.access_values(keep_evals=True)
        self._check_present(rows)
        steps = rows[:, 1:].reshape(len(rows), -1, WORDS)
        same = (steps == steps[:1]).all(2).all(0) & (rule_of(rows) == rule_of(rows)[0]).all()
        count = min(int(same.cumprod(0).sum()), int(row_lengths(rows[:, 1:]).min()))
        if count:
            prefix = self.lineages(solutions[0])[0].steps[:count]
            known = self._seen_now()
            self.change(Fold(Lineage(prefix)))
            begin = labels_of(rows[:1])[0][: 8 * (1 + WORDS * count)]
            self._remember(
                {
                    without_steps(label, 8 * WORDS * count): value
                    for label, value in known.items()
                    if label.startswith(begin)
                }
            )
            rows[:, 0] = head(self.changes, rule_of(rows))
            rows[:, 1:] = torch.cat([steps[:, count:], torch.zeros_like(steps[:, :count])], 1).view(len(rows), -1)
        return count

    def _parent_at(self, changes: int) -> ParameterSpace:
        """The parent as it was after so many changes: the same bits."""
        if changes == self.changes:
            return self.space
        oldest = self._first.changes if self._first else self.changes
        if self._first is None or not oldest <= changes < self.changes:
            raise WrongParent(
                f"solution: expected one of parents {oldest} to {self.changes}, got one of parent {changes}"
            )
        replica = self._first.copied()
        for change in self._log[: changes - oldest]:
            replica.apply(change)
        return replica.space

    def _check_present(self, rows: Tensor) -> None:
        stale = changes_of(rows) != self.changes
        if bool(stale.any()):
            raise WrongParent(
                f"solutions: expected children of the present parent, number {self.changes}, got one of parent "
                f"{int(changes_of(rows)[stale][0])}; generate a new population after the parent has changed"
            )

    def _check_rules(self, rows: Tensor) -> None:
        unknown = (row_lengths(rows[:, 1:]) > 0) & (rule_of(rows) >= len(self._rules))
        if bool(unknown.any()):
            raise WrongParent(
                f"solutions: expected steps of the {len(self._rules)} rules that this problem knows, got rule "
                f"{int(rule_of(rows)[unknown][0])}; were they made by another problem?"
            )

    def _fill(self, values: Tensor) -> None:
        values.zero_()
        values[:, 0] = self.changes

    def _children(self, values: Tensor) -> Sequence[Child]:
        self._check_present(values)
        return self._decoded(values)

    def _labels(self, values: Tensor) -> list[bytes]:
        self._check_present(values)
        self._check_rules(values)
        return labels_of(values)

    def _trimmed(self, values: Tensor) -> Tensor:
        """Without the places that no lineage uses: they need not travel."""
        return values[:, : 1 + WORDS * max(1, int(row_lengths(values[:, 1:]).max()))]

    def _make_sync_data_for_actors(self) -> Any:
        return (*super()._make_sync_data_for_actors(), self._rules)

    def _use_sync_data_from_main(self, received: Any) -> None:
        *message, self._rules = received
        super()._use_sync_data_from_main(tuple(message))
