"""Image classifiers of the ``transformers`` library: of the Hugging Face Hub, or of a folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from smd_evo.errors import InvalidValue
from smd_evo.zoo.fetching import ask_hub, cached_folder, fetching, is_on_hub
from smd_evo.zoo.names import is_folder
from smd_evo.zoo.weights import load_weights

__all__ = ["Processor", "check_config", "check_labels", "classifier_of", "processor_of"]

_NAMED = 3

_CONFIG, _PROCESSOR = "config.json", "preprocessor_config.json"

_ALIKE = 2.0
"""Mean difference of pixels, of 256, that resizing in another order may make; another crop makes some more."""

_IN_A_FOLDER = "expected an image classifier of transformers in {}, got none"

_INTERPOLATIONS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Numbers of PIL's."""


def classifier_of(
    name: str, classes: int, weights: tuple[Mapping[str, Tensor], str | Path] | None
) -> tuple[nn.Module, Processor | None]:
    """An image classifier, and what it wants done to a picture, where it says that.

    Args:
        name: ``owner/name`` on the Hub, or a folder that ``save_pretrained`` wrote.
        classes: outputs that the data has, if there are weights.
        weights: a state dict and the file that it is from; None: its own.

    Raises:
        InvalidValue: no transformers library, no such model, or weights that are not all of its tensors.
    """
    try:
        from transformers import AutoConfig, AutoModelForImageClassification
    except ImportError as error:
        raise InvalidValue(
            f"model: expected the transformers library for hf:{name}, got none ({error}); pip install 'smd-evo[hf]'"
        ) from None
    network: nn.Module
    wanted = [_IN_A_FOLDER] if is_folder(name) else []
    with fetching(f"hf:{name}", "give hf:FOLDER, what save_pretrained wrote", *wanted), _quiet():
        place = str(Path(name).expanduser()) if is_folder(name) else cached_folder(name)
        if place is None:
            ask_hub(name)
        elif not (Path(place) / _CONFIG).is_file():
            raise FileNotFoundError(f"there is no {_CONFIG}")
        options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": place is not None}
        place = place or name
        if weights is None:
            network, found = AutoModelForImageClassification.from_pretrained(
                place, dtype=torch.float32, output_loading_info=True, **options
            )
            _check_whole(name, found)
        else:
            config = AutoConfig.from_pretrained(place, num_labels=classes, **options)
            network = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
            load_weights(network, *weights)
        channels = getattr(network.config, "num_channels", 3)
        processor = processor_of(place, channels, **options)
        is_cached = place != name and not is_folder(name)
        if processor is None and is_cached and is_on_hub(name, _PROCESSOR):  # others cache what they need of a model
            processor = processor_of(name, channels, trust_remote_code=False)
        return network, processor


@dataclass(frozen=True)
class Processor:
    """From a PIL image to uint8 pixels by an image processor of ``transformers``, which is left the resizing alone.

    Attributes:
        processor: the library's own.
        mean, std: of each channel on a scale from 0 to 1, with which these pixels are what it makes of a picture.
    """

    processor: Any
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, image: Image.Image) -> Tensor:
        """Uint8 [channels, height, width]."""
        found = self.processor(images=image, return_tensors="pt", do_rescale=False, do_normalize=False)
        pixels: Tensor = found["pixel_values"][0]
        return pixels if pixels.dtype == torch.uint8 else pixels.round().clamp(0, 255).to(torch.uint8)

    def config(self) -> dict[str, Any]:
        """What it does, in timm's words, as far as these go: see :func:`check_config`."""
        own, size = self.processor, dict(self.processor.size or {})
        resized = size.get("shortest_edge") or size.get("height") or 224
        is_cropped = bool(getattr(own, "do_center_crop", False)) and own.crop_size
        side = (dict(own.crop_size).get("height") if is_cropped else None) or resized
        share, squashed = getattr(own, "crop_pct", None), "shortest_edge" not in size
        if share and not is_cropped and side >= 384:  # ConvNeXt's, which has a share of the side, or all of it
            share, squashed = 1.0, True
        resample = getattr(own, "resample", None)
        return {
            "input_size": (len(self.mean), side, side),
            "crop_pct": share or min(1.0, side / resized),
            "interpolation": _INTERPOLATIONS.get(2 if resample is None else int(resample), "bilinear"),
            "mean": self.mean,
            "std": self.std,
            "crop_mode": "squash" if squashed else "center",
        }


