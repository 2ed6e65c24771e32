"""Staged: searchers one after another on one problem, each where the one before has arrived."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from typing import Any

from evotorch import SolutionBatch
from evotorch.algorithms import SearchAlgorithm
from evotorch.algorithms.searchalgorithm import SinglePopulationAlgorithmMixin

from smd_evo.errors import InvalidType, InvalidValue, check_count, shown
from smd_evo.integrations.evotorch.asking import AskAndTell
from smd_evo.integrations.evotorch.finetune import FinetuneProblem
from smd_evo.integrations.evotorch.searcher import NetworkSearcher
from smd_evo.integrations.evotorch.states import check_kind, kind_of, read_state

__all__ = ["Staged"]

Make = Callable[[FinetuneProblem], NetworkSearcher]


class Staged(AskAndTell):
    """Searchers one after another: the head first, then normalisations and biases, then everything, say.

    A stage's searcher is made when the stage begins, from the parent that the one before has arrived at (of a
    :class:`SubspaceEvolution` the best one), so that "auto" calibrates sigma there and optimizers start anew. Every
    stage sees other samples: minibatches go on; without them each stage sees a share of its own of the samples, all
    as large. After its generations the last stage goes on as long as it is asked to; ``is_terminated`` tells.

    ``status["stage"]`` counts from 1. What else the status, ``population`` and ``sigma`` tell is of the present
    stage's searcher.

    Args:
        problem: a FinetuneProblem.
        stages: pairs of a number of generations and ``make(problem)``, which makes a searcher of this package. It is
            called once beforehand, so that a wrong setting shows before the first stage, and once more on resuming,
            wherever the parent is by then: settings must not follow from the parent.

    Raises:
        InvalidValue, InvalidType: there are no stages, or something of theirs is none.

    Example:
        >>> import torch
        >>> from functools import partial
        >>> from smd_evo import Dense, SubspaceES, Within
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 4))
        >>> problem = FinetuneProblem(network, (torch.eye(4), torch.arange(4)), seed=1)
        >>> es = partial(SubspaceES, popsize=6, center_learning_rate=0.1, sigma=0.1)
        >>> searcher = Staged(problem, [(2, partial(es, subspace=Within("1", Dense()))), (3, partial(es, density=1))])
        >>> searcher.run(3)
        >>> searcher.status["stage"], searcher.is_terminated
        (2, False)

    Reference: Howard, Ruder, arXiv 1801.06146, section 3.3 (gradual unfreezing, the last layer first).
    """

    def __init__(self, problem: FinetuneProblem, stages: Iterable[tuple[int, Make]]) -> None:
        if not isinstance(problem, FinetuneProblem):
            raise InvalidType(f"problem: expected a FinetuneProblem, got a {type(problem).__name__}")
        self._makes, counts = [], []
        for stage in stages:
            if not isinstance(stage, tuple | list) or len(stage) != 2 or not callable(stage[1]):
                raise InvalidType(f"stages: expected pairs of generations and make(problem), got {shown(stage)}")
            counts.append(check_count("generations", stage[0]))
            self._makes.append(stage[1])
        if not counts:
            raise InvalidValue("stages: expected one or more, got none")
        self._ends = list(accumulate(counts))
        SearchAlgorithm.__init__(self, problem, sigma=self._get_sigma, stage=self._get_stage)
        SinglePopulationAlgorithmMixin.__init__(self)
        self._stage: int | None = None
        self._searcher: NetworkSearcher | None = None
        for number in range(len(counts)):
            self._made(number)

    @property
    def searcher(self) -> NetworkSearcher:
        """The searcher of the present stage; the first begins now, if it has not yet."""
        if self._searcher is None:
            self._begin(self._stage_at(self.step_count))
        assert self._searcher is not None
        return self._searcher

    @property
    def population(self) -> SolutionBatch | None:
        """The solutions of the last generation, evaluated; None before the first."""
        return None if self._searcher is None else self._searcher.population

    @property
    def sigma(self) -> float:
        """The mutation strength of the present stage."""
        return self.searcher.sigma

    @property
    def is_terminated(self) -> bool:
        """Whether all stages have had their generations."""
        return bool(self.step_count >= self._ends[-1])

    def settle(self) -> None:
        """See :meth:`NetworkSearcher.settle`."""
        self.searcher.settle()

    def state_dict(self) -> dict[str, Any]:
        """See :meth:`NetworkSearcher.state_dict`."""
        begun = self._searcher is not None
        return {
            "kind": kind_of(self),
            "generation": self.step_count,
            "stage": self._stage,
            "searcher": self.searcher.state_dict() if begun else None,
            "problem": None if begun else self.problem.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`NetworkSearcher.load_state_dict`; the stages must be the same.

        Raises:
            WrongParent, InvalidValue: it is of another parent, or of other stages.
        """
        read_state(self._loading, state)
        self._tell_anew()

    def _loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        check_kind(self, state)
        stage, generation = state["stage"], state["generation"]
        here = {self._stage_at(max(0, generation - 1)), self._stage_at(generation)}  # the next may have begun
        if stage not in (here if stage is not None or generation else {None}):
            raise InvalidValue(
                f"state: expected one of stages that end after {self._ends} generations, got stage {stage} after "
                f"{generation}"
            )
        with self.problem._same_random_state():  # from which a searcher takes a key
            searcher = None if stage is None else self._made(stage)
        if searcher is None:
            become_present = self.problem._loading(state["problem"])
        else:
            become_present = searcher._loading(state["searcher"])

        def become() -> None:
            become_present()
            self._searcher, self._stage, self._steps_count = searcher, stage, generation

        return become

    _repr_html_ = NetworkSearcher._repr_html_

    def ask(self) -> SolutionBatch:
        """See :meth:`AskAndTell.ask`, of the searcher of the stage that is due."""
        self._enter()
        return self.searcher.ask()

    def _checked(self, batch: SolutionBatch) -> SolutionBatch:
        self._enter()
        return self.searcher._checked(batch)

    def _step(self) -> None:
        self._enter()
        if self._answers is None:
            self.searcher.step()
        else:
            self.searcher.tell(self._answers)

    def _enter(self) -> None:
        """Begin the stage that is due, if it has not begun yet."""
        due = self._stage_at(self.step_count)
        if due != self._stage:
            self._begin(due)

    def _begin(self, stage: int) -> None:
        if self._searcher is not None:
            self._searcher.settle()
        count = len(self._ends)
        if count > 1 and self.problem.minibatch_size is None and self.problem.samples >= count:
            self.problem.share = stage, count
        self._searcher, self._stage = self._made(stage), stage

    def _made(self, stage: int) -> NetworkSearcher:
        searcher = self._makes[stage](self.problem)
        if not isinstance(searcher, NetworkSearcher) or searcher.problem is not self.problem:
            raise InvalidType(
                f"stages: expected a searcher of this package on the problem that is given, got {shown(searcher)}"
            )
        return searcher

    def _stage_at(self, generation: int) -> int:
        """The stage that a generation, counted from 0, belongs to."""
        return min(bisect_right(self._ends, generation), len(self._ends) - 1)

    def _get_sigma(self) -> float:
        return self.sigma

    def _get_stage(self) -> int:
        return self._stage_at(self.step_count) + 1 if self._stage is None else self._stage + 1
