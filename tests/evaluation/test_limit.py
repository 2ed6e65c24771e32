"""Out of memory: batches are halved until they fit, said once, and the rest is as if they had been so small."""

import random
import warnings
import weakref

import numpy as np
import pytest
import torch
from helpers import CARRIES, SmallNet, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from smd_evo import (
    Evaluator,
    FinetuneProblem,
    Lineage,
    ModuleFitness,
    RandomSubspace,
    SubspaceEvolution,
    sample_mutations,
)
from smd_evo.core.parameters import Child
from smd_evo.errors import OutOfMemory, SmdEvoError
from smd_evo.evaluation.stream import Stream

pytestmark = CARRIES

SHORT = "out of memory with"


def children(count=4) -> list[Child]:
    return [*sample_mutations(0, count, subspace=RandomSubspace(0.2), sigma=0.3), Lineage()]


class Hungry(SmallNet):
    """Has no room for more than some samples at a time, which it notices when it has done half of its work.

    Its outputs depend on random numbers and on how often it was called.
    """

    def __init__(self, room=40):
        super().__init__()
        self.room = room
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.last += 1
        self.last = self.last + self.calls * torch.rand(1)
        noise = self.last + np.random.rand() + random.random()
        if len(x) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nSee documentation")
        return super().forward(x) * noise


def hungry(room=40):
    torch.manual_seed(0)
    return Hungry(room)


def generated(count=40):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, 4, 4, generator=generator), torch.arange(count) % 3


def parts(samples, *sizes):
    """The samples as batches of these sizes, by hand."""
    return list(zip(*(tensor.split(list(sizes)) for tensor in samples), strict=True))


