"""Records: samples whose inputs have names, as tokenizers and the ``datasets`` library give them."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Sized
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from smd_evo.errors import InvalidType, InvalidValue, shown
from smd_evo.evaluation.classification import IGNORED

__all__ = ["LABELS", "Records", "check_fields", "pad_of", "records_of", "with_labels_apart"]

LABELS = ("labels", "label")
"""Names of the field that holds what is true."""

_IDS, _MASK = "input_ids", "attention_mask"


class Records:
    """Samples with named fields; a batch of them is padded to its own longest one.

    Fields that are no numbers (texts, pictures before their processor) are left out. What is padded is 0 in all
    fields but ``input_ids``, which get the padding token, and targets, which get -100. Where ``input_ids`` differ in
    length and there is no ``attention_mask``, there is one.

    Args:
        rows: of each sample a mapping of fields to numbers, lists of numbers, arrays or tensors.
        targets: one a sample; None: they are a field of the rows, ``labels`` or ``label``.

    Raises:
        InvalidValue: no targets, or as many as there are no samples; a field that is not in all of them.

    Example:
        >>> records = Records([{"input_ids": [5, 6, 7], "label": 0}, {"input_ids": [8], "label": 1}])
        >>> inputs, targets = next(records.batches(2, pad=9))
        >>> inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), targets.tolist()
        ([[5, 6, 7], [8, 9, 9]], [[1, 1, 1], [1, 0, 0]], [0, 1])
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]], targets: Any = None) -> None:
        fields = {name: _column(rows, name) for name, value in rows[0].items() if _tensor(name, value) is not None}
        _check_alike(rows, fields)
        if targets is None:
            _check_label(rows[0], fields)
            targets = fields.pop(_label(fields))
        if len(targets) != len(rows):
            raise InvalidValue(f"data: expected as many targets as inputs, got {len(targets)} and {len(rows)}")
        found = [target for each in targets if (target := _tensor("targets", each)) is not None]
        if len(found) < len(rows):
            raise InvalidType("data: expected numbers as targets, got others; number the classes from 0 on")
        if not fields:
            raise InvalidType(
                f"data: expected fields of numbers, got {', '.join(map(str, rows[0]))} without; give what a "
                "tokenizer or an image processor makes of them"
            )
        if len({len(ids) for ids in fields.get(_IDS, []) if ids.dim()}) > 1 and _MASK not in fields:
            fields[_MASK] = [torch.ones_like(ids) for ids in fields[_IDS]]
        self._fields: dict[str, list[Tensor]] = fields
        self._targets = _of_one_type(found)

    def __len__(self) -> int:
        return len(self._targets)

    def take(self, numbers: Iterable[int]) -> Records:
        """Some of the samples, by their numbers."""
        some, other = list(numbers), object.__new__(Records)
        other._fields = {name: [column[number] for number in some] for name, column in self._fields.items()}
        other._targets = [self._targets[number] for number in some]
        return other

    def targets(self) -> Tensor:
        """Of all samples."""
        return _stacked("targets", self._targets, IGNORED)

    def batches(self, size: int, pad: int = 0) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
        """Inputs and targets, so many samples at a time.

        Args:
            size: of a batch.
            pad: the padding token.
        """
        for start in range(0, len(self), size):
            piece = slice(start, start + size)
            inputs = {
                name: _stacked(name, column[piece], _filler(name, pad)) for name, column in self._fields.items()
            }
            yield inputs, _stacked("targets", self._targets[piece], IGNORED)

    def tensors(self) -> list[Tensor]:
        """All that they hold."""
        return [tensor for column in (*self._fields.values(), self._targets) for tensor in column]

    def first(self) -> dict[str, Tensor]:
        """Inputs of the first sample, [1, ...]."""
        return next(self.batches(1))[0]


