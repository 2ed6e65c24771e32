"""A stream is the same samples as in memory: the same bits, one pass over the data for all children, no trace."""

import copy
import gc
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers import CARRIES, SmallNet, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from smd_evo import (
    BatchFitness,
    Evaluator,
    Lineage,
    ModuleFitness,
    RandomSubspace,
    ToolboxEvaluator,
    sample_mutations,
)
from smd_evo.core.parameters import Child
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation import evaluator as module
from smd_evo.evaluation import reader
from smd_evo.evaluation.fitness import CROSS_ENTROPY
from smd_evo.evaluation.stream import Stream

pytestmark = CARRIES

NUMBERS = torch.tensor([31, 4, 17, 0, 39, 22, 23, 9])
SOME_WORKERS = pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a single core


def children(count=6, sigma=0.3) -> list[Child]:
    return [*sample_mutations(0, count, subspace=RandomSubspace(0.2), sigma=sigma), Lineage()]


class Images(Dataset):
    """Images that count how often they are read, and may fail."""

    def __init__(self, images, fails=None, error=RuntimeError):
        self.images, self.reads, self.fails, self.error = images, [], fails, error

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        self.reads.append(number)
        if number == self.fails:
            raise self.error(f"image {number} is broken; mend it")
        return self.images[number]


