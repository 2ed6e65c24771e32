"""A parent and data for it, loaded together.

The data's classes tell how many outputs the parent has, the parent tells how its images are to be decoded.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from smd_evo.errors import (
    InvalidType,
    InvalidValue,
    SmdEvoError,
    check_choice,
    check_count,
    check_key,
    check_number,
    shown,
)
from smd_evo.evaluation.classification import logits_of
from smd_evo.evaluation.randomness import reseed
from smd_evo.evaluation.stream import Stream
from smd_evo.zoo.also import open_also, with_also
from smd_evo.zoo.balance import remarks
from smd_evo.zoo.checkpoint import weights_of
from smd_evo.zoo.data import SPLITS, Data
from smd_evo.zoo.decoding import Decoder, splits_of
from smd_evo.zoo.demo import DemoCNN, shifted_digits, trained_cnn
from smd_evo.zoo.hub import check_labels
from smd_evo.zoo.models import build_model, check_name
from smd_evo.zoo.names import OUTPUTS, check_words
from smd_evo.zoo.outputs import check_narrowed, head_to_narrow, narrow, with_present
from smd_evo.zoo.own import Splits, data_of
from smd_evo.zoo.preprocessing import Normalize
from smd_evo.zoo.sources import Source, open_source
from smd_evo.zoo.wanted import check_pictures, read_wanted
from smd_evo.zoo.weights import load_weights

__all__ = ["MEMORY", "load"]

MEMORY = 4.0
"""GiB of decoded images that are held; more are decoded again whenever they are needed."""


def load(
    model: str = "demo-cnn",
    data: str = "digits",
    *,
    checkpoint: str | Path | None = None,
    checkpoint_key: str | None = None,
    data_dir: str | Path = "data",
    download: bool = False,
    sizes: Mapping[str, int | None] | None = None,
    memory: float = MEMORY,
    seed: int = 0,
    skip_unreadable: bool = False,
    outputs: str = "all",
    also: str | None = None,
    preprocessing: str | None = None,
    progress: Callable[[], object] | None = None,
) -> tuple[nn.Module, Data]:
    """A pre-trained parent on the CPU, and data for it, in splits that never meet.

    Args:
        model: see :func:`smd_evo.zoo.models.build_model`; "demo-cnn" goes with "digits" alone.
        data: see :func:`smd_evo.zoo.sources.open_source`, or "digits".
        checkpoint, checkpoint_key: file with the parent's weights, and which of them where it holds several; see
            :func:`smd_evo.zoo.checkpoint.read_checkpoint`.
        data_dir, download: for data sets that torchvision knows.
        sizes: samples of "fitness" and "validation" (None: 5,000, at most a third of the training data) and of
            "test" (None: all).
        memory: see :data:`MEMORY`.
        seed: of the splits, and of the noise of the demo's camera.
        skip_unreadable: whether unreadable images are left out and named, however many there are; else at most 1 %
            of a split are, or one.
        outputs: "all", or "present": the network keeps those alone of the classes that the images have; not for
            digits and samples of one's own kind.
        also: another data set of the same classes, of whose test images (or of all, where there is one part) as many
            as the test split has come as ``also`` of the data; those without an output are left out.
        preprocessing: what is done to pictures instead of what the network says; see
            :func:`smd_evo.zoo.wanted.read_wanted`. For sets of pictures alone.
        progress: called after each decoded image.

    Returns:
        The network in eval mode, which takes the images as the data has them, and the data.

    Raises:
        InvalidValue, InvalidType: unknown names, files that are not there or not usable, classes that differ.

    Example:
        >>> network, data = load("demo-cnn", "digits")
        >>> len(data.fitness[1]), len(data.validation[1]), len(data.test[1])
        (300, 300, 500)
    """
    check_words(model=model, data=data, **({} if also is None else {"also": also}))
    if not isinstance(sizes, Mapping | None):
        raise InvalidType(f"sizes: expected a dict such as {{'test': 500}}, got {shown(sizes)}")
    given = {
        check_choice("sizes", name, SPLITS): check_count(f"sizes[{name!r}]", size)
        for name, size in (sizes or {}).items()
        if size is not None
    }
    memory = check_number("memory", memory, low=0, mend="give GiB such as 4")
    check_name(model)  # before a big folder is looked through
    seed = check_key(seed, "seed")
    wanted = read_wanted(preprocessing)
    present = check_choice("outputs", outputs, OUTPUTS) == "present"
    with _random_numbers_apart(), _usual_defaults():
        if data == "digits":
            check_pictures(data, outputs, also, preprocessing)
            return _digits(model, checkpoint, checkpoint_key, given, seed)
        source = open_source(data, data_dir, download)
        if model == "demo-cnn":
            raise InvalidValue(f"model: expected another one than demo-cnn for {data}; it knows the digits alone")
        if isinstance(source, Splits):
            check_pictures(data, outputs, also, preprocessing)
            return _as_given(model, data, source, checkpoint, checkpoint_key, given)
        names, classes = source.classes, len(source.classes)
        source, kept = with_present(source) if present else (source, None)
        others = None if also is None else open_also(also, data, names, kept, data_dir, download)
        network, wants = build_model(model, classes, checkpoint, checkpoint_key, wanted)
        check_labels(model, network, names)
        head = None if kept is None else head_to_narrow(model, network, classes)
        decoder = Decoder(wants, int(memory * 2**30), progress, skip_unreadable)
        found = splits_of(source, given, seed, decoder)
        network.register_forward_pre_hook(Normalize(wants))
        if wants.channels_last:  # else each child's weights are put into that order at each batch
            network.to(memory_format=torch.channels_last)
        whole = _answers(model, network, found, classes)
        if kept is not None and head is not None:
            narrow(network, head, kept)
            check_narrowed(model, whole, _answers(model, network, found, len(kept)), kept)
        for line in _remarks(source, found):
            warnings.warn(line, stacklevel=2)
        return network, found if others is None else with_also(found, others, decoder, seed)


@contextmanager
def _random_numbers_apart() -> Iterator[None]:
    """Networks are built of random numbers: always the same ones, and the user's own are left where they were."""
    cuda = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=cuda):
            reseed()
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _usual_defaults() -> Iterator[None]:
    """Parents are float32 on the CPU, whatever the caller's defaults: weights are published so, and kept so."""
    dtype, elsewhere = torch.get_default_dtype(), torch.get_default_device().type != "cpu"
    try:
        torch.set_default_dtype(torch.float32)
        with torch.device("cpu") if elsewhere else nullcontext():
            yield
    finally:
        torch.set_default_dtype(dtype)


