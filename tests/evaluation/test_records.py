"""Records: samples of named fields, from lists, data sets, columns and loaders, each batch padded to its longest."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from smd_evo import Evaluator, Lineage, RandomSubspace, Splits, sample_mutations, split
from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.evaluation.data import make_batches
from smd_evo.evaluation.records import Records, pad_of
from smd_evo.experiments.folders.content import digest
from smd_evo.zoo.own import data_of

CPU = torch.device("cpu")
LENGTHS = [3, 5, 2, 4, 4, 1, 5]


def rows(**more):
    ids = [list(range(1, length + 1)) for length in LENGTHS]
    return [{"input_ids": each, "label": number % 3, **more} for number, each in enumerate(ids)]


def children():
    return [*sample_mutations(0, 3, subspace=RandomSubspace(0.2), sigma=0.3), Lineage()]


class Text(nn.Module):
    """The mean of the embeddings of a text's tokens, and a head: what is padded does not count."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, input_ids, attention_mask):
        weights = attention_mask[..., None].float()
        return {"logits": self.head((weights * self.embedding(input_ids)).sum(1) / weights.sum(1))}


class Padded(Text):
    """One that looks for its padding token, and has it in its configuration."""

    class config:  # noqa: N801
        pad_token_id = 8

    def forward(self, input_ids, attention_mask):
        assert torch.equal(input_ids == 8, attention_mask == 0)
        return super().forward(input_ids, attention_mask)


class Rows(Dataset):
    """A map-style data set of such samples."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, number):
        return self.samples[number]


class Columns:
    """What the ``datasets`` library has: no class of torch's."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, number):
        return self.samples[number]

    def __iter__(self):
        return iter(self.samples)


def apart():
    return [{"input_ids": row["input_ids"]} for row in rows()], [row["label"] for row in rows()]


def collated(samples):
    return {
        "input_ids": nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in samples], batch_first=True),
        "labels": torch.tensor([row["label"] for row in samples]),
    }


class TestKinds:
    """All are the same two batches."""

    @pytest.mark.parametrize(
        "data",
        [
            rows(),
            rows(text="words", picture=None, words=["a", "b"]),
            Rows(rows()),
            Columns(rows()),
            {"input_ids": [row["input_ids"] for row in rows()], "labels": [row["label"] for row in rows()]},
            apart(),
            (apart()[0], torch.tensor(apart()[1])),
            [*zip(*apart(), strict=True)],
            Rows([*zip(*apart(), strict=True)]),
            [{"input_ids": np.array(row["input_ids"]), "label": np.int64(row["label"])} for row in rows()],
        ],
        ids=[
            "list",
            "text",
            "dataset",
            "datasets",
            "columns",
            "apart",
            "tensor",
            "pairs",
            "dataset of pairs",
            "arrays",
        ],
    )
    def test_samples(self, data):
        first, second = make_batches(data, 4, CPU, pad=8)
        assert first.inputs["input_ids"].tolist() == [
            [1, 2, 3, 8, 8],
            [1, 2, 3, 4, 5],
            [1, 2, 8, 8, 8],
            [1, 2, 3, 4, 8],
        ]
        assert torch.equal(first.inputs["attention_mask"] == 0, first.inputs["input_ids"] == 8)
        assert second.inputs["input_ids"].shape == (3, 5)
        assert list(first.inputs) == list(second.inputs) == ["input_ids", "attention_mask"]
        assert first.targets.tolist() + second.targets.tolist() == [0, 1, 2, 0, 1, 2, 0]

    def test_batches_of_a_loader_with_a_collate_fn_of_the_users_own(self):
        loader = DataLoader(rows(), 4, collate_fn=collated)
        for data in (loader, list(loader)):
            first, second = make_batches(data, 999, CPU)
            assert first.inputs["input_ids"][0].tolist() == [1, 2, 3, 0, 0]
            assert list(first.inputs) == ["input_ids"]
            assert first.targets.tolist() + second.targets.tolist() == [0, 1, 2, 0, 1, 2, 0]

    def test_tensors_with_labels_among_them(self):
        inputs, labels = torch.arange(12).view(6, 2), torch.arange(6)
        first, second = make_batches({"input_ids": inputs, "labels": labels}, 4, CPU)
        assert torch.equal(torch.cat([first.inputs["input_ids"], second.inputs["input_ids"]]), inputs)
        assert list(first.inputs) == ["input_ids"]
        assert torch.equal(torch.cat([first.targets, second.targets]), labels)

    def test_labels_that_are_given_apart_leave_those_inside_to_the_network(self):
        (batch,) = make_batches((rows(), [2] * 7), 7, CPU)
        assert batch.targets.tolist() == [2] * 7
        assert batch.inputs["label"].tolist() == [0, 1, 2, 0, 1, 2, 0]

    def test_a_label_for_each_token_is_padded_with_no_class(self):
        samples = [{"input_ids": [1, 2, 3], "labels": [0, 1, 0]}, {"input_ids": [4], "labels": [1]}]
        (batch,) = make_batches(samples, 2, CPU)
        assert batch.targets.tolist() == [[0, 1, 0], [1, -100, -100]]

    def test_a_mask_that_is_there_stays_and_samples_of_one_length_need_none(self):
        samples = [{"input_ids": [1, 2], "attention_mask": [0, 1], "label": 0}, {"input_ids": [3, 4], "label": 1}]
        (batch,) = make_batches([samples[0], {**samples[1], "attention_mask": [1, 1]}], 2, CPU)
        assert batch.inputs["attention_mask"].tolist() == [[0, 1], [1, 1]]
        (batch,) = make_batches([{"input_ids": [1, 2], "label": 0}] * 2, 2, CPU)
        assert list(batch.inputs) == ["input_ids"]

    def test_an_empty_text_and_numbers_of_other_types(self):
        samples = [{"x": [], "label": 1}, {"x": [1, 2], "label": 0.5}]
        first, second = make_batches(samples, 1, CPU)
        assert (first.inputs["x"].dtype, second.inputs["x"].dtype) == (torch.int64, torch.int64)
        assert first.inputs["x"].shape == (1, 0)
        assert (first.targets.dtype, second.targets.dtype) == (torch.float32, torch.float32)

    def test_pictures_beside_their_labels(self):
        samples = [{"pixel_values": torch.full((3, 2, 2), float(n)), "label": n} for n in range(3)]
        (batch,) = make_batches(samples, 4, CPU)
        assert batch.inputs["pixel_values"].shape == (3, 3, 2, 2)


