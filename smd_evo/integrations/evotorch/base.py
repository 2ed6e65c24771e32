"""What both problems share: how they are made, told, stored and seeded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from evotorch import Solution, SolutionBatch
from torch import Tensor, nn

from smd_evo.core.keys import Key, check_key, derive
from smd_evo.core.parameters import ParameterSpace
from smd_evo.core.supported import check_uncopied
from smd_evo.errors import InvalidType, InvalidValue, WrongParent, check_count, check_flag, shown
from smd_evo.evaluation.data import share_of
from smd_evo.evaluation.fitness import Fitness
from smd_evo.evaluation.front import ParetoFront
from smd_evo.evaluation.objectives import Objective, Objectives, listed
from smd_evo.evaluation.race import raced
from smd_evo.integrations.evotorch.evaluated import EvaluatedProblem
from smd_evo.integrations.evotorch.host import checked_host, checked_size, key_of
from smd_evo.integrations.evotorch.keys import generator_seed
from smd_evo.integrations.evotorch.replica import Replica
from smd_evo.integrations.evotorch.solutions import solutions_from, solutions_state
from smd_evo.integrations.evotorch.states import check_kind, kind_of, read_state, unselected

__all__ = ["NetworkProblem"]


class NetworkProblem(EvaluatedProblem):
    """Base of problems whose solutions are children of one pre-trained parent.

    ``status`` gets, beside EvoTorch's own items, ``parent_eval`` (fitness of the parent on the samples of
    the last evaluation), ``nonfinite`` (how many of its solutions had no finite fitness and got the worst one,
    +-1e18) and ``evaluations`` (networks evaluated so far); without actors ``images`` and ``forwards`` (samples that
    networks were evaluated on, and forward passes that this took, see :class:`smd_evo.evaluation.work.Work`); with
    actors ``restarts``, how many times new ones took the place of some that had died. All are numbers. With several
    objectives there are ``obj0_parent_eval``, ``obj1_parent_eval``, ... instead of ``parent_eval``, as EvoTorch has
    them.

    Attributes:
        fitness: what the solutions are evaluated by; of several objectives the first that is not of the change alone.
        objectives: the objectives.
        progress: called after each network that this process has evaluated, if it is set.
    """

    _seedings = _seeded_at = 0
    _unselected: int | None = None

    def __init__(
        self,
        parent: ParameterSpace,
        data: Any,
        fitness: str | Fitness | Sequence[str | Objective],
        *,
        eval_data: Sequence[str | Objective],
        minibatch_size: int | None,
        batch_size: int | str,
        together: int | None,
        copy: bool,
        solution_length: int,
        dtype: torch.dtype,
        host: dict[str, Any],
        key: Key | None = None,
    ) -> None:
        host = checked_host(host)
        self.objectives = Objectives(listed(fitness))
        count = len(self.objectives)
        self._measures = Objectives([*self.objectives.parts, *listed(eval_data)])
        super().__init__(
            self.objectives.senses[0] if count == 1 else [*self.objectives.senses],
            solution_length=solution_length,
            dtype=dtype,
            eval_dtype=torch.float64,
            eval_data_length=len(self._measures) - count,
            host=host,
        )
        space = self._copied(parent) if check_flag("copy", copy) else self._as_it_is(parent)
        evaluator = self._measures.evaluator(space, data, batch_size=batch_size, together=together)
        self.fitness = evaluator.fitness
        self._minibatch_size = checked_size(minibatch_size, evaluator.samples)
        self.key = key_of(host.get("seed")) if key is None else key
        self._replica = Replica(space, evaluator)
        self.progress: Callable[[], object] | None = None

    def _copied(self, parent: ParameterSpace) -> ParameterSpace:
        space = deepcopy(parent)  # the user's own network is never touched
        if self.num_actors or self.device.type != "cpu":
            space.module.to(self.device)  # what travels to actors is on the CPU, whatever they have
        return space

    def _as_it_is(self, parent: ParameterSpace) -> ParameterSpace:
        check_uncopied(parent.module, None if self.device.type == "cpu" else self.device, bool(self.num_actors))
        return parent

    @property
    def calls(self) -> int:
        """Calls of ``evaluate`` since the last seed was given: the number of the next minibatch."""
        return self._number

    @property
    def seedings(self) -> int:
        """How many times ``manual_seed`` was called since the problem was made."""
        return self._seedings

    @property
    def minibatch_size(self) -> int | None:
        """Samples of each evaluation, None for all; it may be changed between evaluations."""
        return self._minibatch_size

    @minibatch_size.setter
    def minibatch_size(self, size: int | None) -> None:
        assert self._replica.evaluator is not None
        self._minibatch_size = checked_size(size, self._replica.evaluator.samples)

    @property
    def samples(self) -> int:
        """Samples in all; 0 where the fitness brings its own."""
        assert self._replica.evaluator is not None
        return self._replica.evaluator.samples

    @property
    def share(self) -> tuple[int, int] | None:
        """Which of how many disjoint shares of the samples evaluations see that have no minibatches; None for all."""
        return self._share

    @share.setter
    def share(self, share: tuple[int, int] | None) -> None:
        self._share = self._checked_share(share, self.key)

    def _checked_share(self, share: Any, key: Key) -> tuple[int, int] | None:
        if share is None:
            return None
        if not isinstance(share, tuple | list) or len(share) != 2:
            raise InvalidType(f"share: expected its number and how many there are, got {shown(share)}; try (0, 2)")
        found = check_count("share", share[0], low=0), check_count("share", share[1])
        share_of(key, *found, self.samples)  # which says if there is no such one
        return found

    @contextmanager
    def racing(self) -> Iterator[None]:
        """A block in which solutions race: see :mod:`smd_evo.evaluation.race`.

        Raises:
            InvalidValue: with actors, each of which would have a race of its own, without samples, or with several
                fitnesses.
        """
        self.check_one_fitness("a race")
        raced(self.fitness)
        if self.num_actors:
            raise InvalidValue(f"race: expected no actors, got {self.num_actors}; leave one of them out")
        self._race = derive(self.key, "race")
        try:
            yield
        finally:
            self._race = None

    @contextmanager
    def observing(self) -> Iterator[dict[bytes, Tensor]]:
        """A block in which the outputs of solutions are kept, for no further forward pass.

        Yields:
            The outputs [n, ...] of what is evaluated in the block, by the labels of solutions; the parent's is empty.

        Raises:
            InvalidValue: with actors, which send home a number for each solution and no outputs, or with several
                fitnesses.
        """
        self.check_one_fitness("outputs")
        if self.num_actors:
            raise InvalidValue(
                f"problem: expected no actors, which keep their outputs, got {self.num_actors}; leave num_actors "
                "out, or use SubspaceES"
            )
        self._forget()  # whose outputs are gone
        self._observed = {}
        try:
            yield self._observed
        finally:
            self._observed = None

    def check_one_fitness(self, what: str) -> None:
        """Raise if solutions have several objectives, or evaluation data."""
        if len(self._measures) > 1:
            raise InvalidValue(
                f"fitness: expected a single one for {what}, got {', '.join(self._measures.names)}; EvoTorch's "
                "GeneticAlgorithm takes several, and its MAPElites takes eval_data"
            )

    def front(self, solutions: SolutionBatch) -> ParetoFront:
        """The Pareto front of evaluated solutions, beside the parent as it was evaluated last.

        Args:
            solutions: a searcher's population, for instance; ``numbers`` of the front are places in it.

        Raises:
            InvalidValue: some are not evaluated.
        """
        count = len(self.objectives)
        return self.objectives.front(
            solutions.access_evals()[:, :count], self._parent_eval and self._parent_eval[:count]
        )

    def count(self, evaluations: int) -> None:
        """Take note of networks that were evaluated beside the populations, by a calibration."""
        self._evaluations += check_count("evaluations", evaluations, low=0)

    def forget(self) -> None:
        """Evaluate everything anew from now on: after what fitness depends on has been changed from outside.

        That is samples that were written to, or what a fitness of the network looks at. Actors have the samples that
        they were sent.
        """
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """All that the problem has become since it was made: dicts and lists of tensors, numbers and texts.

        The size is that of the parent's selected parameters, however many changes it has gone through.
        """
        return {
            "kind": kind_of(self),
            "solution_length": self.solution_length,
            "of": self._of(),
            "parent": self.space.copied(),
            "changes": self.changes,
            "minibatches": self._number,
            "minibatch_size": self.minibatch_size,
            "share": None if self.share is None else list(self.share),
            "evaluations": self._evaluations,
            "work": dict(vars(self.work)),
            "features": sorted(self._features_counted()),
            "checked": self._checked,
            "key": self.key,
            "seeded_at": self._seeded_at,
            "seen": {
                label.hex(): value[0] if len(value) == 1 else list(value) for label, value in self._known().items()
            },
            "seen_in": self._seen_in,
            "extremes": self._extremes(),
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state_dict` told of a problem of the same parent, data and settings.

        The selected parameters and the minibatches' size become those of the state. The values of samples are not
        looked at.

        Raises:
            WrongParent: the parent has other parameters, or other values where nothing is selected.
            InvalidValue, InvalidType: it is no such state, or of another fitness or number of samples; nothing has
                changed then.
        """
        read_state(self._loading, state)

    def _of(self) -> dict[str, Any]:
        """What a state is of, and does not restore."""
        if self._unselected is None:
            self._unselected = unselected(self.space)
        names = [f"{name} ({sense})" for name, sense in zip(self._measures.names, self._measures.senses, strict=True)]
        return {"fitness": ", ".join(names), "samples": self.samples, "not selected": self._unselected}

    def _check_of(self, found: Mapping[str, Any]) -> None:
        """Raise if a state is of anything else."""
        for name, own in self._of().items():
            if name in found and found[name] != own:
                kind = WrongParent if name == "not selected" else InvalidValue
                told = "the same values of what is not selected" if kind is WrongParent else f"{name} {own}"
                got = "others" if kind is WrongParent else shown(found[name])
                raise kind(f"state: expected {told}, got {got}; make the problem as it was made then")

    def _loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Check a state; what is returned becomes it, of which nothing is true before."""
        check_kind(self, state)
        if (length := state.get("solution_length", self.solution_length)) != self.solution_length:
            raise InvalidValue(
                f"state: expected solutions of length {self.solution_length}, got {length}; make the problem as it "
                "was made then"
            )
        parent, key = state["parent"], check_key(state.get("key", self.key), "state: key")
        here = {name: (own.shape, own.dtype) for name, own in self.space.copied().items()}
        if here != {name: (own.shape, own.dtype) for name, own in parent.items()}:
            raise WrongParent(
                f"values: expected the {len(here)} selected parameters in their shapes and types, got {len(parent)} "
                "others; take a state of the same network and selection"
            )
        self._check_of(state.get("of", {}))
        changes, number, evaluations, seeded_at = (
            check_count(f"state: {name}", state.get(name, 0) if name == "seeded_at" else state[name], low=0)
            for name in ("changes", "minibatches", "evaluations", "seeded_at")
        )
        size = checked_size(state["minibatch_size"], self.samples)
        share = self._checked_share(state.get("share"), key)
        checked = check_flag("state: checked", state["checked"])
        seen = {
            bytes.fromhex(label): tuple(value) if isinstance(value, list) else (value,)
            for label, value in state["seen"].items()
        }
        extremes = solutions_from(self, state.get("extremes"))
        generator = state["generator"]
        if generator is not None:
            torch.Generator(self.device).set_state(generator)  # which says if it is none of one

        def become() -> None:
            self.space.load(parent)
            self.key, self._seeded_at = key, seeded_at
            if self.actors:
                self.kill_actors()  # they hold another parent
            self._replica.changes = self._logged_from = changes
            self._replica.optimizer = self._replica.rest = None
            self._log = []
            vars(self.work).update(state.get("work", {}))
            self._features_counted().clear()
            self._features_counted().update(state.get("features", ()))
            self._number, self._minibatch_size, self._share = number, size, share
            self._evaluations, self._checked = evaluations, checked
            self._remember(seen, state.get("seen_in", self._how()))
            self._parent_eval = seen.get(b"")
            self._best = self._worst = None
            # EvoTorch's, which takes note of them
            self._after_eval_status = {} if extremes is None else self._get_best_and_worst(extremes)
            self._after_eval_status.update(self._told_of_parent(), evaluations=evaluations)
            super(NetworkProblem, self).manual_seed(None if generator is None else 0)
            if generator is not None:
                self.generator.set_state(generator)

        return become

    def _extremes(self) -> dict[str, Tensor] | None:
        """The best solution so far in each objective, and then the worst."""
        if self._best is None or self._worst is None:
            return None
        return solutions_state(SolutionBatch.cat([each.to_batch() for each in (*self._best, *self._worst)]))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if "_measures" not in state:  # a pickle from before there were several objectives
            self.objectives = self._measures = Objectives([self.fitness])
            known, parent = state.get("_seen"), state.get("_parent_eval")
            self._seen = None if known is None else {label: (value,) for label, value in known.items()}
            self._parent_eval = None if parent is None else (parent,)

    def _features_counted(self) -> set[int]:
        """What of the features is in the account of :attr:`work`."""
        assert self._replica.evaluator is not None
        features = self._replica.evaluator.features
        return set() if features is None else features.kept.counted

    def manual_seed(self, seed: int | None = None) -> None:
        """Draw from now on what a problem draws that is made of the present parent with this seed.

        Minibatches, shares and races begin anew; so do operators, and searchers that have had no generation yet. One
        that has goes on with the key that it has. The parent, and what the status tells of the past, stay.

        Args:
            seed: in [0, 2**64), of which every bit counts; None to follow torch's global generator.

        Raises:
            InvalidValue, InvalidType: it is no seed.
        """
        # EvoTorch's generator on the CPU would take the low 32 bits of a seed and leave the others out.
        seed = None if seed is None else check_key(seed, "seed")
        if "key" in vars(self) and not self.is_remote:  # EvoTorch's __init__ and its actors seed the generator alone
            self._take_key(key_of(seed))
        super().manual_seed(None if seed is None else generator_seed(seed))

    def seed(self, seed: int | None = None) -> None:
        """The name under which EvoTorch's actors look for ``manual_seed``."""
        self.manual_seed(seed)

    def _take_key(self, key: Key) -> None:
        """Begin anew with another key."""
        self.key, self._seeded_at, self._number = key, self.changes, 0
        self._seedings += 1
        self._forget()

    @abstractmethod
    def make_net(self, values: Any = None) -> nn.Module:
        """A solution as an independent network: a copy with nothing shared; None: the present parent."""

    def to_policy(self, solution: Solution | SolutionBatch | Tensor) -> nn.Module:
        """:meth:`make_net` by the name under which EvoTorch's ``PicklingLogger`` looks for it, to store a network."""
        return self.make_net(solution)

    def parameterize_net(self, parameters: Solution | SolutionBatch | Tensor) -> nn.Module:
        """:meth:`make_net` by the name of EvoTorch's NEProblem; it is a network of its own each time."""
        return self.make_net(parameters)