class Restless(SmallNet):
    """Remembers its calls in buffers and draws random numbers, and its outputs depend on all of them."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.last = self.last + x.mean().reshape(1)
        return super().forward(x) + torch.randn(3) * self.last + np.random.rand() + random.random() + self.calls


class OfPixels(SmallNet):
    """Takes pixels, which it scales itself."""

    def __init__(self):
        super().__init__()
        self.register_forward_pre_hook(lambda module, inputs: (inputs[0].float() / 255 - 0.5,))


@pytest.fixture
def images(samples):
    return Images(samples[0])


@pytest.fixture
def stream(images, samples):
    return Stream(images, samples[1])


@pytest.fixture
def workers():
    """The processes that this test has started and that are still there."""
    gc.collect()  # other tests' tracebacks
    before = set(multiprocessing.active_children())
    return lambda: set(multiprocessing.active_children()) - before


def agree(stream, memory, some=None):
    """Two evaluators say the same, bit for bit."""
    some = children() if some is None else some
    assert torch.equal(stream.evaluate(some).fitness, memory.evaluate(some).fitness)
    expected = memory.predict(some)
    assert torch.equal(stream.predict(some), expected)
    assert torch.equal(torch.stack(list(stream.outputs(some))), expected)
    assert torch.equal(torch.stack(list(stream.outputs(iter(some)))), expected)
    assert torch.equal(stream.targets(), memory.targets())
    assert stream.samples == memory.samples


class TestSameAsMemory:
    @pytest.mark.parametrize("fitness", ["cross_entropy", "accuracy"])
    @pytest.mark.parametrize("batch_size", [1, 7, 8, 40, 99, "auto"])
    def test_for_any_batch_size(self, network, samples, stream, batch_size, fitness):
        streamed, memory = (Evaluator(network, data, fitness, batch_size=batch_size) for data in (stream, samples))
        agree(streamed, memory)

    @given(st.integers(1, 45), st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True))
    def test_on_samples(self, batch_size, numbers):
        torch.manual_seed(0)
        network, samples = SmallNet(), (torch.randn(40, 1, 4, 4), torch.arange(40) % 3)
        both = [Evaluator(network, data, batch_size=batch_size) for data in (Stream(*samples), samples)]
        parts = [evaluator.on_samples(torch.tensor(numbers)) for evaluator in both]
        agree(*parts, children(1))
        agree(*(part.on_samples(torch.arange(0, len(numbers), 2)) for part in parts), children(1))

    @pytest.mark.parametrize("batch_size", [1, 7, 40])
    def test_a_network_that_draws_and_remembers(self, samples, stream, batch_size):
        torch.manual_seed(0)
        network = Restless()
        agree(*(Evaluator(network, data, batch_size=batch_size) for data in (stream, samples)))

    def test_all_kinds_of_children(self, network, samples, stream):
        both = [Evaluator(network, data, batch_size=7) for data in (stream, samples)]
        space, (first, second, *_) = both[0].space, children()
        agree(*both, [first.delta(space.layout), space.values_of(second), Lineage((first, second)), first])

    def test_pixels(self, samples):
        torch.manual_seed(0)
        pixels = torch.randint(256, (40, 1, 4, 4), dtype=torch.uint8)
        network, targets = OfPixels(), samples[1]
        agree(*(Evaluator(network, data, batch_size=7) for data in (Stream(pixels, targets), (pixels, targets))))
        scaled = copy.deepcopy(network)
        scaled._forward_pre_hooks.clear()
        floats = Evaluator(scaled, (pixels.float() / 255 - 0.5, targets), batch_size=7)
        agree(Evaluator(network, Stream(pixels, targets), batch_size=7), floats)

    def test_another_fitness_of_targets_that_are_no_classes(self, network, samples):
        images, targets = samples[0], torch.randn(40, 3)
        error = BatchFitness("error", "min", lambda out, target: (out - target).square())
        both = [Evaluator(network, d, error, batch_size=7) for d in (Stream(images, targets), (images, targets))]
        agree(*both)

    def test_fitness_that_is_not_finite(self, network, samples, stream):
        some = [*children(2), *sample_mutations(1, 2, subspace=RandomSubspace(0.2), sigma=1e38)]
        results = [Evaluator(network, data, batch_size=7).evaluate(some) for data in (stream, samples)]
        assert torch.equal(results[0].fitness, results[1].fitness)
        assert results[0].nonfinite == results[1].nonfinite == 2

    def test_on_other_data(self, network, samples, stream):
        evaluator = Evaluator(network, (samples[0][:3], samples[1][:3]), batch_size=7)
        agree(evaluator.on(stream), evaluator.on(samples))
        agree(evaluator.on(stream).on((samples[0][:3], samples[1][:3])), evaluator)

    def test_on_a_device(self, network, samples, devices):
        for device in devices:
            agree(*(Evaluator(network, d, batch_size=7, device=device) for d in (Stream(*samples, 1), samples)))
            moved = Evaluator(copy.deepcopy(network), Stream(*samples), batch_size=7)
            moved.to(device)
            agree(moved, Evaluator(network, samples, batch_size=7, device=device))

    def test_in_a_problem_and_a_toolbox(self, network, samples, stream):
        from smd_evo import FinetuneProblem

        fitness = []
        for data in (stream, samples):
            problem = FinetuneProblem(network, data, seed=1, batch_size=7, minibatch_size=20)
            batch = problem.mutate(problem.generate_batch(4), key=3, subspace=RandomSubspace(0.2), sigma=0.3)
            problem.evaluate(batch)
            toolbox = ToolboxEvaluator(network, data, batch_size=7)
            fitness.append((batch.evals[:, 0].tolist(), toolbox.evaluate_all([toolbox.lineage(), toolbox.dense()])))
        assert fitness[0] == fitness[1]
        assert len(set(fitness[0][0])) == 4


class TestDerived:
    def test_taken_and_mapped(self, network, samples, stream):
        images, targets = samples
        evaluator = Evaluator(network, samples, batch_size=3)
        changed = stream.take(NUMBERS).mapped(lambda batch: batch.flip(3)).mapped(lambda batch: batch + 1)
        expected = images[NUMBERS].flip(3) + 1, targets[NUMBERS]
        agree(evaluator.on(changed), evaluator.on(expected))
        part = torch.tensor([5, 2])
        agree(evaluator.on(changed.take(part)), evaluator.on((expected[0][part], expected[1][part])))
        assert (len(changed), len(stream)) == (8, 40)
        agree(evaluator.on(stream), evaluator)

    def test_to_several_inputs(self, samples):
        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(16, 3)

            def forward(self, x, shift):
                return self.layer(x.flatten(1)) + shift

        network, (images, targets) = Two(), samples
        for function in (
            lambda batch: (batch, batch.mean((1, 2, 3))[:, None]),
            lambda batch: {"shift": batch[:, 0, 0, :3], "x": batch},
        ):
            both = Stream(images, targets).mapped(function), (function(images), targets)
            agree(*(Evaluator(network, data, batch_size=40) for data in both))

    def test_a_function_gets_batches_on_the_networks_device_each_time(self, network, stream, devices):
        for device in devices:
            seen = []
            noted = stream.mapped(lambda batch, seen=seen: seen.append((len(batch), batch.device.type)) or batch)
            Evaluator(network, noted, batch_size=16, device=device).evaluate(children())
            assert seen == [(size, device.type) for size in (16, 16, 8)]


class TestReads:
    def test_a_generation_is_one_pass(self, network, images, stream):
        evaluator = Evaluator(network, stream, batch_size=7)
        assert images.reads == []
        for run in (1, 2):
            evaluator.evaluate(children(20))
            assert images.reads == [*range(40)] * run
        evaluator.predict(children(20))
        assert images.reads == [*range(40)] * 3

    def test_of_a_minibatch_only_what_is_in_it(self, network, images, stream):
        part = Evaluator(network, stream, batch_size=3).on_samples(NUMBERS)
        part.evaluate(children())
        assert images.reads == sorted(NUMBERS.tolist())

    def test_nothing_where_nothing_is_evaluated(self, network, images, stream):
        evaluator = Evaluator(network, stream, batch_size=7)
        assert evaluator.targets().shape == (evaluator.samples,) == (40,)
        assert evaluator.evaluate([]).fitness.shape == (0,)
        assert list(evaluator.outputs([])) == []
        evaluator.on(stream, ModuleFitness("one", "max", lambda module: 1.0)).evaluate(children())
        with pytest.raises(InvalidValue, match="children: expected at least one"):
            evaluator.predict([])
        assert images.reads == []

    def test_the_first_sample_tells_how_many_make_a_batch(self, network, images, stream):
        evaluator = Evaluator(network, stream)
        assert images.reads == [0]
        evaluator.evaluate(children())
        assert images.reads == [0, *range(40)]

    @pytest.mark.parametrize(("room", "passes"), [(2**30, 1), (4 * 480, 2), (480, 7), (1, 7)])
    def test_outputs_take_as_many_passes_as_their_room_asks_for(
        self, network, samples, images, stream, monkeypatch, room, passes
    ):
        """40 samples of 3 classes are 480 bytes a child; a first batch tells."""
        monkeypatch.setattr(module, "_TOGETHER_ON_A_STREAM", (256, room))
        expected = Evaluator(network, samples, batch_size=7).predict(children())
        outputs = Evaluator(network, stream, batch_size=7).outputs(children())
        assert torch.equal(torch.stack(list(outputs)), expected)
        assert images.reads == [*range(7), *[*range(40)] * passes]

    def test_progress_gets_on_while_the_data_are_read(self, network, images, stream):
        reads = []
        Evaluator(network, stream, batch_size=7).evaluate(children(8), lambda: reads.append(len(images.reads)))
        assert reads == [7, 14, 14, 21, 28, 28, 35, 40, 40]  # six batches, nine children


class TestNoTrace:
    @pytest.fixture
    def restless(self):
        torch.manual_seed(0)
        network = Restless().train()
        network.bn.eval()
        return network

    def everything(self, network):
        return (
            {name: bits.tolist() for name, bits in state_bits(network).items()},
            [part.training for part in network.modules()],
            [id(tensor) for tensor in (*network.parameters(), *network.buffers())],
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
        )

    def test_after_evaluating_and_predicting(self, restless, samples):
        def drawn(batch):
            return batch + 0 * (torch.rand(()) + random.random() + np.random.rand())

        evaluator = Evaluator(restless, Stream(*samples).mapped(drawn), batch_size=7)
        before = self.everything(restless)
        evaluator.evaluate(children())
        evaluator.on_samples(NUMBERS).predict(children(2))
        for _ in evaluator.outputs(children(2)):
            assert self.everything(restless) == before
        assert self.everything(restless) == before

    @pytest.mark.parametrize("error", [RuntimeError, InvalidValue, KeyboardInterrupt, SystemExit])
    @pytest.mark.parametrize("fails", [0, 17, 39])
    def test_after_an_image_that_cannot_be_read(self, restless, samples, error, fails):
        images = Images(samples[0], fails, error)
        evaluator, before = Evaluator(restless, Stream(images, samples[1]), batch_size=7), self.everything(restless)
        for use in (evaluator.evaluate, evaluator.predict, lambda some: list(evaluator.outputs(some))):
            with pytest.raises(error, match=f"image {fails} is broken; mend it"):
                use(children())
            assert self.everything(restless) == before
            assert evaluator.space.depth == 0
        images.fails = None
        agree(evaluator, Evaluator(restless, samples, batch_size=7))

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
    def test_after_a_child_that_fails_on_the_second_batch(self, restless, stream, samples, error):
        calls: list[int] = []

        def failing(out, target):
            calls.append(1)
            if len(calls) == 10:
                raise error("stop")
            return CROSS_ENTROPY.score(out, target)

        evaluator = Evaluator(restless, stream, BatchFitness("failing", "min", failing), batch_size=7)
        before = self.everything(restless)
        with pytest.raises(error):
            evaluator.evaluate(children())
        assert self.everything(restless) == before
        agree(evaluator.on(stream, "accuracy"), evaluator.on(samples, "accuracy"))

    def test_making_an_evaluator_draws_nothing(self, restless, stream, samples):
        before = self.everything(restless)
        for data in (stream, TensorDataset(*samples)):
            Evaluator(restless, data)
            assert self.everything(restless) == before

    def test_what_the_data_set_keeps_can_be_trained_on(self, network, samples):
        class Cached(Images):
            def __getitem__(self, number):
                self.kept = super().__getitem__(number) * 2
                return self.kept

        images, mapped = Cached(samples[0]), []
        stream = Stream(images, samples[1]).mapped(lambda batch: mapped.append(batch * 2) or mapped[-1])
        Evaluator(network, stream, batch_size=7).evaluate(children())
        for kept in (images.kept[None], mapped[0]):
            assert not kept.is_inference()
            network.train()(kept).sum().backward()


class TestReadings:
    """Of one stream, several at a time, or left half way."""

    @SOME_WORKERS
    @pytest.mark.parametrize("count", [0, 2])
    def test_side_by_side_and_dropped(self, samples, workers, count):
        stream = Stream(*samples, count)
        expected, state = [samples[0][start : start + 4] for start in range(0, 40, 4)], torch.get_rng_state()
        for one, other, own in zip(stream.batches(4), stream.batches(4), expected, strict=True):
            assert torch.equal(one.inputs, own)
            assert torch.equal(other.inputs, own)
        left = iter(stream.batches(4))
        next(left)
        left.close()
        assert [batch.inputs.tolist() for batch in stream.batches(4)] == [own.tolist() for own in expected]
        assert torch.equal(torch.get_rng_state(), state)
        del stream, left
        assert not workers()

    def test_inside_an_evaluation(self, network, stream, samples):
        evaluator, memory = (Evaluator(network, data, batch_size=7) for data in (stream, samples))
        inside = []
        outer = evaluator.evaluate(
            children(2), lambda: inside.append(evaluator.on_samples(NUMBERS).predict(children(1)))
        )
        assert torch.equal(outer.fitness, memory.evaluate(children(2)).fitness)
        assert len(inside) == 3


@SOME_WORKERS
class TestWorkers:
    def test_the_same_bits_from_the_same_processes(self, network, samples, workers):
        stream = Stream(Images(samples[0]), samples[1], workers=2)
        both = [Evaluator(network, data, batch_size=7) for data in (stream, samples)]
        assert not workers()
        state = torch.get_rng_state()
        agree(*both)
        assert torch.equal(torch.get_rng_state(), state)
        first = workers()
        assert len(first) == 2
        agree(*(evaluator.on_samples(NUMBERS) for evaluator in both))
        agree(both[0].on(stream.take(NUMBERS)), both[1].on((samples[0][NUMBERS], samples[1][NUMBERS])))
        assert workers() == first
        del both, stream
        assert not workers()

    def test_an_error_is_the_packages_own_in_one_line_and_ends_them(self, network, samples, workers):
        stream = Stream(Images(samples[0], 17, InvalidValue), samples[1], workers=2)
        evaluator, before = Evaluator(network, stream, batch_size=7), state_bits(network)
        with pytest.raises(InvalidValue) as caught:
            evaluator.evaluate(children())
        assert str(caught.value) == "image 17 is broken; mend it"
        assert not workers()
        assert same_bits(state_bits(network), before)
        part = torch.tensor([1, 2, 3])
        agree(evaluator.on_samples(part), Evaluator(network, samples, batch_size=7).on_samples(part))

    def test_other_errors_come_with_the_workers_traceback(self, network, samples, workers):
        stream = Stream(Images(samples[0], 17, OSError), samples[1], workers=2)
        with pytest.raises(OSError, match="image 17 is broken; mend it"):
            Evaluator(network, stream, batch_size=7).evaluate(children())
        assert not workers()

    def test_an_interrupt_while_they_start_waits_for_them(self, network, samples, workers, monkeypatch):
        class Interrupted(DataLoader):
            def __iter__(self):
                signal.raise_signal(signal.SIGINT)
                iterator = super().__iter__()
                started.append(len(workers()))
                return iterator

        started, handler = [], signal.getsignal(signal.SIGINT)
        evaluator, before = Evaluator(network, Stream(*samples, workers=2), batch_size=7), state_bits(network)
        with monkeypatch.context() as patched:
            patched.setattr(reader, "DataLoader", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                evaluator.evaluate(children())
        assert started == [2]
        assert not workers()
        assert signal.getsignal(signal.SIGINT) is handler
        assert same_bits(state_bits(network), before)
        agree(evaluator, Evaluator(network, samples, batch_size=7), children(1))

    def test_a_copy_by_pickle_starts_its_own(self, network, samples, workers):
        evaluator = Evaluator(network, Stream(Images(samples[0]), samples[1], workers=1), batch_size=7)
        evaluator.evaluate(children(1))
        for copied in (lambda: pickle.loads(pickle.dumps(evaluator)), lambda: copy.deepcopy(evaluator)):
            other = copied()
            assert len(workers()) == 1
            agree(other, evaluator, children(1))
            assert len(workers()) == 2
            del other

    def test_a_forked_process_leaves_its_parents_alone(self, network, samples, workers):
        """A daemon, as in a pool, may have no workers at all: it reads by itself."""
        evaluator = Evaluator(network, Stream(Images(samples[0]), samples[1], workers=1), batch_size=7)
        expected = evaluator.evaluate(children()).fitness.tolist()
        (worker,) = workers()
        context = multiprocessing.get_context("fork")
        for daemon in (True, False):
            results = context.SimpleQueue()

            def work(results=results):
                results.put(evaluator.evaluate(children()).fitness.tolist())
                with pytest.raises(InvalidType):  # which ends the workers of the reading process
                    evaluator.evaluate(["no child"])

            process = context.Process(target=work, daemon=daemon)
            process.start()
            process.join()
            assert process.exitcode == 0
            assert results.get() == expected
            assert evaluator.evaluate(children()).fitness.tolist() == expected
            assert workers() == {worker}

    def test_a_cycle_that_is_collected_ends_them_at_once(self, network, samples, workers):
        stream = Stream(*samples, workers=1)
        cycle = [Evaluator(network, stream, batch_size=7)]
        cycle[0].evaluate(children(1))
        cycle.append(cycle)
        assert len(workers()) == 1
        start = time.monotonic()
        del cycle, stream
        gc.collect()
        assert not workers()
        assert time.monotonic() - start < 4  # torch waits for 5 seconds where their queue is gone

    def test_the_end_of_the_program_is_quiet(self):
        code = """
            import torch
            from torch import nn
            from smd_evo import Evaluator, Lineage
            from smd_evo.evaluation.stream import Stream
            stream = Stream(torch.eye(4), torch.arange(4), workers=1)
            evaluator = Evaluator(nn.Linear(4, 4), stream, batch_size=2)
            evaluator.evaluate([Lineage()])
            half = iter(stream.batches(1))
            next(half)
        """
        command = [sys.executable, "-W", "error", "-c", "\n".join(line.strip() for line in code.splitlines())]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
        assert (done.stdout, done.stderr) == ("", "")


class TestBadInput:
    def test_what_is_no_stream(self, samples):
        class Endless(IterableDataset):
            def __iter__(self):
                return iter(samples[0])

        for inputs in (Endless(), iter(samples[0]), 7, None):
            with pytest.raises(InvalidType, match="inputs: expected a map-style Dataset with a length, got"):
                Stream(inputs, samples[1])
        with pytest.raises(InvalidType, match=r"targets: expected a tensor, got list; use torch\.as_tensor"):
            Stream(samples[0], samples[1].tolist())
        with pytest.raises(InvalidValue, match="data: expected as many targets as inputs, got 39 and 40"):
            Stream(samples[0], samples[1][1:])
        with pytest.raises(InvalidValue, match="workers: expected a whole number >= 0, got -1"):
            Stream(*samples, workers=-1)

    def test_no_samples(self, network, stream):
        with pytest.raises(InvalidValue, match="data: expected at least one sample, got none"):
            Evaluator(network, stream.take(torch.arange(0)))

    @pytest.mark.parametrize("numbers", [[40], [3, -1]])
    def test_numbers(self, stream, numbers):
        with pytest.raises(InvalidValue, match=r"numbers: expected them in \[0, 40\), got"):
            stream.take(torch.tensor(numbers))

    @pytest.mark.parametrize("numbers", [[], [0, 40], [-1, 3], [3, 3]])
    def test_numbers_of_a_minibatch(self, network, stream, numbers):
        with pytest.raises(InvalidValue, match=r"numbers: expected at least one, distinct and in \[0, 40\), got"):
            Evaluator(network, stream).on_samples(torch.tensor(numbers, dtype=torch.int64))

    @pytest.mark.parametrize("batch_size", [7, "auto"])
    def test_samples_with_their_targets(self, network, samples, batch_size):
        with pytest.raises(InvalidType, match="expected one tensor a sample, got tuple as number 0; a stream gets"):
            Evaluator(network, Stream(TensorDataset(*samples), samples[1]), batch_size=batch_size).predict(children())

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_inputs_that_are_not_finite(self, network, samples, value):
        images = samples[0].clone()
        images[23, 0, 1, 2] = value
        evaluator = Evaluator(network, Stream(images, samples[1]), batch_size=7)
        with pytest.raises(InvalidValue, match="data: expected finite inputs, got NaN or infinity in batch 3"):
            evaluator.evaluate(children())

    def test_a_function_that_changes_the_number_of_samples(self, network, stream):
        evaluator = Evaluator(network, stream.mapped(lambda batch: batch[1:]), batch_size=7)
        with pytest.raises(InvalidValue, match="data: expected as many targets as inputs, got 7 and 6"):
            evaluator.evaluate(children())
