"""FinetuneProblem: populations of children of a pre-trained network, each a lineage of mutations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy as shallow
from typing import Any

import torch
from evotorch import Solution, SolutionBatch
from torch import Tensor, nn

from smd_evo.core.keys import Key, check_key
from smd_evo.core.mutation import SCALES, Lineage, Mutation
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.rows import (
    WORDS,
    append_steps,
    common_steps,
    compacted,
    cross_rows,
    decode_rows,
    row_lengths,
    sample_rows,
)
from smd_evo.core.selection import Select
from smd_evo.core.subspace import Subspace, check_subspace
from smd_evo.errors import InvalidType, InvalidValue, WrongParent, check_choice, check_count, shown
from smd_evo.evaluation.fitness import Fitness
from smd_evo.evaluation.objectives import Objective
from smd_evo.integrations.evotorch.base import NetworkProblem
from smd_evo.integrations.evotorch.host import space_of
from smd_evo.integrations.evotorch.past import Past
from smd_evo.integrations.evotorch.replica import Change, Fold, Replica
from smd_evo.integrations.evotorch.solutions import (
    broken,
    changes_of,
    head,
    labels_of,
    row_of,
    rows_of,
    rule_of,
    sealed,
    without_steps,
)
from smd_evo.integrations.evotorch.states import check_kind
from smd_evo.integrations.words import PROBLEM_WORDS
from smd_evo.mends import not_here

__all__ = ["FinetuneProblem"]

_OPERATORS = "AddMutation and LineageCrossOver are the operators for lineages"


class FinetuneProblem(NetworkProblem):
    """Children of a pre-trained network: each solution is a lineage of mutations, in a few int64.

    A solution is a row of ``1 + 3 * steps`` int64: a head, which tells the parent and the rule of the
    coordinates, and the steps of :mod:`smd_evo.core.rows`. A row without steps is the parent, from which every
    population starts. So populations are ordinary numeric EvoTorch tensors, on any device, of 32 bytes a
    one-step child, whatever the network's size.

    Solutions that are equal are evaluated once, and those of the last evaluation not again while parent and
    samples are the same, so GeneticAlgorithm's default of evaluating its parents again costs nothing. Whoever changes
    the samples in place, or what the fitness looks at, says so by :meth:`forget`.

    Args:
        parent: the network, which is copied and never touched, unless ``copy`` is False; or a ParameterSpace of it.
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
        copy: False to have no copy: the network itself is then the present parent, and moves with the search. Leave
            it to the problem as long as that is used.
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
        copy: bool = True,
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
            copy=copy,
            solution_length=1 + WORDS * steps,
            dtype=torch.int64,
            host=host,
        )
        self.steps = steps
        self._past = Past()
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

    def make_gaussian(self, *size: Any, **options: Any) -> Tensor:
        """EvoTorch's; noise in the type of lineages, which its GaussianMutation asks for, is refused."""
        if not any(options.get(name) for name in ("dtype", "use_eval_dtype")) and options.get("out") is None:
            raise InvalidType(f"solutions: expected numbers to add noise to, got lineages; {_OPERATORS}")
        noise: Tensor = super().make_gaussian(*size, **options)
        return noise

    def rule(self, subspace: Subspace, scale: str = "absolute") -> int:
        """The number under which heads of rows know a subspace and a scale; a new one is taken note of.

        Raises:
            InvalidValue: the network is too small for the subspace, or there is no such scale.
        """
        scale = check_choice("scale", scale, SCALES)
        if (check_subspace(subspace), scale) not in self._past.rules:
            subspace.coordinates(subspace.draw(0), self.space.layout)
        return self._past.number(subspace, scale)

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
        if not isinstance(parents, SolutionBatch):
            raise InvalidType(f"parents: expected a SolutionBatch, got a {type(parents).__name__}")
        rows = parents.access_values(keep_evals=True)
        self._check_whole(rows)
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
        if not len(rows):
            return parents.clone()
        new = sample_rows(
            key,
            len(rows),
            subspace=subspace,
            sigma=sigma,
            generation=generation,
            antithetic=antithetic,
            units=units,
        )
        children = SolutionBatch(like=parents, empty=True)
        children.set_values(self._sealed(changes_of(rows), rule, append_steps(rows[:, 1:], new)))
        return children

    def cross(self, first: Tensor, second: Tensor, *, key: Key) -> Tensor:
        """Two children of each pair of rows: see :func:`smd_evo.core.rows.cross_rows`.

        Args:
            first, second: int64 [N, 1 + 3 * steps], children of the present parent.
            key: of the random choice.

        Returns:
            int64 [2 * N, 1 + 3 * steps], the first children before the second ones.

        Raises:
            WrongParent: rows of another parent.
            InvalidValue: two lineages of different rules.
        """
        for rows in (first, second):
            self._check_whole(rows)
            self._check_present(rows)
        own, other = (torch.where(row_lengths(rows[:, 1:]) > 0, rule_of(rows), -1) for rows in (first, second))
        if bool(((own != other) & (own >= 0) & (other >= 0)).any()):
            raise InvalidValue(
                "subspace: expected one of all lineages that cross over, got several; rebase() before another one"
            )
        rule = torch.maximum(own, other).clamp(min=0)
        children = cross_rows(compacted(first[:, 1:]), compacted(second[:, 1:]), key)
        return torch.cat([self._sealed(self.changes, rule, steps) for steps in children])

    def lineages(self, solutions: SolutionBatch | Solution) -> list[Lineage]:
        """The lineages that solutions stand for, each from the parent that its head tells."""
        rows = rows_of(solutions)
        self._check_whole(rows, former=True)
        return self._decoded(rows)

    def _decoded(self, rows: Tensor) -> list[Lineage]:
        self._check_rules(rows)
        rows = rows.cpu()
        found: list[Lineage] = [Lineage()] * len(rows)
        for number, (subspace, scale) in enumerate(self._past.rules):
            own = (rule_of(rows) == number).nonzero().flatten()
            decoded = decode_rows(rows[own, 1:], subspace=subspace, scale=scale)
            for place, lineage in zip(own.tolist(), decoded, strict=True):
                found[place] = lineage
        return found

    def make_net(
        self,
        values: Solution | SolutionBatch | Tensor | None = None,
        history: Tensor | str | None = None,
    ) -> nn.Module:
        """A solution as an independent network: a copy with nothing shared; None: the present parent.

        A solution from before :meth:`rebase` or a gradient step makes the same network as then: its parent is
        made again from the pre-trained one, which takes as long as the changes took.

        Args:
            values: a solution, a batch of one, or the values of one, as EvoTorch's loggers store them.
            history: ``status["history"]`` from after the solution was made, if that was in another problem or
                process: what became of the parent, and the rules of the coordinates. This problem must be of the same
                pre-trained parent and selection, and have loaded the same state, if that one had loaded one; nothing
                else of it counts.

        Raises:
            WrongParent: a solution of a parent, rule or history that this problem, or ``history``, does not know.
            InvalidValue, InvalidType: no solution, several, or no history.
        """
        if values is None:
            return self.space.make_child(Lineage())
        row = row_of(values)
        if history is not None:
            from smd_evo.integrations.evotorch.history import History  # it knows the searchers' changes

            return self._past.restored(self._first or self._replica, row, History.read(history))
        parent = self._parent_at(int(changes_of(row)[0]))
        self._check_whole(row, former=True)
        return parent.make_child(self._decoded(row)[0])

    @property
    def history(self) -> Tensor | None:
        """The text, uint8 [n], by which :meth:`make_net` knows solutions elsewhere; also in the status.

        It is JSON: some hundred bytes for each change of the parent, and 20 a child of a gradient or Newton step.
        None if there was a change that is not ours.
        """
        return self._past.told(self._first or self._replica, self.changes)

    @property
    def status(self) -> dict[str, Any]:
        """As EvoTorch's, with the history as it is now."""
        history = self.history
        return super().status if history is None else {**super().status, "history": history}

    def rebase(self, child: Solution | SolutionBatch | Tensor | Lineage | Mutation) -> None:
        """Fold a child into the parent: the next population starts there, with room for all its steps.

        Args:
            child: a child of the present parent: a solution, a batch of one, the values of one, or its recipe.

        Raises:
            WrongParent: a solution of another parent.
            InvalidValue, InvalidType: no solution, or several.
        """
        if isinstance(child, Mutation):
            child = Lineage((child,))
        elif not isinstance(child, Lineage):
            if not isinstance(child, Solution | SolutionBatch | Tensor):
                raise InvalidType(f"child: expected a Mutation, Lineage or solution, got {shown(child)}")
            row = row_of(child)
            self._check_present(row)
            self._check_whole(row, former=True)
            child = self._decoded(row)[0]
        self.change(Fold(child))

    def change(self, change: Change) -> None:
        """See :meth:`NetworkProblem.change`; the pre-trained parent is kept for :meth:`make_net`."""
        if self._first is None:
            self._first = self._replica.copied()  # of which only what is selected takes memory
        self._past.note(change, self._replica)
        super().change(change)

    def know(self, first: ParameterSpace) -> None:
        """Keep this space of the present parent, which nobody will move, for :meth:`make_net`, and no copy of it."""
        self._first = Replica(first)
        self._first.changes = self.changes

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NetworkProblem.state_dict`."""
        rules = [[subspace.spec, scale] for subspace, scale in self._past.rules]
        return {**super().state_dict(), "rules": rules, "history": self._past.key_after(self.changes)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`NetworkProblem.load_state_dict`; solutions of parents before this one make no networks then."""
        super().load_state_dict(state)

    def _loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        check_kind(self, state)
        rules = [[subspace.spec, scale] for subspace, scale in self._past.rules]
        if state["rules"] != rules:
            raise InvalidValue(
                f"state: expected one of rules {rules}, got {state['rules']}; make the same searchers before"
            )
        key = None if state.get("history") is None else check_key(state["history"], "state: history")
        become_parent = super()._loading(state)

        def become() -> None:
            become_parent()
            self._first, self._past = None, Past(self.changes, key, self._past.rules)

        return become

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Also of what former versions have pickled."""
        rules = state.pop("_rules", None)
        super().__setstate__(state)
        if rules is not None:
            first = self._first or self._replica
            self._past, replica = Past(first.changes, None, rules), shallow(first)
            for change in self._log:
                self._past.note(change, replica)
                replica.changes += 1

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
        self._check_whole(rows)
        self._check_present(rows)
        steps = compacted(rows[:, 1:])
        count = common_steps(steps) if len(rows) and bool((rule_of(rows) == rule_of(rows)[0]).all()) else 0
        if count:
            prefix = self._decoded(torch.cat([rows[:1, :1], steps[:1]], 1))[0].steps[:count]
            known, seen_in = self._known(), self._seen_in
            self.change(Fold(Lineage(prefix)))
            begin = labels_of(torch.cat([rows[:1, :1], steps[:1]], 1))[0][: 8 * (1 + WORDS * count)]
            self._remember(
                {
                    without_steps(label, 8 * WORDS * count): value
                    for label, value in known.items()
                    if label.startswith(begin)
                },
                seen_in,
            )
            rest = torch.cat([steps[:, WORDS * count :], torch.zeros_like(steps[:, : WORDS * count])], 1)
            rows.copy_(self._sealed(self.changes, rule_of(rows), rest))
        return count

    def _parent_at(self, changes: int) -> ParameterSpace:
        """The parent as it was after so many changes: the same bits."""
        if changes == self.changes:
            return self.space
        oldest = self._first.changes if self._first else self.changes
        if self._first is None or not oldest <= changes < self.changes:
            raise WrongParent(
                f"solution: expected one of parents {oldest} to {self.changes}, got one of parent {changes}; "
                "make_net(solution, history) knows those of other runs"
            )
        replica = self._first.copied()
        for change in self._log[: changes - oldest]:
            replica.apply(change)
        return replica.space

    def _sealed(self, changes: Tensor | int, rule: Tensor | int, steps: Tensor) -> Tensor:
        """Rows of those steps."""
        heads = torch.zeros_like(steps[:, 0])
        return sealed(torch.cat([head(heads + changes, rule)[:, None], steps], 1), self._past.key_of)

    def _check_whole(self, rows: Tensor, former: bool = False) -> None:
        """Refuse what was never a lineage of this problem, or is none any more."""
        if rows.dtype != torch.int64:
            raise InvalidType(f"solutions: expected lineages, got numbers of {rows.dtype}; {_OPERATORS}")
        self._check_rules(rows)
        later = changes_of(rows) > self.changes
        if bool((later | broken(rows, self._past.key_of, former or self._past.former)).any()):
            raise WrongParent(
                "solutions: expected whole lineages of this problem's rules and history, got one that was cut up or "
                f"is another problem's; {_OPERATORS}, and make_net(solution, history) knows those of others"
            )

    def _check_present(self, rows: Tensor) -> None:
        stale = changes_of(rows) != self.changes
        if bool(stale.any()):
            raise WrongParent(
                f"solutions: expected children of the present parent, number {self.changes}, got one of parent "
                f"{int(changes_of(rows)[stale][0])}; generate a new population after the parent has changed"
            )

    def _check_rules(self, rows: Tensor) -> None:
        rules = rule_of(rows)
        unknown = (row_lengths(rows[:, 1:]) > 0) & ((rules >= len(self._past.rules)) | (rules < 0))
        if bool(unknown.any()):
            raise WrongParent(
                f"solutions: expected steps of the {len(self._past.rules)} rules that this problem knows, got rule "
                f"{int(rule_of(rows)[unknown][0])}; were they made by another problem?"
            )

    def _fill(self, values: Tensor) -> None:
        values.copy_(self._sealed(self.changes, 0, torch.zeros_like(values[:, 1:])))

    def _children(self, values: Tensor) -> Sequence[Child]:
        self._check_present(values)
        return self._decoded(values)

    def _labels(self, values: Tensor) -> list[bytes]:
        self._check_whole(values)
        self._check_present(values)
        return labels_of(values)

    def _trimmed(self, values: Tensor) -> Tensor:
        """Without the places that no lineage uses: they need not travel."""
        return values[:, : 1 + WORDS * max(1, int(row_lengths(values[:, 1:]).max()))]

    def _make_sync_data_for_actors(self) -> Any:
        return (*super()._make_sync_data_for_actors(), self._past.rules)

    def _use_sync_data_from_main(self, received: Any) -> None:
        *message, self._past.rules = received
        super()._use_sync_data_from_main(tuple(message))