def records_of(data: Any) -> Records | None:
    """Data as records, where that is what they are: None for anything else.

    Args:
        data: a list or a data set of mappings, or of pairs of one and a number; a mapping of lists or of tensors, a
            tokenizer's ``BatchEncoding`` for one; a pair of one of these and the targets.

    Example:
        >>> encoding = {"input_ids": [[5, 6], [7]], "labels": [0, 1]}
        >>> len(records_of(encoding)), records_of((torch.eye(2), torch.arange(2)))
        (2, None)
    """
    if isinstance(data, Records):
        return data
    if isinstance(data, tuple) and len(data) == 2:
        rows = _rows(data[0])
        return None if rows is None else Records(rows, data[1])
    rows = _rows(data)
    if rows is not None:
        return Records(rows)
    first = _first(data)
    pairs = isinstance(first, tuple | list) and len(first) == 2 and isinstance(first[0], Mapping)
    if not pairs or _is_batch({**first[0], LABELS[0]: first[1]}):
        return None
    samples = [data[number] for number in range(len(data))]
    return Records([sample[0] for sample in samples], [sample[1] for sample in samples])


def with_labels_apart(batch: Any) -> Any:
    """A batch of named tensors as inputs and targets; anything else as it is.

    Raises:
        InvalidValue: there are no labels among them.
    """
    if not isinstance(batch, Mapping):
        return batch
    label = _label(batch)
    return {name: value for name, value in batch.items() if name != label}, batch[label]


def pad_of(module: nn.Module) -> int:
    """The padding token of a network of the ``transformers`` library; 0 for others."""
    pad = getattr(getattr(module, "config", None), "pad_token_id", None)
    return pad if isinstance(pad, int) else 0


def check_fields(module: nn.Module, inputs: Any) -> None:
    """Refuse named inputs that a network does not take, or from which its decoder could only guess the answer.

    Raises:
        InvalidValue: what is too much, or missing, is named.
    """
    if not isinstance(inputs, Mapping):
        return
    told = {LABELS[0], "decoder_input_ids", "decoder_inputs_embeds"}
    if hasattr(module, "prepare_decoder_input_ids_from_labels") and told.isdisjoint(inputs):  # of transformers
        raise InvalidValue(
            f"data: expected labels or decoder_input_ids among the fields, for {type(module).__name__}'s decoder, "
            f"got {', '.join(map(str, inputs))}; labels are taken out, so give (samples with labels, labels)"
        )
    try:
        known = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):  # of something that is not written in Python
        return
    names = [each.name for each in known if each.kind is not inspect.Parameter.VAR_POSITIONAL]
    others = [str(name) for name in inputs if name not in names]
    if others and all(each.kind is not inspect.Parameter.VAR_KEYWORD for each in known):
        raise InvalidValue(
            f"data: expected fields that {type(module).__name__} takes ({', '.join(names)}), got "
            f"{', '.join(others)}, too; leave those out"
        )


def _rows(data: Any) -> list[Mapping[str, Any]] | None:
    """The samples of a list, a data set or columns; None for anything else, which batches of named tensors are."""
    if isinstance(data, Mapping):
        if not data or any(isinstance(value, Tensor | Mapping | tuple) for value in data.values()):
            return None
        lengths = {name: len(value) if isinstance(value, Sized) else None for name, value in data.items()}
        if len(set(lengths.values())) != 1 or None in lengths.values():
            raise InvalidValue(f"data: expected fields of one length, got {lengths}; put a single sample into a list")
        return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    first = _first(data)
    if not isinstance(first, Mapping) or _is_batch(first):
        return None
    return [data[number] for number in range(len(data))]


def _first(data: Any) -> Any:
    """The first sample, if there are any by their numbers; else None."""
    if not isinstance(data, Sized) or isinstance(data, str | bytes | Tensor | Mapping | tuple | DataLoader):
        return None
    try:
        return data[0] if len(data) else None  # type: ignore[index]
    except (LookupError, TypeError):  # columns by their names, for one
        return None


