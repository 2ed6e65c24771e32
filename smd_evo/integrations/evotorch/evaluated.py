"""Evaluation of a problem's solutions: each once, beside their parent, in this process or by actors."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from evotorch import Solution, SolutionBatch
from torch import Tensor

from smd_evo.core.keys import Key
from smd_evo.core.parameters import Child
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.calls import autocast_now
from smd_evo.evaluation.data import minibatch, share_of
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import WORST
from smd_evo.evaluation.objectives import Objectives
from smd_evo.evaluation.race import finalists
from smd_evo.evaluation.work import Work
from smd_evo.integrations.evotorch.cluster import WatchedPool
from smd_evo.integrations.evotorch.shared import SharedParent

__all__ = ["EvaluatedProblem", "Values"]

Values = tuple[float, ...]
"""Of a solution: its objectives, and its evaluation data behind them."""

_MOST_OUTPUTS = 2**31
"""Bytes of outputs that are kept for a searcher, which needs some times as many to work with them."""


class EvaluatedProblem(SharedParent):
    """Base of problems whose solutions are children of a parent, evaluated by the core's Evaluator."""

    objectives: Objectives
    key: Key
    minibatch_size: int | None
    progress: Callable[[], object] | None
    _measures: Objectives
    _minibatch_size: int | None
    _seeded_at: int
    _seen_in: str | None = None  # see _how; pickles of 0.1.0 have none

    def __init__(self, sense: str | Sequence[str], **options: Any) -> None:
        super().__init__(sense, **options)
        self._share: tuple[int, int] | None = None
        self._number = 0
        self._seen: dict[bytes, Values] | None = None
        self._seen_at: tuple[Any, ...] | None = None
        self._evaluations = 0
        self._parent_eval: Values | None = None
        self._checked = False
        self._race: Key | None = None
        self._observed: dict[bytes, Tensor] | None = None
        self._precision: torch.dtype | None = None  # of an actor

    @property
    def evaluator(self) -> Evaluator:
        """The present parent on the samples of the next evaluation."""
        assert self._replica.evaluator is not None
        return self._on_samples(self._replica.evaluator)

    @property
    def evaluations(self) -> int:
        """Networks evaluated so far."""
        return self._evaluations

    @property
    def work(self) -> Work:
        """What this process has computed for them; actors keep no account."""
        assert self._replica.evaluator is not None
        return self._replica.evaluator.work

    @abstractmethod
    def _children(self, values: Tensor) -> Iterable[Child]:
        """The children of the present parent that solutions stand for."""

    @abstractmethod
    def _labels(self, values: Tensor) -> list[bytes]:
        """What tells solutions apart: empty for the parent."""

    def generate_values(self, num_solutions: int) -> Tensor:
        """As EvoTorch's, which draws a number from torch's global generator, for nothing."""
        values = torch.empty(num_solutions, self.solution_length, dtype=self.dtype, device=self.device)
        self._fill(values)
        return values

    # Evaluation in one process: the main one, or an actor.

    @torch.no_grad()
    def _evaluate_batch(self, batch: SolutionBatch) -> None:
        precision: AbstractContextManager[Any] = nullcontext()
        if self.is_remote:
            self._catch_up()
            if self._precision is not None:
                precision = torch.autocast(self.space.device.type, self._precision)
        values = batch.access_values(keep_evals=True)
        children = self._children(values)
        with precision:
            if len(self._measures) > 1:
                values = self._measures.evaluate(self.evaluator, children, self.progress)
                batch.set_evals(values.to(batch.device))
                return
            if self._observed is not None:
                found, outputs = self.evaluator.observe([*children], self.progress, _MOST_OUTPUTS)
                self._observed.update(zip(self._labels(values), outputs, strict=True))
            elif self._race is None:
                found = self.evaluator.evaluate(children, self.progress)
            else:
                found = self.evaluator.race([*children], self._race, self.progress)
        batch.set_evals(found.fitness.to(batch.device))

    def _on_samples(self, evaluator: Evaluator) -> Evaluator:
        if self.minibatch_size is None:
            return (
                evaluator
                if self._share is None
                else evaluator.on_samples(share_of(self.key, *self._share, evaluator.samples))
            )
        return evaluator.on_samples(minibatch(self.key, self._number, self.minibatch_size, evaluator.samples))

    # Evaluation as the main process sees it.

    def evaluate(self, x: SolutionBatch | Solution) -> None:
        """Evaluate solutions, all on the same samples; the next call takes the next minibatch."""
        super().evaluate(x)
        if self.is_main:
            self._unsent = self.changes
            self._number += 1
            self._after_eval_status.update(
                self._told_of_parent(), nonfinite=self._nonfinite, evaluations=self._evaluations
            )
            if self.num_actors:
                self._after_eval_status["restarts"] = self.restarts
            elif self.work.images:
                self._after_eval_status.update(vars(self.work))
            cleared = int(x.evals.isnan().sum())
            if cleared:  # no searcher may go on from there
                raise InvalidValue(
                    f"evals: expected those that evaluate() has just set, got NaN in {cleared} of them; does a hook "
                    "call access_values(), which clears them? Read values, or access_values(keep_evals=True)"
                )

    def _told_of_parent(self) -> dict[str, float]:
        """What the status tells of the parent's fitness, if it is known."""
        parent = (self._parent_eval or ())[: len(self.objectives)]
        names = ["parent_eval"] if len(parent) == 1 else [f"obj{n}_parent_eval" for n in range(len(parent))]
        return dict(zip(names, parent, strict=True))

    def has_evaluated(self, batch: SolutionBatch) -> bool:
        """Whether the last evaluation was of these solutions, and their fitness is what it has found."""
        seen = self._seen or {}
        labels = self._labels(batch.access_values(keep_evals=True))
        return (
            seen.keys() == {*labels, b""} and [seen[label][0] for label in labels] == batch.access_evals(0).tolist()
        )

    def evaluated_elsewhere(self, batch: SolutionBatch, parent_eval: float | None = None) -> None:
        """Take note of solutions that somebody else has evaluated: ``status`` is of them.

        :meth:`count` adds them to ``status["evaluations"]``, if they are to count there.

        Args:
            batch: they, with their evaluations.
            parent_eval: the parent's, if it is known.
        """
        nonfinite = int((batch.access_evals(0).abs() >= WORST).sum())
        self._after_eval_status = {**self._get_best_and_worst(batch), "nonfinite": nonfinite}
        self._after_eval_status["evaluations"] = self._evaluations
        if parent_eval is not None:
            self._after_eval_status["parent_eval"] = parent_eval

    @torch.no_grad()
    def _evaluate_all(self, batch: SolutionBatch) -> None:
        """Evaluate what is new: solutions that differ, and the parent, unless they were in the batch before."""
        if self.is_remote:
            super()._evaluate_all(batch)
            return
        seen = dict(self._seen_now())
        values = batch.access_values(keep_evals=True)
        labels = self._labels(values)
        if not self._checked:  # a parent without a fitness shows before its children take their time
            seen[b""] = self._ask(batch, self.generate_values(1))[0]
            self._check_parent(seen[b""])
            self._checked = True
        new = {label: number for number, label in enumerate(labels) if label not in seen}
        asked = values[list(new.values())]
        if b"" not in new and b"" not in seen:
            asked = torch.cat([asked, self.generate_values(1).to(asked)])
            new[b""] = len(labels)
        if new:
            seen.update(zip(new, self._ask(batch, asked), strict=True))
        evals = [seen[label] for label in labels]
        found = torch.tensor(evals, dtype=self.eval_dtype, device=batch.device)
        batch.set_evals(found.view(len(labels), len(self._measures)))
        self._parent_eval = seen[b""]
        self._say_if_alike([seen[label] for label in new if label], self._parent_eval)
        self._nonfinite = sum(any(abs(value) >= WORST for value in values) for values in evals)
        out = self._out_of_the_race({label: seen[label] for label in new}) if self._race is not None else set()
        self._remember({label: seen[label] for label in (*labels, b"") if label not in out}, self._how())

    def _out_of_the_race(self, values: dict[bytes, Values]) -> set[bytes]:
        """Who has not seen all samples: their fitness counts in this generation alone."""
        ranked = sorted((label for label in values if label), key=values.__getitem__)
        if self.objectives.senses[0] == "max":
            ranked.reverse()
        return {*ranked[finalists(len(ranked)) :]}

    def _say_if_alike(self, children: Sequence[Values], parent: Values) -> None:
        """Warn where nothing about networks differs from the parent; what is of the change alone always does."""
        columns = self._measures.of_networks
        unlike = [n for n in columns if any(values[n] != parent[n] for values in children)]
        assert self._replica.evaluator is not None
        column = (unlike or columns)[0]
        self._replica.evaluator.say_if_alike([values[column] for values in children], parent[column])

    def _ask(self, batch: SolutionBatch, values: Tensor) -> list[Values]:
        """Fitness of solutions like those of a batch, from this process or the actors."""
        values = values.to(batch.device)
        if self._observed is None:  # whose labels are those of the whole solutions
            values = self._trimmed(values)
        found = torch.full((len(values), len(self._measures)), math.nan, dtype=torch.float64, device="cpu")

        def evaluate_rest() -> None:
            rest = found[:, 0].isnan().nonzero().flatten()
            pieces = SolutionBatch(like=batch, popsize=len(rest), empty=True)
            pieces._data = values[rest.to(values.device)]
            try:
                super(EvaluatedProblem, self)._evaluate_all(pieces)
            finally:
                found[rest] = pieces.access_evals().to("cpu", torch.float64)

        try:
            self._persistently(evaluate_rest, lambda: int(found[:, 0].isnan().sum()))
        except BaseException:
            if self.actors:  # the old pool would raise the errors of this call's other pieces in the next one
                self._actor_pool = WatchedPool(self.actors)
            raise
        self._evaluations += len(values)
        return [tuple(row) for row in found.tolist()]

    def _check_parent(self, values: Values) -> None:
        for name, value in zip(self._measures.names, values, strict=True):
            if abs(value) >= WORST:
                raise InvalidValue(
                    f"fitness: expected a finite {name} of the parent, got NaN or infinity; is the parent trained, "
                    "and are its inputs scaled as it wants them?"
                )

    def _known(self) -> dict[bytes, Values]:
        """Fitness of what the last evaluation saw, as long as parent and samples are the same."""
        return self._seen if self._seen is not None and self._seen_at == self._now() else {}

    def _seen_now(self) -> dict[bytes, Values]:
        """What is known by evaluations like the next one: in its precision, of all samples or of the same race."""
        return self._known() if self._seen_in in (self._how(), f"{autocast_now()}") else {}

    def _remember(self, seen: dict[bytes, Values], seen_in: str | None) -> None:
        self._seen, self._seen_at, self._seen_in = seen, self._now(), seen_in

    def _how(self) -> str:
        """What the bits of a fitness follow from beside parent and samples."""
        return f"{autocast_now()}" if self._race is None else f"{autocast_now()} race {self._race}"

    def _now(self) -> tuple[Any, ...]:
        return self._number if self.minibatch_size else 0, self.minibatch_size, self._share, self.changes

    def _trimmed(self, values: Tensor) -> Tensor:
        return values

    # What actors are told with each evaluation.

    def _told(self) -> tuple[Any, ...]:
        kinds = (kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind))
        precision = next((torch.get_autocast_dtype(kind) for kind in kinds), None)  # actors know nothing of it
        return self._number, self._minibatch_size, self._share, precision, self.key, self._seeded_at

    def _hear(self, told: tuple[Any, ...]) -> None:
        self._number, self._minibatch_size, self._share, self._precision, self.key, self._seeded_at = told
        if self.aux_device.type != self.space.device.type:
            self._replica.evaluator.to(self.aux_device)  # type: ignore[union-attr]

    def _forget(self) -> None:
        self._seen = None
