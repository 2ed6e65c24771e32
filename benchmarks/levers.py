"""What might make an evolution strategy on a pre-trained network faster: each lever alone, as a method.

    cd benchmarks; smd-evo compare --methods levers:Partition,levers:Neurons,... [as for any comparison]

Each is one change of OpenAI-ES, of norm-bias-es or of smd as smd_evo has them, with the same budget.
"""

from dataclasses import dataclass

import torch

from smd_evo.core.delta import SparseValues
from smd_evo.core.mutation import Lineage, sample_mutations
from smd_evo.core.structured import NeuronSubspace
from smd_evo.core.subspace import Dense, PartitionSubspace, RandomSubspace, Subspace
from smd_evo.evaluation.evaluator import Evaluator
from smd_evo.evaluation.fitness import rank
from smd_evo.experiments.compare.methods.base import Method, voted
from smd_evo.experiments.compare.methods.strategies import GradientES, NormBiasES, OpenAIESMethod
from smd_evo.integrations.evotorch.strategies import GradientStep, SubspaceES


class Lever(GradientES):
    """OpenAI-ES but for one thing."""

    grid = OpenAIESMethod.grid


class Relative(Lever):
    about = "OpenAI-ES, sigma and step relative to each tensor's standard deviation"
    scale = "relative"


class NormBiasRelative(NormBiasES):
    about = "norm-bias-es, sigma and step relative to each tensor's standard deviation"
    scale = "relative"


class Neurons(Lever):
    about = "a tenth of the neurons for each pair of children"

    def subspace(self, space):
        return NeuronSubspace(0.1)


class Partition(Lever):
    about = "a tenth of the coordinates for each pair of children; ten pairs are one decomposition"

    def subspace(self, space):
        return PartitionSubspace(10)


@dataclass(frozen=True, eq=False)
class Chosen(Subspace):
    """These coordinates, always."""

    name = "chosen"
    chosen: torch.Tensor
    static: bool = True

    @property
    def spec(self):
        return f"{self.name}:{id(self.chosen)}"

    def _chosen(self, draw, layout, device):
        return self.chosen.clone()


def everything(space):
    return space.values_at(torch.arange(space.size))


def in_units(space):
    """Magnitudes in units of each tensor's standard deviation."""
    return everything(space).abs() / space.layout.scales(torch.arange(space.size))


