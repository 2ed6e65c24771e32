"""Many generations of one network: a searcher that can be stopped anywhere and goes on to the same bits.

Each generation is one of EvoTorch's searchers on another minibatch of the fitness split. The validation split
decides which parent is kept, when to stop, and who votes in the ensemble; the test split is read once, at the end.
Whatever the number of generations, a child costs its last mutation, and the state one network and its optimizer.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import Tensor

from smd_evo.core.mutation import Lineage
from smd_evo.core.parameters import Child, ParameterSpace
from smd_evo.ensemble.metrics import accuracy, finite_logits, negative_log_likelihood
from smd_evo.errors import InvalidValue
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import ACCURACY, CROSS_ENTROPY, ModuleFitness, rank
from smd_evo.evaluation.rewards import RewardFitness
from smd_evo.experiments.chance import near_chance
from smd_evo.experiments.generations.counts import evolution_workload
from smd_evo.experiments.generations.searchers import Stages
from smd_evo.experiments.generations.settings import EvolutionConfig, images_at, most_images
from smd_evo.experiments.generations.state import check_state
from smd_evo.experiments.parent import NAMED, Source, in_precision
from smd_evo.experiments.progress import Logged, Progress
from smd_evo.experiments.scores import of_classes
from smd_evo.experiments.speed import timed
from smd_evo.integrations.ray_address import check_address

if TYPE_CHECKING:
    from smd_evo.integrations.evotorch.searcher import NetworkSearcher

__all__ = ["Evolution", "Generation", "Validation"]

_IMAGES = 300
"""That rank a child, where there are as many."""


@dataclass(frozen=True)
class Validation:
    """A parent on the validation split.

    Attributes:
        accuracy, loss: of its predictions, where samples have classes; the loss is the negative log-likelihood.
        best: whether no parent before was as good by the run's fitness.
        fitness: its value, where it is neither of the above.
    """

    accuracy: float | None
    loss: float | None
    best: bool
    fitness: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As plain values, without what there is not."""
        found = asdict(self)
        return (
            found
            if found["fitness"] is not None
            else {name: value for name, value in found.items() if name != "fitness"}
        )