def _digits(
    model: str, checkpoint: str | Path | None, key: str | None, sizes: Mapping[str, int], seed: int
) -> tuple[nn.Module, Data]:
    if sizes:
        raise InvalidValue(
            f"data: expected the splits of digits as they are, got sizes of {', '.join(sizes)}; leave them out"
        )
    digits = shifted_digits(seed)
    if model == "demo-cnn":
        if (weights := weights_of(checkpoint, key)) is None:
            return trained_cnn(), digits
        parent = DemoCNN()
        load_weights(parent, *weights)
        return parent.eval(), digits
    network, _ = build_model(model, len(digits.classes), checkpoint, key)
    _answers(model, network, digits, len(digits.classes))
    return network, digits


def _as_given(
    model: str,
    name: str,
    splits: Splits,
    checkpoint: str | Path | None,
    key: str | None,
    sizes: Mapping[str, int],
) -> tuple[nn.Module, Data]:
    """Samples of a user's own, which their network takes as they are."""
    if sizes:
        raise InvalidValue(
            f"data: expected the splits of {name} as they are, got sizes of {', '.join(sizes)}; leave them out"
        )
    data = replace(data_of(splits), name=name, description=name)
    network, _ = build_model(model, max(1, len(data.classes)), checkpoint, key)
    return network, data


def _remarks(source: Source, data: Data) -> list[str]:
    """What is to be known of the classes."""
    every = [targets for targets in (source.train_targets, source.test_targets) if targets is not None]
    splits = {}
    for name in SPLITS:
        samples = getattr(data, name)
        splits[name] = (samples.targets if isinstance(samples, Stream) else samples[1]).numpy()
    return remarks(data.classes, np.concatenate(every), splits)


def _answers(model: str, network: nn.Module, data: Data, classes: int) -> Tensor:
    """The network's outputs for an image: what does not fit together shows here, before anything is counted on it."""
    samples = data.fitness
    image = samples[0][:1] if isinstance(samples, tuple) else samples.first()
    kind = f"images {list(image.shape[1:])} of {str(image.dtype).removeprefix('torch.')}"
    try:
        with torch.inference_mode():
            outputs: Tensor = logits_of(network(image))
    except SmdEvoError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InvalidValue(
            f"model: expected a network that takes {kind}, got an error from {model}: {reason}"
        ) from error
    if outputs.shape != (1, classes):
        raise InvalidValue(
            f"model: expected {classes} outputs for the classes of {data.name}, got {list(outputs.shape[1:])} from "
            f"{model}"
        )
    return outputs
