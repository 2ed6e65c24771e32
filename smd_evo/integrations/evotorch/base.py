"""What both problems share: a parent network that every actor holds, evaluated by the core's Evaluator."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from evotorch import Solution, SolutionBatch
from torch import Tensor, nn

from smd_evo.core.keys import Key, check_key, derive
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.core.selection import Select
from smd_evo.errors import InvalidType, InvalidValue, check_choice, check_count, check_number, nearest, shown
from smd_evo.evaluation.data import minibatch, share_of
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import WORST, Fitness
from smd_evo.evaluation.front import ParetoFront
from smd_evo.evaluation.objectives import Objective, Objectives, listed
from smd_evo.evaluation.race import raced
from smd_evo.evaluation.work import Work
from smd_evo.integrations.evotorch.cluster import WatchedPool
from smd_evo.integrations.evotorch.keys import generator_seed
from smd_evo.integrations.evotorch.replica import Replica
from smd_evo.integrations.evotorch.shared import SharedParent
from smd_evo.mends import network_mend

__all__ = ["NetworkProblem", "key_of", "space_of"]

_Values = tuple[float, ...]
"""Of a solution: its objectives, and its evaluation data behind them."""
_HOST = (
    *("seed", "device", "num_actors", "actor_config", "num_gpus_per_actor", "num_subbatches", "subbatch_size"),
    *("store_solution_stats", "vectorized"),
)
"""Keywords of ``evotorch.Problem`` that say nothing which the network says."""

_MOST_OUTPUTS = 2**31
"""Bytes of outputs that are kept for a searcher, which needs some times as many to work with them."""


def key_of(seed: int | None) -> Key:
    """The key of a problem's seed; without one it comes from torch's global generator, as EvoTorch's numbers do."""
    drawn = int(torch.randint(2**63 - 1, (), device="cpu")) if seed is None else check_key(seed, "seed")
    return derive(drawn, "problem")