class Smallest(Lever):
    about = "only the tenth of the coordinates of smallest magnitude, in units of their tensor (Sparse MeZO)"

    def subspace(self, space):
        return Chosen(in_units(space).topk(space.size // 10, largest=False).indices)


class Largest(Lever):
    about = "only the tenth of the coordinates of largest magnitude, in units of their tensor"

    def subspace(self, space):
        return Chosen(in_units(space).topk(space.size // 10).indices)


class Sensitive(Lever):
    about = "a quarter of the budget dense; then only the tenth of the coordinates that have moved farthest"

    def __init__(self, task, sigma, rate):
        super().__init__(task, sigma, rate)
        self.before, self.done, self.until = everything(self.problem.space), 0, task.budget // 4
        self.sigma, self.rate, self.popsize = sigma, rate, task.children

    def step(self):
        if self.done >= self.until and self.before is not None:
            moved = (everything(self.problem.space) - self.before).abs()
            subspace = Chosen(moved.topk(len(moved) // 10).indices)
            dense = self.task.strength(Dense())
            self.searcher = SubspaceES(
                self.problem,
                popsize=self.popsize,
                subspace=subspace,
                sigma=self.sigma * dense.sigma * 10**0.5,
                center_learning_rate=self.rate * dense.norm,
            )
            self.before = None
        self.done += self.cost
        super().step()


@dataclass(frozen=True, eq=False)
class OneSidedStep(GradientStep):
    def mutations(self):
        return sample_mutations(
            self.key,
            len(self.weights),
            subspace=self.subspace,
            sigma=self.sigma,
            generation=self.generation,
            scale=self.scale,
        )


class OneSidedES(SubspaceES):
    def _mutated(self, parents, antithetic=False):
        return super()._mutated(parents)


class OneSided(Lever):
    about = "OpenAI-ES without antithetic pairs"

    def __init__(self, task, sigma, rate):
        super().__init__(task, sigma, rate)
        strength = task.strength(Dense())
        self.searcher = OneSidedES(
            self.problem,
            popsize=task.children,
            subspace=Dense(),
            sigma=sigma * strength.sigma,
            center_learning_rate=rate * strength.norm,
        )
        change = self.problem.change
        self.problem.change = lambda step: change(OneSidedStep(**vars(step)))


class Averaged(Lever):
    about = "OpenAI-ES, whose result is a running mean of the parents, over the last five or so"
    share = 0.2

    def __init__(self, task, sigma, rate):
        super().__init__(task, sigma, rate)
        self.mean = everything(self.problem.space)

    def step(self):
        super().step()
        self.mean = self.mean.lerp(everything(self.problem.space), self.share)

    def predict(self, data):
        child = SparseValues(torch.arange(len(self.mean)), self.mean)
        return self.problem.evaluator.on(data).predict([child])[0]


class NormBiasAveraged(Averaged, NormBiasES):
    about = "norm-bias-es, whose result is a running mean of the parents, over the last five or so"


class Reused(Lever):
    about = "OpenAI-ES, each minibatch for three generations"

    def step(self):
        self.problem._number = self.searcher.step_count // 3
        super().step()


class NormBiasReused(Reused, NormBiasES):
    about = "norm-bias-es, each minibatch for three generations"


class Voted(Lever):
    about = "OpenAI-ES, around whose result the noise of the last generation's ten best children votes"

    def predict(self, data):
        population = self.searcher.population
        if population is None:
            return super().predict(data)
        order = rank(population.access_evals(0).tolist(), self.problem.objective_sense)[:10]
        everyone = self.problem.lineages(population)
        return voted(self.problem.evaluator.on(data), [everyone[number] for number in order])


class NormBiasVoted(Voted, NormBiasES):
    about = "norm-bias-es, around whose result the noise of the last generation's ten best children votes"


class NormBiasSurrounded(NormBiasES):
    about = "norm-bias-es, around whose result ten sparse mutations of all parameters vote, chosen by nobody"

    def predict(self, data):
        rule = RandomSubspace(0.1)
        sigma = 2 * self.task.strength(rule).sigma
        children = sample_mutations(self.task.key, 10, subspace=rule, sigma=sigma, antithetic=True)
        return voted(Evaluator(self.problem.make_net(), data), children)


class Racing(Method):
    """Successive halving: a third of the budget for each of three rounds, a quarter of the children in each next."""

    about = "smd, but children that are poor on few images see no more of them"
    grid = ({"density": 0.1, "sigma": 1.0}, {"density": 0.1, "sigma": 2.0}, {"density": 0.01, "sigma": 1.0})
    keep = 4

    def __init__(self, task, density, sigma):
        self.task, self.parent = task, task.parent
        rule, self.images = RandomSubspace(density), max(1, task.minibatch_size // 3)
        self.waiting = sample_mutations(
            task.key,
            max(16, task.budget // (3 * self.images)),
            subspace=rule,
            sigma=sigma * task.strength(rule).sigma,
        )
        self.found, self.best = [], [Lineage()]

    @property
    def cost(self):
        return self.images * min(
            len(self.waiting), max(1, self.task.children * self.task.minibatch_size // self.images)
        )

    def step(self):
        count = self.cost // self.images
        own, self.waiting = self.waiting[:count], self.waiting[count:]
        evaluation = self.task.minibatch(0, self.images).evaluate(own)
        self.found += zip(own, evaluation.fitness.tolist(), strict=True)
        if not self.waiting:  # the next round; each minibatch of one number begins with the same images
            order = rank([fitness for _, fitness in self.found], evaluation.sense)
            self.best = [self.found[order[0]][0]]
            self.waiting = [self.found[number][0] for number in order[: max(1, len(order) // self.keep)]]
            self.images, self.found = min(self.images * self.keep, self.parent.samples), []

    def predict(self, data):
        return voted(self.parent.on(data), self.best)


LEVERS = [
    f"{__name__}:{name}"
    for name, kind in list(globals().items())
    if isinstance(kind, type) and issubclass(kind, Method) and kind.__module__ == __name__ and kind is not Lever
]
