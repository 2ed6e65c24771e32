"""Minibatches: samples by their numbers, each epoch anew, from any data that an evaluator takes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from smd_evo import BatchFitness, Evaluator, Lineage, ModuleFitness, RandomSubspace, sample_mutations, split
from smd_evo.core.parameters import Child
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.data import make_batches, minibatch
from smd_evo.evaluation.stream import Stream

KEYS = st.integers(0, 2**64 - 1)
CPU = torch.device("cpu")


def children(count=3) -> list[Child]:
    return [*sample_mutations(0, count, subspace=RandomSubspace(0.2), sigma=0.3), Lineage()]


class TestMinibatch:
    @given(KEYS, st.integers(1, 60), st.data())
    def test_an_epoch_takes_each_sample_once_at_most(self, key, total, data):
        size = data.draw(st.integers(1, total))
        for epoch in range(3):
            each = total // size
            numbers = [minibatch(key, epoch * each + place, size, total) for place in range(each)]
            assert all(part.dtype == torch.int64 and len(part) == size for part in numbers)
            together = torch.cat(numbers).tolist()
            assert len(set(together)) == len(together) > total - size
            assert set(together) <= set(range(total))
            if total % size == 0:
                assert sorted(together) == list(range(total))

    def test_epochs_keys_and_minibatches_differ(self):
        seen = {tuple(minibatch(key, number, 10, 1000).tolist()) for key in range(3) for number in range(300)}
        assert len(seen) == 900

    def test_all_of_the_data_may_be_one_minibatch(self):
        first, second = (minibatch(1, number, 50, 50) for number in (0, 1))
        assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(50))
        assert first.tolist() != second.tolist()

    @pytest.mark.parametrize(
        ("size", "kind", "message"),
        [
            (11, InvalidValue, "size: expected at most the 10 samples that there are, got 11"),
            (0, InvalidValue, "size: expected a whole number >= 1, got 0"),
            (2.5, InvalidType, "size: expected a whole number >= 1"),
        ],
    )
    def test_bad_sizes(self, size, kind, message):
        with pytest.raises(kind, match=message):
            minibatch(1, 0, size, 10)


class Shift(nn.Module):
    """Several inputs, by position or by name."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, x, shift=0.0):
        return self.layer(x.flatten(1)) + shift


