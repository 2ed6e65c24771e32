"""Ask and tell: searchers whose solutions somebody else evaluates, when and where they like."""

from __future__ import annotations

from abc import abstractmethod

from evotorch import SolutionBatch
from evotorch.algorithms import SearchAlgorithm
from evotorch.algorithms.searchalgorithm import SinglePopulationAlgorithmMixin

__all__ = ["AskAndTell"]


class AskAndTell(SearchAlgorithm, SinglePopulationAlgorithmMixin):  # type: ignore[misc]
    """Base of searchers that are driven by ``run`` and ``step``, or by :meth:`ask` and :meth:`tell`.

    ``step`` is ``ask``, an evaluation by the problem and ``tell``: with the same evaluations a search goes the same
    way, to the bit. Generations may be had in either way, one after another.
    """

    _answers: SolutionBatch | None = None

    @abstractmethod
    def ask(self) -> SolutionBatch:
        """The solutions of the next generation, without evaluations; the same again until they are told.

        ``problem.make_net(batch[i])`` is a network of one. A searcher that is stored in between, also by its
        ``state_dict``, asks for the same ones; so it does after ``step`` was interrupted. If the problem's parent has
        moved since, they are new ones.
        """

    def tell(self, batch: SolutionBatch) -> None:
        """Go on by the evaluations of what :meth:`ask` gave: the rest of ``step``, with its hooks and its status.

        ``status`` has a ``parent_eval`` if the parent is among the solutions, or the problem has evaluated them.

        Args:
            batch: these solutions in their order, the very batch or a copy; ``batch.set_evals(...)`` before, finite.

        Raises:
            InvalidValue, InvalidType: nothing was asked for, these are others, or a fitness is missing or not finite.
            WrongParent: the problem's parent has moved since.
        """
        self._answers = self._checked(batch)
        try:
            self.step()
        finally:
            self._answers = None

    def _tell_anew(self) -> None:
        """Have the status tell what was loaded, and nothing of what was before."""
        self.clear_status()
        if self.step_count:
            self.update_status({"iter": self.step_count})
            self.update_status(self.problem.status)

    @abstractmethod
    def _checked(self, batch: SolutionBatch) -> SolutionBatch:
        """The batch, if it may be told."""