def checked_host(host: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords of ``evotorch.Problem`` with plain numbers, where they are numbers."""
    checks: dict[str, Callable[[str, Any], Any]] = {
        "seed": lambda name, value: check_key(value, name),
        "num_actors": lambda name, value: check_count(name, value, low=0),
        "num_gpus_per_actor": lambda name, value: check_number(name, value, low=0, closed=True),
        "num_subbatches": check_count,
        "subbatch_size": check_count,
    }
    words = {"num_actors": ("max", "num_cpus", "num_gpus", "num_devices"), "num_gpus_per_actor": ("max", "all")}
    found = dict(host)
    for name in host:
        if name not in _HOST:
            raise InvalidType(f"{name}: expected a keyword of this problem or evotorch.Problem{nearest(name, _HOST)}")
    for name, check in checks.items():
        value = host.get(name)
        if isinstance(value, str) and name in words:
            found[name] = check_choice(name, value, words[name])
        elif value is not None:
            found[name] = check(name, value)
    return found


def space_of(parent: nn.Module | ParameterSpace, select: Select) -> ParameterSpace:
    """The selected parameters of a network, or the space of them that is given."""
    if isinstance(parent, nn.Module):
        return ParameterSpace(parent, select)
    if not isinstance(parent, ParameterSpace):
        mend = network_mend(parent) or "; the order is parent, data, fitness"
        raise InvalidType(f"parent: expected a torch.nn.Module or ParameterSpace, got {shown(parent)}{mend}")
    if select != "all":
        raise InvalidValue("select: expected it with a torch.nn.Module, got it with a ParameterSpace")
    return parent


def _checked_size(size: int | None, samples: int) -> int | None:
    """A minibatch's size, or an error if it is no whole number of at most the samples."""
    if size is None:
        return None
    size = check_count("minibatch_size", size, mend="or None for all samples")
    if size > samples:
        raise InvalidValue(f"minibatch_size: expected at most the {samples} samples, got {size}")
    return size


class NetworkProblem(SharedParent):
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
        space = copy.deepcopy(parent)  # the user's own network is never touched
        if self.num_actors or self.device.type != "cpu":
            space.module.to(self.device)  # what travels to actors is on the CPU, whatever they have
        evaluator = self._measures.evaluator(space, data, batch_size=batch_size, together=together)
        self.fitness = evaluator.fitness
        self._minibatch_size = _checked_size(minibatch_size, evaluator.samples)
        self.key = key_of(host.get("seed")) if key is None else key
        self._share: tuple[int, int] | None = None
        self._replica = Replica(space, evaluator)
        self._number = 0
        self._seen: dict[bytes, _Values] | None = None
        self._seen_at: tuple[Any, ...] | None = None
        self._evaluations = 0
        self._parent_eval: _Values | None = None
        self._checked = False
        self._race: Key | None = None
        self._observed: dict[bytes, Tensor] | None = None
        self._precision: torch.dtype | None = None  # of an actor
        self.progress: Callable[[], object] | None = None

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
    def calls(self) -> int:
        """Calls of ``evaluate`` since the last seed was given: the number of the next minibatch."""
        return self._number

    @property
    def seedings(self) -> int:
        """How many times ``manual_seed`` was called since the problem was made."""
        return self._seedings

    @property
    def work(self) -> Work:
        """What this process has computed for them; actors keep no account."""
        assert self._replica.evaluator is not None
        return self._replica.evaluator.work

    @property
    def minibatch_size(self) -> int | None:
        """Samples of each evaluation, None for all; it may be changed between evaluations."""
        return self._minibatch_size

    @minibatch_size.setter
    def minibatch_size(self, size: int | None) -> None:
        assert self._replica.evaluator is not None
        self._minibatch_size = _checked_size(size, self._replica.evaluator.samples)

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
        if share is not None:
            if not isinstance(share, tuple | list) or len(share) != 2:
                raise InvalidType(
                    f"share: expected its number and how many there are, got {shown(share)}; try (0, 2)"
                )
            share = check_count("share", share[0], low=0), check_count("share", share[1])
            share_of(self.key, *share, self.samples)  # which says if there is no such one
        self._share = share

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

    def state_dict(self) -> dict[str, Any]:
        """All that the problem has become since it was made: dicts and lists of tensors, numbers and texts.

        The size is that of the parent's selected parameters, however many changes it has gone through.
        """
        return {
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
                label.hex(): value[0] if len(value) == 1 else list(value) for label, value in self._seen_now().items()
            },
            "generator": None if self.generator is None else self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state_dict` told of a problem of the same parent, data and settings.

        Raises:
            WrongParent: the parent has other parameters.
        """
        key, seeded_at = check_key(state.get("key", self.key), "state: key"), state.get("seeded_at", 0)
        self.space.load(state["parent"])
        self.key, self._seeded_at = key, seeded_at
        if self.actors:
            self.kill_actors()  # they hold another parent
        self._replica.changes = self._logged_from = state["changes"]
        self._replica.optimizer = None
        self._log = []
        vars(self.work).update(state.get("work", {}))
        self._features_counted().clear()
        self._features_counted().update(state.get("features", ()))
        self._number, self.minibatch_size = state["minibatches"], state["minibatch_size"]
        self.share = state.get("share")
        self._evaluations, self._checked = state["evaluations"], state["checked"]
        self._remember(
            {
                bytes.fromhex(label): tuple(value) if isinstance(value, list) else (value,)
                for label, value in state["seen"].items()
            }
        )
        super().manual_seed(None if state["generator"] is None else 0)
        if self.generator is not None:
            self.generator.set_state(state["generator"])

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
            assert self._parent_eval is not None
            parent = self._parent_eval[: len(self.objectives)]
            names = ["parent_eval"] if len(parent) == 1 else [f"obj{n}_parent_eval" for n in range(len(parent))]
            self._after_eval_status.update(
                zip(names, parent, strict=True), nonfinite=self._nonfinite, evaluations=self._evaluations
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
        self._remember({label: seen[label] for label in (*labels, b"")})

    def _say_if_alike(self, children: Sequence[_Values], parent: _Values) -> None:
        """Warn where nothing about networks differs from the parent; what is of the change alone always does."""
        columns = self._measures.of_networks
        unlike = [n for n in columns if any(values[n] != parent[n] for values in children)]
        assert self._replica.evaluator is not None
        column = (unlike or columns)[0]
        self._replica.evaluator.say_if_alike([values[column] for values in children], parent[column])

    def _ask(self, batch: SolutionBatch, values: Tensor) -> list[_Values]:
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
                super(NetworkProblem, self)._evaluate_all(pieces)
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

    def _check_parent(self, values: _Values) -> None:
        for name, value in zip(self._measures.names, values, strict=True):
            if abs(value) >= WORST:
                raise InvalidValue(
                    f"fitness: expected a finite {name} of the parent, got NaN or infinity; is the parent trained, "
                    "and are its inputs scaled as it wants them?"
                )

    def _seen_now(self) -> dict[bytes, _Values]:
        """Fitness of what the last evaluation saw, as long as parent and samples are the same."""
        return self._seen if self._seen is not None and self._seen_at == self._now() else {}

    def _remember(self, seen: dict[bytes, _Values]) -> None:
        self._seen, self._seen_at = seen, self._now()

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