class TestEvaluating:
    def test_a_sample_is_worth_the_same_however_its_batch_is_padded(self):
        torch.manual_seed(0)
        network = Text()
        found = [Evaluator(network, rows(), batch_size=size).evaluate(children()).fitness for size in (1, 2, 7)]
        for other in found[1:]:
            torch.testing.assert_close(found[0], other)
        assert len(set(found[0].tolist())) == 4

    def test_a_minibatch_is_of_these_samples(self):
        torch.manual_seed(0)
        network, some = Text(), torch.tensor([1, 5, 6])
        part = Evaluator(network, rows(), batch_size=2).on_samples(some).evaluate(children()).fitness
        own = Evaluator(network, [rows()[number] for number in some], batch_size=3).evaluate(children()).fitness
        torch.testing.assert_close(part, own)

    def test_the_networks_own_padding_token_is_taken(self):
        network = Padded()
        assert (pad_of(network), pad_of(Text())) == (8, 0)
        assert len(Evaluator(network, rows(), batch_size=4).evaluate(children()).fitness) == 4

    def test_splits_are_padded_by_the_network_too(self):
        network = Padded()
        parts = split(rows() * 6, fitness=20, validation=10)
        assert repr(parts) == "Splits(fitness: 20, validation: 10, test: 12 samples)"
        assert parts.test.targets().tolist().count(0) in (5, 6)  # stratified: 18 of 42 are of the first class
        for part in (parts.fitness, parts.validation, parts.test):
            assert len(Evaluator(network, part, batch_size=4).evaluate(children()).fitness) == 4
        assert repr(Splits(rows(), rows(), rows())) == "Splits(fitness: 7, validation: 7, test: 7 samples)"

    def test_a_run_is_one_of_these_samples(self):
        others = [{**row, "input_ids": [*row["input_ids"][:-1], 7]} for row in rows()]
        tensors = {"input_ids": torch.arange(8).view(4, 2), "labels": torch.arange(4)}
        every = [rows(), others, tensors, {**tensors, "labels": 3 - tensors["labels"]}]
        digests = [digest(data_of(Splits(samples, rows(), rows()))) for samples in every]
        assert len(set(digests)) == 4
        assert digest(data_of(Splits(rows(), rows(), others))) == digests[0]  # but for the test split


class TestRefused:
    @pytest.mark.parametrize(
        ("data", "message"),
        [
            ([{"input_ids": [1]}], "labels in one field, labels or label, got input_ids; name it so, or give "),
            ([{"input_ids": [1], "label": 0, "labels": 0}], "got input_ids, label, labels"),
            ([{"text": "a", "label": 0}], "fields of numbers, got text, label without; give what a tokenizer"),
            ([{"input_ids": [1], "label": 0}, {"label": 1}], "input_ids in each sample, .* got none in number 1"),
            ([{"input_ids": [1], "label": 0}, {"input_ids": [1]}], "label in each sample, .* number 1"),
            (
                [{"input_ids": [1], "label": 0}, {"input_ids": [1], "label": 0, "idx": 1}],
                r"first .*got idx, too, in .* 1",
            ),
            ([{"input_ids": [1], "label": "cat"}], "numbers in label, got 'cat'; number the classes from 0 on"),
            ([{"input_ids": [1], "label": None}], "numbers in label, got None; number"),
            ([{"input_ids": [1, 2], "attention_mask": [1], "label": 0}], "mask as long as input_ids, got 1 and 2 in"),
            ([{"x": [[1, 2], [3]], "label": 0}], r"numbers of one shape in x, got others \("),
            (
                [{"x": torch.zeros(3, n, n), "label": 0} for n in (2, 3)],
                r"x of one shape .* \[3, 2, 2\], \[3, 3, 3\]",
            ),
            ({"input_ids": [[1], [2]], "labels": [0]}, "fields of one length, got {'input_ids': 2, 'labels': 1}"),
            (([{"input_ids": [1]}], [0, 1]), "as many targets as inputs, got 2 and 1"),
            (([{"input_ids": [1]}], ["cat"]), "numbers as targets, got others; number the classes"),
            ([{"x": [float("nan")], "label": 0}], "finite inputs, got NaN"),
            (pd.DataFrame({"x": [1.0], "label": [0]}), r"\(inputs, targets\) in batch 0, got str"),
        ],
    )
    def test_in_one_line(self, data, message):
        with pytest.raises((InvalidValue, InvalidType), match=f"^data: expected .*{message}") as caught:
            make_batches(data, 4, CPU)
        assert "\n" not in str(caught.value)

    def test_fields_that_the_network_does_not_take(self):
        with pytest.raises(
            InvalidValue,
            match=r"^data: expected fields that Text takes \(input_ids, attention_mask\), got idx, too; leave those",
        ):
            Evaluator(Text(), rows(idx=1))

    def test_records_know_their_number(self):
        assert len(Records(rows()).take([1, 2])) == 2