@dataclass(frozen=True)
class Generation:
    """What one generation showed; all but the seconds are the same in every repetition.

    Attributes:
        generation: its number, from 1.
        fitness: the best one.
        median: the median one.
        parent: that of the pre-step parent, on the same images.
        sigma: mutation strength.
        images: that each child was evaluated on.
        evaluations: networks evaluated so far.
        image_evaluations: images that they were evaluated on, in all.
        forwards: forward passes of an image that this took, see :class:`smd_evo.evaluation.work.Work`; None with
            actors, and for a fitness of the network.
        nonfinite: children without a finite fitness.
        batch_limit: samples that a forward pass had to be cut down to for want of memory, or None.
        validation: of the new parent, in generations that are validated.
        seconds: it took.
    """

    generation: int
    fitness: float
    median: float
    parent: float
    sigma: float
    images: int
    evaluations: int
    image_evaluations: int
    forwards: float | None
    nonfinite: int
    batch_limit: int | None
    validation: Validation | None
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As plain numbers."""
        return {**asdict(self), "validation": self.validation and self.validation.as_dict()}


class Evolution:
    """A run over generations, in memory.

    Args:
        config: the settings.
        progress: told of each evaluated child; by default :mod:`logging` is.
        source: of the parent, the data and the fitness; by default the settings name them.

    Attributes:
        fitness: what ranks children.
        space: the pre-trained parent, which stays as it is.
        data: its data.
        start: the pre-trained parent on validation, once it is known.
        best: the parameters of the parent that was best on validation, by their names.
        late: those of the last validated parents, oldest first.
        generation: how many are done.
        calibration: images that were evaluated to find sigma.

    Raises:
        InvalidValue, InvalidType, UnsupportedParameter: settings that the network or the data cannot have.
    """

    def __init__(self, config: EvolutionConfig, progress: Progress | None = None, source: Source = NAMED) -> None:
        self.config, self.progress = config, progress or Logged()
        if config.actors > 1:  # a cluster that is gone is told before the work that leads up to it
            check_address(config.ray_address or os.environ.get("RAY_ADDRESS"))
        self.fitness = source.fitness(config.fitness)
        rewards = isinstance(self.fitness, RewardFitness)
        self._alone = isinstance(self.fitness, ModuleFitness) and not rewards  # it brings what samples it needs
        network, self.data = source.parent(config, self.progress)
        self.space = ParameterSpace(network, config.select)
        self._stages = Stages(config, self.space)
        if self._alone and config.images is not None:
            raise InvalidValue(
                f"images: expected none with fitness {self.fitness.name}, which is of the network, got "
                f"{config.images}; leave it out"
            )
        samples = 1 if self._alone else self.data.sizes["fitness"]
        self._images = config.images or str(min(_IMAGES, samples))
        most = most_images(self._images, config.generations)
        if most > samples:
            raise InvalidValue(
                f"images: expected at most the {samples} samples of the fitness split, got {most}; "
                "give fewer, or more fitness samples"
            )
        self.fingerprint = self.space.fingerprint()
        self.generation = 0
        self.best: dict[str, Tensor] = {}
        self.late: list[dict[str, Tensor]] = []
        self._best_score = -math.inf
        self._without = 0
        self.calibration = 0
        self._image_evaluations = 0

    def begin(self) -> None:
        """Calibrate and validate the parent: what comes before the first generation."""
        self.announce()
        with in_precision(self.config):
            sigmas, self.calibration = self._stages.calibrate(self._evaluator(), self.progress)
            self._make_searcher(sigmas)
            self.start = self._validate()
        right = self.start.accuracy
        if right is not None and (line := near_chance(right, self._judge.targets(), "validation")):
            warnings.warn(line, stacklevel=2)

    def announce(self, done: int | None = None) -> None:
        """Tell what is to come, if so many generations are done; None: not even the calibration is."""
        workload = evolution_workload(self.config, self._images, self.data.sizes, done)
        actors = self.config.actors
        with in_precision(self.config):
            evaluator = self._evaluator()
            note = f"in one process, which {actors} actors share" if actors > 1 else ""
            self.progress.expect(timed(workload, evaluator, note))

    def step(self) -> Generation:
        """One generation."""
        with in_precision(self.config):
            return self._step()

    def validate(self) -> Validation:
        """Look at the present parent on validation, where that was not due, and keep it if it is the best so far."""
        with in_precision(self.config):
            return self._validate()

    @property
    def stopped(self) -> str | None:
        """Why there is no next generation: "generations", "callback", "patience"; None while there is one."""
        if self.generation >= self.config.generations:
            return "generations"
        if self.progress.ended and self.generation:  # the first one is always made: there is no run without
            return "callback"
        return "patience" if self.config.patience is not None and self._without >= self.config.patience else None

    def parent(self) -> Child:
        """The present parent, as a child of the problem's."""
        parents = getattr(self._present, "parents", None)
        return Lineage() if parents is None else self.problem.lineages(parents[0])[0]

    def children(self, count: int) -> list[Lineage]:
        """The best children of the last generation; with the gradient searcher, their noise around the new parent."""
        population = self.searcher.population
        if population is None:
            return []
        order = rank(population.access_evals(0).tolist(), self.problem.objective_sense)[:count]
        everyone = self.problem.lineages(population)
        return [everyone[number] for number in order]

    def history(self, changes: int) -> list[dict[str, Any]]:
        """How the parent moved after so many changes, as recipes that JSON can hold."""
        from smd_evo.integrations.evotorch.history import encoded

        return [encoded(change) for change in self.problem.changes_since(changes)]

    def state_dict(self) -> dict[str, Any]:
        """All that the run has become."""
        return {
            "generation": self.generation,
            "sigmas": self._sigmas,
            "start": self.start.as_dict(),
            "searcher": self.searcher.state_dict(),
            "best": self.best,
            "best_score": self._best_score,
            "without": self._without,
            "late": self.late,
            "image_evaluations": self._image_evaluations,
            "calibration": self.calibration,
            "batch_limit": self.problem.evaluator.limit.samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a run of these settings stood: instead of :meth:`begin`.

        Raises:
            WrongParent: the state is of another parent.
            InvalidValue, InvalidType, LookupError, TypeError, ValueError, AttributeError: it is no such state.
        """
        check_state(state, self.space.copied())
        self._make_searcher(state["sigmas"])
        self.searcher.load_state_dict(state["searcher"])
        self.start = Validation(**state["start"])
        self.generation, self.calibration = state["generation"], state["calibration"]
        self._image_evaluations = state["image_evaluations"]
        self.best, self.late = dict(state["best"]), list(state["late"])
        self._best_score, self._without = state["best_score"], state["without"]
        self.problem.evaluator.limit.samples = state["batch_limit"]

    @property
    def _present(self) -> NetworkSearcher:
        """The searcher of the present stage."""
        from smd_evo.integrations.evotorch.staged import Staged

        return self.searcher.searcher if isinstance(self.searcher, Staged) else self.searcher

    def _evaluator(self) -> Evaluator:
        """Of the pre-trained parent on the fitness split."""
        samples = None if self._alone else self.data.fitness
        return Evaluator(self.space, samples, self.fitness, batch_size=self.config.batch_size)

    def _make_searcher(self, sigmas: Sequence[float]) -> None:
        # EvoTorch takes seconds to load: not before all settings have proved right.
        from smd_evo.integrations.evotorch.cluster import start_ray
        from smd_evo.integrations.evotorch.finetune import FinetuneProblem

        config, self._sigmas = self.config, list(sigmas)
        host: dict[str, Any] = {}
        if config.actors > 1:  # EvoTorch takes one actor for none
            start_ray(config.ray_address)
            host = {"num_actors": config.actors, "num_gpus_per_actor": config.gpus_per_actor}
        self.problem = FinetuneProblem(
            self.space if host else self.space.twin(),
            None if self._alone else self.data.fitness,
            self.fitness,
            minibatch_size=None if self._alone else images_at(self._images, 1),
            batch_size=config.batch_size,
            copy=bool(host),
            seed=config.seed,
            **host,
        )
        if not host:
            self.problem.know(self.space)
        self.problem.progress = self.progress.advance
        self.searcher = self._stages.searcher(self.problem, sigmas)
        self._judge = Evaluator(
            self.problem.space,
            None if self._alone else self.data.validation,
            self.fitness,
            batch_size=config.batch_size,
        )

    def _step(self) -> Generation:
        start, before = time.perf_counter(), self.problem.evaluations
        images = images_at(self._images, self.generation + 1)
        if not self._alone:
            self.problem.minibatch_size = images
        self.searcher.step()
        self.generation += 1
        status, evals = self.searcher.status, self._present.population.access_evals(0)
        self._image_evaluations += images * (self.problem.evaluations - before)
        order = rank(evals.tolist(), self.problem.objective_sense)
        due = self.generation % self.config.validate_every == 0 or self.generation == self.config.generations
        return Generation(
            generation=self.generation,
            fitness=float(evals[order[0]]),
            median=float(evals[order[len(order) // 2]]),
            parent=float(status["parent_eval"]),
            sigma=float(status["sigma"]),
            images=images,
            evaluations=self.problem.evaluations,
            image_evaluations=self._image_evaluations,
            forwards=status.get("forwards"),
            nonfinite=int(status["nonfinite"]),
            batch_limit=self.problem.evaluator.limit.samples,
            validation=self._validate() if due else None,
            seconds=time.perf_counter() - start,
        )

    def _validate(self) -> Validation:
        """Look at the present parent, and keep it if it is the best so far."""
        child = self.parent()
        found, score = self._judged(child)
        best = not self.best or score > self._best_score
        late = 0 if isinstance(self.fitness, ModuleFitness) else self.config.late_parents  # nobody votes there
        if best or late:
            with self.problem.space.applied(child):
                values = self.problem.space.copied()
            self.late = [*self.late, values][-late:] if late else []
        if best:
            self.best, self._best_score = values, score
        self._without = 0 if best else self._without + 1
        return replace(found, best=best)

    def _judged(self, child: Child) -> tuple[Validation, float]:
        """A network on validation, and a score of which more is better."""
        fitness, judge = self.fitness, self._judge
        sign = 1 if fitness.sense == "max" else -1
        if isinstance(fitness, ModuleFitness):
            value = float(judge.evaluate([child]).fitness[0])
            return Validation(None, None, False, value), sign * value
        outputs, targets = judge.predict([child])[0], judge.targets()
        if not of_classes(outputs, targets):
            value = fitness.of(outputs, targets)
            return Validation(None, None, False, value), sign * value
        right, loss = (float(each(outputs, targets).mean()) for each in (accuracy, negative_log_likelihood))
        if fitness in (ACCURACY, CROSS_ENTROPY):
            return Validation(right, loss, False), right if fitness == ACCURACY else -loss
        value = fitness.of(finite_logits(outputs, targets), targets)
        return Validation(right, loss, False, value), sign * value