class Tagger(nn.Module):
    """Texts of token numbers, padded with 0 to the longest of a batch; padding counts nothing."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 4, padding_idx=0)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        used = (tokens > 0).unsqueeze(-1)
        return self.head((self.embedding(tokens) * used).sum(1) / used.sum(1))


@pytest.fixture
def shift():
    torch.manual_seed(0)
    return Shift()


def agree(evaluator, numbers, other):
    """An evaluator on some of its samples is as one that was made of these."""
    part = evaluator.on_samples(numbers)
    assert part.samples == other.samples == len(numbers)
    assert torch.equal(part.targets().sort().values, other.targets().sort().values)
    expected = other.evaluate(children()).fitness
    assert torch.allclose(part.evaluate(children()).fitness, expected, rtol=1e-5)
    return part


class TestAutomaticSize:
    @pytest.mark.parametrize(("shape", "size"), [((3, 32, 32), 85), ((1, 8, 8), 512), ((3, 96, 96), 32)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
    def test_pixels_count_as_the_float32_that_they_become(self, dtype, shape, size):
        data = torch.zeros(600, *shape, dtype=dtype), torch.zeros(600, dtype=torch.int64)
        for form in (data, TensorDataset(*data), Stream(*data)):
            batches = make_batches(form, "auto", CPU)
            assert batches.samples == 600
            assert len(batches) == -(-600 // size)
        assert {batch.count for batch in batches} <= {size, 600 % size}

    def test_inputs_in_half_precision_count_as_they_are(self):
        data = torch.zeros(600, 3, 32, 32, dtype=torch.float16), torch.zeros(600)
        assert len(make_batches(data, "auto", CPU)) == 4

    def test_elsewhere_it_is_512_and_no_sample_is_looked_at(self):
        batches = make_batches(Stream(range(600), torch.zeros(600)), "auto", torch.device("meta"))
        assert len(batches) == 2


class Rows(IterableDataset):
    def __iter__(self):
        return iter([(torch.zeros(1, 4, 4), 0)])


class TestKinds:
    @pytest.mark.parametrize("target", [int, float, torch.tensor], ids=["int", "float", "tensor"])
    def test_a_list_of_inputs_with_a_number_each_holds_samples(self, target):
        images = torch.randn(40, 1, 4, 4)
        batches = make_batches([(image, target(number)) for number, image in enumerate(images)], 16, CPU)
        assert [batch.count for batch in batches] == [16, 16, 8]
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), images)
        assert batches.targets().tolist() == list(range(40))

    def test_a_list_of_pairs_of_tensors_holds_batches(self, samples):
        images, targets = samples
        batches = make_batches([(images[:30], targets[:30]), (images[30:], targets[30:])], 16, CPU)
        assert [batch.count for batch in batches] == [30, 10]

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (
                Rows(),
                r"got Rows, an IterableDataset; give DataLoader\(data, 64\) if it gives samples, ",
            ),
            ([torch.zeros(3, 4), torch.zeros(3)], r"in batch 0, got Tensor; two tensors are given as a tuple"),
            ([{"x": torch.zeros(3)}], r"labels in one field, labels or label, got x; name it so, or give"),
            ([(torch.zeros(3), torch.zeros(3), torch.zeros(3))], r"in batch 0, got tuple of 3;"),
            (
                iter([(torch.zeros(1, 4), torch.tensor(2))]),
                r"of n samples, got a single number; DataLoader",
            ),
            ((torch.tensor(1.0), torch.zeros(3)), r"of n samples, got a single number"),
            (split((torch.zeros(9, 4), torch.arange(9) % 3)), "got Splits; give data.fitness$"),
        ],
        ids=["iterable", "two", "rows", "three", "generator", "scalar", "splits"],
    )
    def test_what_is_refused(self, data, message):
        with pytest.raises((InvalidType, InvalidValue), match=f"^data: expected .*{message}") as caught:
            make_batches(data, 16, CPU)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("size", [64, None])
    def test_what_an_iterable_data_set_is_told_to_be_given_as(self, size):
        class Own(IterableDataset):
            def __iter__(self):
                shape = (1, 4, 4) if size else (5, 1, 4, 4)
                return iter([(torch.zeros(shape), 0 if size else torch.zeros(5))] * 10)

        assert make_batches(DataLoader(Own(), size), 16, CPU).samples == (10 if size else 50)


class TestSamples:
    @given(st.integers(1, 45), st.lists(st.integers(0, 39), min_size=1, max_size=40, unique=True))
    def test_as_batches_of_the_same_size(self, batch_size, numbers):
        images, targets = torch.randn(40, 2), torch.arange(40)
        batches = make_batches((images, targets), batch_size, CPU)
        taken = batches.take(torch.tensor(numbers))
        assert torch.equal(torch.cat([batch.inputs for batch in taken]), images[sorted(numbers)])
        assert torch.cat([batch.targets for batch in taken]).tolist() == sorted(numbers)
        assert all(batch.count == len(batch.inputs) == len(batch.targets) for batch in taken)
        assert [batch.count for batch in taken[:-1]] == [min(batch_size, 40)] * (len(taken) - 1)

    @pytest.mark.parametrize("batch_size", [7, "auto"])
    def test_one_input_several_by_position_and_by_name(self, shift, samples, batch_size):
        (images, targets), more = samples, torch.randn(40, 3)
        numbers = minibatch(5, 3, 9, 40)
        forms = [lambda i: images[i], lambda i: (images[i], more[i]), lambda i: {"shift": more[i], "x": images[i]}]
        for form in forms:
            evaluator = Evaluator(shift, (form(torch.arange(40)), targets), batch_size=batch_size)
            agree(evaluator, numbers, Evaluator(shift, (form(numbers), targets[numbers]), batch_size=batch_size))

    def test_of_a_data_set_and_of_a_loader(self, network, samples):
        numbers = minibatch(5, 1, 9, 40)
        expected = Evaluator(network, (samples[0][numbers], samples[1][numbers]))
        dataset = TensorDataset(*samples)
        for data in (dataset, DataLoader(dataset, 6)):
            agree(Evaluator(network, data), numbers, expected)

    def test_targets_may_be_several_too(self, shift, samples):
        images, targets = samples[0], {"a": torch.randn(40, 3), "b": torch.randn(40)}
        fitness = BatchFitness("both", "min", lambda out, target: (out - target["a"]).square().mean(1) + target["b"])
        numbers = torch.tensor([3, 39, 0, 20])
        part = Evaluator(shift, (images, targets), fitness, batch_size=7).on_samples(numbers)
        chosen = {name: tensor[numbers] for name, tensor in targets.items()}
        expected = Evaluator(shift, (images[numbers], chosen), fitness).evaluate(children()).fitness
        assert torch.allclose(part.evaluate(children()).fitness, expected)

    def test_batches_of_padded_text(self):
        """Each batch is padded to its own longest text, so that they cannot be joined."""
        torch.manual_seed(0)
        network = Tagger()
        texts = [torch.randint(1, 9, (length,)) for length in torch.randint(2, 12, (40,)).tolist()]
        targets = torch.randint(3, (40,))

        def padded(numbers):
            return nn.utils.rnn.pad_sequence([texts[i] for i in numbers], batch_first=True), targets[list(numbers)]

        batches = [padded(range(start, start + 8)) for start in range(0, 40, 8)]
        assert len({inputs.shape for inputs, _ in batches}) > 1
        numbers = minibatch(5, 2, 13, 40)
        part = agree(Evaluator(network, batches), numbers, Evaluator(network, padded(numbers.tolist())))
        expected = Evaluator(network, batches).predict(children())[:, numbers.sort().values]
        assert torch.allclose(part.predict(children()), expected, atol=1e-6)

    def test_the_evaluator_keeps_its_samples(self, network, samples):
        evaluator = Evaluator(network, samples)
        before = evaluator.evaluate(children()).fitness
        part = evaluator.on_samples(torch.tensor([1, 2, 3]))
        assert part.space is evaluator.space
        assert part.evaluate(children()).sense == "min"
        assert evaluator.samples == 40
        assert torch.equal(evaluator.evaluate(children()).fitness, before)
        assert part.on_samples(torch.tensor([2])).targets().tolist() == [int(samples[1][3])]

    def test_an_epoch_of_minibatches_has_the_mean_of_the_whole(self, network, samples):
        evaluator = Evaluator(network, samples)
        parts = [
            evaluator.on_samples(minibatch(7, number, 8, 40)).evaluate(children()).fitness for number in range(5)
        ]
        assert torch.allclose(torch.stack(parts).mean(0), evaluator.evaluate(children()).fitness, rtol=1e-5)

    def test_devices_agree(self, network, samples, devices):
        numbers = minibatch(5, 3, 9, 40)
        expected = Evaluator(network, samples).on_samples(numbers).evaluate(children()).fitness
        for device in devices:
            evaluator = Evaluator(network, samples, batch_size=7, device=device)
            for own in (numbers, numbers.to(device)):
                assert torch.allclose(evaluator.on_samples(own).evaluate(children()).fitness, expected, rtol=1e-4)

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ([], "at least one"),
            ([0, 40], r"in \[0, 40\)"),
            ([-1, 3], r"in \[0, 40\)"),
            ([3, 3], "distinct"),
        ],
    )
    def test_bad_numbers(self, network, samples, numbers, message):
        with pytest.raises(InvalidValue, match=f"numbers: expected .*{message}"):
            Evaluator(network, samples).on_samples(torch.tensor(numbers, dtype=torch.int64))

    def test_no_samples_to_choose_from(self, network):
        evaluator = Evaluator(network, fitness=ModuleFitness("norm", "min", lambda module: 0.0))
        with pytest.raises(InvalidValue, match=r"numbers: expected .*in \[0, 0\)"):
            evaluator.on_samples(torch.tensor([0]))