def check_config(name: str, processor: Processor, pixels: Callable[[Image.Image], Tensor]) -> None:
    """Refuse to change what an image processor does where :meth:`Processor.config` does not tell all of that.

    Args:
        name: of the model.
        processor: its own.
        pixels: what is made of its config.

    Raises:
        InvalidValue: it crops otherwise, or makes blue of red.
    """
    picture = _picture(len(processor.mean))
    own, found = processor(picture).float(), pixels(picture).float()
    if own.shape != found.shape or float((own - found).abs().mean()) > _ALIKE:
        raise InvalidValue(
            "preprocessing: expected an image processor that resizes, and crops the middle, where that is to change, "
            f"got {type(processor.processor).__name__} of {name}, which does something else; give mean and std "
            "alone, or preprocess them yourself and give smd_evo.Splits"
        )


def _picture(channels: int) -> Image.Image:
    """One whose sides differ, of which every part looks otherwise, and so does each channel."""
    down = Image.linear_gradient("L")
    found = Image.merge("RGB", (down, down.rotate(90), Image.radial_gradient("L"))).resize((160, 120))
    return found if channels == 3 else found.convert("L")


def processor_of(place: str, channels: int, **options: Any) -> Processor | None:
    """The image processor of a model; None where it has none.

    Args:
        place: its folder or its name on the Hub.
        channels: of the pictures that the model takes.
        options: how to look for it.

    Raises:
        InvalidValue: it makes something else of a picture than pixels on one scale for each channel.
    """
    from transformers import AutoImageProcessor

    try:
        own = AutoImageProcessor.from_pretrained(place, **options)
    except OSError:
        return None
    scale = float(getattr(own, "rescale_factor", None) or 1) if getattr(own, "do_rescale", False) else 1.0
    normalized = bool(getattr(own, "do_normalize", False))
    mean, std = (
        tuple(float(number) / (255 * scale) for number in (given if normalized else (usual,) * channels))
        for given, usual in ((own.image_mean, 0.0), (own.image_std, 1.0))
    )
    found = Processor(own, mean, std)
    picture = _picture(channels)
    whole = torch.as_tensor(own(images=picture, return_tensors="pt")["pixel_values"][0])
    again = 255 * (whole * torch.tensor(std)[:, None, None] + torch.tensor(mean)[:, None, None])
    try:
        pixels = found(picture).float()
    except (TypeError, ValueError, RuntimeError):  # it computes on, with pixels of 8 bits: EfficientNet's
        pixels = torch.empty(0)
    if whole.shape != pixels.shape or float((again - pixels).abs().max()) > 1:
        raise InvalidValue(
            f"model: expected an image processor that resizes, crops and normalises, got {type(own).__name__} of "
            f"{place}, which does something else; preprocess them yourself and give smd_evo.Splits"
        )
    return found


def check_labels(model: str, network: nn.Module, classes: Sequence[str]) -> None:
    """Refuse data whose classes are the network's labels in another order.

    Args:
        model: the network's name.
        network: its ``config.id2label``, or timm's ``label_names``, say what its outputs are; others are not known.
        classes: names of the data's.

    Raises:
        InvalidValue: a class is called as another output than its own.
    """
    labels = getattr(getattr(network, "config", None), "id2label", None)
    if labels is None:
        config = getattr(network, "pretrained_cfg", None)
        labels = config.get("label_names") if isinstance(config, Mapping) else None
        labels = dict(enumerate(labels)) if isinstance(labels, list | tuple) else labels
    if not isinstance(labels, Mapping):
        return
    outputs = {int(number): {_plain(word) for word in str(label).split(",")} for number, label in labels.items()}
    for number, name in enumerate(classes):
        known = [output for output, words in outputs.items() if _plain(name) in words]
        if known and number not in known:
            raise InvalidValue(
                f"model: expected the classes of the data in the order of {model}'s labels, got {name} as class "
                f"{number}, which is its output {known[0]}; rename the folders, which are taken in their order"
            )


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _check_whole(name: str, found: Mapping[str, Any]) -> None:
    """Refuse a network of which some is random."""
    missing = sorted(map(str, [*found.get("missing_keys", ()), *found.get("mismatched_keys", ())]))
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise InvalidValue(
            f"model: expected all tensors of an image classifier in hf:{name}, got none for "
            f"{', '.join(missing[:_NAMED])}{more}; give one that was trained for the data's classes"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A block in which the library shows no bars, and tells nothing below errors."""
    from transformers.utils import logging as told

    level, bars = told.get_verbosity(), told.is_progress_bar_enabled()
    told.set_verbosity(logging.ERROR)
    told.disable_progress_bar()
    try:
        yield
    finally:
        told.set_verbosity(level)
        if bars:
            told.enable_progress_bar()