def recorded(call):
    """What a call returns, and what it warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        return call(), [str(warning.message) for warning in caught if SHORT in str(warning.message)]


def fitness(network, data, recipes=None, **options):
    return recorded(lambda: Evaluator(network, data, **options).evaluate(recipes or children()).fitness)[0]


class TestSame:
    """As evaluators have it whose batches are small from the start, also where a network draws random numbers."""

    @pytest.mark.parametrize(("room", "size"), [(39, 20), (20, 20), (10, 10), (9, 5), (1, 1)])
    def test_bits_of_fitness_and_predictions(self, samples, room, size):
        expected = Evaluator(hungry(), samples, batch_size=size)
        for data in (samples, Stream(*samples)):
            evaluator = Evaluator(hungry(room), data, batch_size=40)
            with pytest.warns(RuntimeWarning, match=f"{SHORT} 40 samples a batch; from now on at most {size}: "):
                found = evaluator.evaluate(children())
            assert torch.equal(found.fitness, expected.evaluate(children()).fitness)
            assert torch.equal(evaluator.predict(children()), expected.predict(children()))
            assert evaluator.limit.samples == size

    @given(st.integers(1, 40), st.integers(1, 40))
    def test_any_batch_size_and_room(self, batch_size, room):
        samples, sizes, rest = generated(), [], 40
        limit = batch_size
        while limit > room:
            limit = (limit + 1) // 2
        while rest:
            piece = min(batch_size, rest)
            rest -= piece
            sizes += [min(limit, piece - start) for start in range(0, piece, limit)]
        expected = Evaluator(hungry(), parts(samples, *sizes))
        evaluators = [Evaluator(hungry(room), data, batch_size=batch_size) for data in (samples, Stream(*samples))]
        for found in (recorded(lambda one=one: one.evaluate(children()).fitness)[0] for one in evaluators):
            assert torch.allclose(found, expected.evaluate(children()).fitness, rtol=1e-12)
        for found in (recorded(lambda one=one: one.predict(children()))[0] for one in evaluators):
            assert torch.equal(found, expected.predict(children()))

    def test_several_inputs_by_position_and_by_name(self, samples):
        class Two(nn.Module):
            room = 40

            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(16, 3)

            def forward(self, x, shift):
                if len(x) > self.room:
                    raise torch.OutOfMemoryError("no more")
                return self.layer(x.flatten(1)) + shift

        network, shift = Two(), torch.randn(40, 3)
        expected = fitness(network, ((samples[0], shift), samples[1]), batch_size=10)
        network.room = 10
        for inputs in ((samples[0], shift), {"shift": shift, "x": samples[0]}):
            assert torch.equal(fitness(network, (inputs, samples[1])), expected)

    def test_a_child_that_did_not_fit_is_done_again_from_its_start_and_those_before_stay(self, samples):
        """Another program takes memory while the third child is at its second batch."""
        large, small = (fitness(hungry(), samples, batch_size=size) for size in (20, 10))
        network, calls = hungry(), []

        def taking(module, inputs):
            calls.extend([1] * (len(inputs[0]) > 8))  # beyond the few samples that a network is first tried with
            module.room = 10 if len(calls) >= 6 else 40

        network.register_forward_pre_hook(taking)
        found = fitness(network, samples, batch_size=20)
        assert found.tolist() == [*large[:2].tolist(), *small[2:].tolist()]
        assert bool((large != small).all())

    def test_a_later_turn_on_a_stream_finds_what_the_one_before_left(self, samples):
        network, calls = hungry(), []

        def taking(module, inputs):
            calls.extend([1] * (len(inputs[0]) > 8))  # beyond the few samples that a network is first tried with
            module.room = 10 if len(calls) >= 8 else 40

        network.register_forward_pre_hook(taking)
        found = fitness(network, Stream(*samples), batch_size=20)  # the third of five children, on the second of two
        whole, halved = (fitness(hungry(), parts(samples, *sizes)) for sizes in ((20, 20), (20, 10, 10)))
        assert found.tolist() == [*whole[:2].tolist(), *halved[2:].tolist()]


class TestSaidOnce:
    def test_over_generations_of_minibatches_other_data_and_predictions(self, samples):
        evaluator = Evaluator(hungry(10), samples)

        def use():
            for start in range(4):
                evaluator.on_samples(torch.arange(start, 40, 2)).evaluate(children())
            evaluator.on((samples[0].flip(3), samples[1]), "accuracy").evaluate(children())
            evaluator.evaluate(children())
            list(evaluator.outputs(children()))

        _, said = recorded(use)
        assert len(said) == 1
        assert f"{SHORT} 20 samples a batch; from now on at most 10" in said[0]
        assert "fitness may differ" in said[0]
        assert "\n" not in said[0]

    @pytest.mark.parametrize("of_stream", [False, True])
    def test_what_one_evaluator_found_all_of_the_same_parent_know(self, samples, of_stream):
        network, failures = hungry(10), []
        network.register_forward_pre_hook(lambda module, args: failures.extend([1] * (len(args[0]) > module.room)))
        evaluator = Evaluator(network, Stream(*samples) if of_stream else samples)
        part, other = evaluator.on_samples(torch.arange(30)), evaluator.on(samples)
        recorded(lambda: part.on(samples).evaluate(children()))
        assert len(failures) == 2
        for one in (evaluator, part, other):
            one.evaluate(children())
        assert len(failures) == 2
        assert Evaluator(network, samples).limit.samples is None

    def test_and_again_where_there_is_still_less_room(self, samples):
        network = hungry(20)
        evaluator = Evaluator(network, samples)
        for network.room, size in ((20, 20), (20, None), (7, 5), (40, None)):
            said = recorded(lambda: evaluator.evaluate(children()))[1]
            assert [f"at most {size}: " in message for message in said] == ([] if size is None else [True])

    def test_not_where_everything_fits(self, samples):
        evaluator = Evaluator(hungry(), samples)
        evaluator.evaluate(children())  # a warning would be an error here
        assert evaluator.limit.samples is None

    @pytest.mark.parametrize("of_stream", [False, True])
    @pytest.mark.parametrize("batch_size", [40, 15])
    def test_progress_is_told_of_each_child(self, samples, of_stream, batch_size):
        evaluator = Evaluator(hungry(4), Stream(*samples) if of_stream else samples, batch_size=batch_size)
        calls: list[int] = []
        recorded(lambda: evaluator.evaluate(children(), lambda: calls.append(1)))
        assert len(calls) == 5

    def test_memory_of_the_failed_pass_is_free_when_it_is_tried_again(self, samples):
        left: list[weakref.ref[torch.Tensor]] = []

        class Large(SmallNet):
            def forward(self, x):
                assert all(activation() is None for activation in left)
                activation = x * 2
                if len(x) > 8:  # beyond the few samples that a network is first tried with
                    left.append(weakref.ref(activation))
                if len(x) > 10:
                    raise torch.OutOfMemoryError("no more")
                return super().forward(activation)

        fitness(Large(), samples)
        assert len(left) == 2 + 5 * 4


class TestTooLittle:
    def everything(self, module):
        bits = {name: tensor.tolist() for name, tensor in state_bits(module).items()}
        return bits, torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    def test_for_one_sample_is_an_error_of_one_line_and_leaves_no_trace(self, samples):
        network = hungry(0)
        before = self.everything(network)
        for data in (samples, Stream(*samples)):
            evaluator = Evaluator(network, data)
            for use in (evaluator.evaluate, evaluator.predict):
                with pytest.raises(
                    OutOfMemory, match=r"room for one sample, got CUDA .* 9 GiB\.; free some"
                ) as caught:
                    use(children())
                assert isinstance(caught.value, SmdEvoError)
                assert isinstance(caught.value, MemoryError)
                assert "\n" not in str(caught.value)
                assert caught.value.__context__ is None  # whose traceback would keep what the network had made
                assert self.everything(network) == before
                assert evaluator.space.depth == 0
                assert evaluator.limit.samples is None  # whoever frees memory has the large batches again

    def test_and_none_after_halving(self, samples):
        network = hungry(10)
        before = self.everything(network)
        evaluator = Evaluator(network, samples)
        recorded(lambda: evaluator.evaluate(children()))
        recorded(lambda: evaluator.predict(children()))
        assert self.everything(network) == before

    def test_for_a_fitness_of_the_network_itself_is_its_own_error(self):
        def failing(module):
            raise torch.OutOfMemoryError("of its own")

        evaluator = Evaluator(hungry(), fitness=ModuleFitness("failing", "min", failing))
        evaluator.limit.samples = 10
        with pytest.raises(torch.OutOfMemoryError, match="of its own"):
            evaluator.evaluate(children())


def test_a_run_of_several_generations_goes_on(samples):
    def run(room, batch_size):
        options = {"seed": 1, "minibatch_size": 20, "batch_size": batch_size}
        problem = FinetuneProblem(hungry(room), samples, **options)
        searcher = SubspaceEvolution(problem, popsize=6, density=0.2, sigma=0.3)
        history = []
        for _ in range(4):
            searcher.run(1, reset_first_step_datetime=False)
            history.append(searcher.population.evals.flatten().tolist())
        return history, state_bits(problem.make_net(searcher.status["best"]))

    (expected, bits), silent = recorded(lambda: run(40, 5))
    (found, same), said = recorded(lambda: run(5, "auto"))
    assert (len(silent), len(said)) == (0, 1)
    assert found == expected
    assert same_bits(bits, same)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    """Each sample makes 32 MiB, and there is room for some of them."""

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(16, 3)

        def forward(self, x):
            return self.layer(x.repeat_interleave(2**19, 0).view(len(x), -1, 16).mean(1))

    torch.manual_seed(0)
    network = Wide().cuda()
    samples = torch.randn(64, 16, device="cuda"), torch.arange(64, device="cuda") % 3
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**30) / total)
    try:
        evaluator = Evaluator(network, samples)
        found, said = recorded(lambda: evaluator.evaluate(children()).fitness)
        again, silent = recorded(lambda: evaluator.evaluate(children()).fitness)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert (len(said), len(silent)) == (1, 0)
    assert evaluator.limit.samples in (8, 16, 32)
    assert torch.equal(found, again)
    assert torch.equal(
        found, Evaluator(network, samples, batch_size=evaluator.limit.samples).evaluate(children()).fitness
    )