def _is_batch(fields: Mapping[str, Any]) -> bool:
    """Whether named tensors are those of several samples: one label each, and more than one number each."""
    labels = next((fields[name] for name in LABELS if name in fields), None)
    if not isinstance(labels, Tensor) or labels.dim() != 1:
        return False
    tensors = [value for value in fields.values() if isinstance(value, Tensor)]
    return any(each.dim() > 1 for each in tensors) and {len(each) if each.dim() else 0 for each in tensors} == {
        len(labels)
    }


def _label(fields: Iterable[str]) -> str:
    """The name of the field that holds the labels."""
    names = list(fields)
    found = [name for name in LABELS if name in names]
    if len(found) != 1:
        got = ", ".join(map(str, names)) or "none"
        raise InvalidValue(
            f"data: expected labels in one field, {' or '.join(LABELS)}, got {got}; name it "
            "so, or give (inputs, labels)"
        )
    return found[0]


def _check_alike(rows: Sequence[Mapping[str, Any]], fields: Mapping[str, list[Tensor]]) -> None:
    """Refuse what would be left out without a word, or read by nobody can tell whom."""
    first = rows[0]
    for number, row in enumerate(rows):
        if more := [str(name) for name in row if name not in first]:
            raise InvalidValue(
                f"data: expected the fields of the first sample in each ({', '.join(map(str, first))}), got "
                f"{', '.join(more)}, too, in number {number}; give them to all or to none"
            )
    for number, (ids, mask) in enumerate(zip(fields.get(_IDS, ()), fields.get(_MASK, ()), strict=False)):
        if ids.dim() == mask.dim() == 1 and len(ids) != len(mask):
            raise InvalidValue(
                f"data: expected {_MASK} as long as {_IDS}, got {len(mask)} and {len(ids)} in number {number}; leave "
                "it out where nothing is masked"
            )


def _check_label(first: Mapping[str, Any], fields: Collection[str]) -> None:
    """Refuse labels that are no numbers."""
    words = [name for name in LABELS if name in first]
    if words and not any(name in fields for name in words):
        got = shown(first[words[0]])
        raise InvalidType(f"data: expected numbers in {words[0]}, got {got}; number the classes from 0 on")


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> list[Tensor]:
    column = []
    for number, row in enumerate(rows):
        found = _tensor(name, row.get(name))
        if found is None:
            raise InvalidValue(f"data: expected {name} in each sample, as in the first, got none in number {number}")
        column.append(found)
    return _of_one_type(column)


def _of_one_type(column: list[Tensor]) -> list[Tensor]:
    """The same tensors in the type that holds them all; what is empty has none of its own."""
    kinds = {tensor.dtype for tensor in column if tensor.numel()}
    return [tensor.to(reduce(torch.promote_types, kinds)) for tensor in column] if kinds else column


def _tensor(name: str, value: Any) -> Tensor | None:
    """Numbers as a tensor; None for what is not numbers."""
    if isinstance(value, Tensor):
        return value
    try:
        return torch.as_tensor(value, device="cpu")
    except ValueError as error:
        if _is_text(value):
            return None
        reason = " ".join(str(error).split())
        raise InvalidValue(f"data: expected numbers of one shape in {name}, got others ({reason})") from None
    except (TypeError, RuntimeError):
        return None


def _is_text(value: Any) -> bool:
    """Whether nested lists begin with a text."""
    while isinstance(value, list | tuple) and value:
        value = value[0]
    return isinstance(value, str | bytes)


def _filler(name: str, pad: int) -> int:
    if name.endswith(_IDS):
        return pad
    return IGNORED if name in LABELS else 0


def _stacked(name: str, tensors: list[Tensor], filler: int) -> Tensor:
    """Tensors as one, the shorter ones padded at their end."""
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) == 1:
        return torch.stack(tensors)
    if len({len(shape) for shape in shapes}) > 1 or len({shape[1:] for shape in shapes}) > 1:
        some = ", ".join(str(list(shape)) for shape in sorted(shapes)[:3])
        raise InvalidValue(f"data: expected {name} of one shape but for its length, got {some}; resize them")
    return pad_sequence(tensors, batch_first=True, padding_value=filler)
