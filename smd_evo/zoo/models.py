"""Parents by name: timm, torchvision, transformers, CIFAR ResNets, the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from smd_evo.errors import InvalidValue
from smd_evo.zoo.checkpoint import weights_of
from smd_evo.zoo.factories import made
from smd_evo.zoo.fetching import ask_hub, fetching
from smd_evo.zoo.hub import check_config, classifier_of
from smd_evo.zoo.names import CIFAR_RESNETS, MODELS, check_place, unknown, user_object
from smd_evo.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from smd_evo.zoo.published import timm_from, torchvision_from
from smd_evo.zoo.wanted import OWN, Wanted
from smd_evo.zoo.weights import load_weights

__all__ = ["MODELS", "build_model", "check_name", "check_published"]

_Weights = tuple[Mapping[str, Tensor], str | Path]
"""A state dict, and the file that it is from."""


def build_model(
    name: str,
    classes: int,
    checkpoint: str | Path | None = None,
    key: str | None = None,
    wanted: Wanted = OWN,
) -> tuple[nn.Module, Preprocessing]:
    """A pre-trained network, and what it wants done to a picture.

    Args:
        name: one of :data:`MODELS` but the demo's, or ``module.path:factory``: a function of the number of classes
            that returns a trained network; what it wants is read from timm's ``pretrained_cfg`` if it has one, else
            it gets pixels on a scale from 0 to 1 and images as large as they are. A function of nothing, a class
            and a network as it is are taken, too.
        classes: outputs that the data has.
        checkpoint: file with its weights; without one, the published ones are fetched.
        key: which weights of the file; see :func:`smd_evo.zoo.checkpoint.read_checkpoint`.
        wanted: what is done to a picture instead of what the network says.

    Raises:
        InvalidValue, InvalidType: an unknown name, weights that cannot be had, another number of classes, or no size
            of pictures where the network does not tell its own.
    """
    kind, rest = check_name(name)
    weights = weights_of(checkpoint, key)
    if kind == "timm":
        network, preprocessing = _timm(rest, classes, weights, wanted)
    elif kind == "torchvision":
        network, preprocessing = _torchvision(rest, classes, weights, wanted)
    elif kind == "hf":
        network, preprocessing = _hf(rest, classes, weights, wanted)
    elif name in CIFAR_RESNETS:
        network, preprocessing = _cifar_resnet(name, classes, weights, wanted)
    else:
        network, preprocessing = _from_factory(name, classes, weights, wanted)
    return network.eval().cpu(), preprocessing


def check_name(name: str) -> tuple[str, str]:
    """The parts of a parent's name before and after its colon.

    Raises:
        InvalidValue: neither timm nor torchvision nor this package knows it, and it is no ``module.path:factory``.
    """
    kind, _, rest = name.partition(":")
    if kind == "hf" or (kind == "timm" and _source(rest)):
        check_place(name)
    elif kind in ("timm", "torchvision") and rest:
        known = _timm_names() if kind == "timm" else _torchvision_names()
        if rest not in known:
            prefixed = [f"{kind}:{each}" for each in known]
            raise unknown("model", name, f"one of {len(known)} names of {kind}", prefixed)
    elif name not in MODELS and not rest:
        # The name of a network without its library's prefix is the likeliest mistake.
        known = [*MODELS, *(f"timm:{each}" for each in _timm_names())]
        raise unknown("model", name, f"one of {', '.join(MODELS)} or module.path:factory", known)
    return kind, rest


def check_published(name: str, classes: int) -> None:
    """Raise InvalidValue if no weights are published for a name, or those of another number of classes.

    A factory brings its own.
    """
    kind, rest = check_name(name)
    if kind == "timm" and not _source(rest):
        import timm

        published = timm.get_pretrained_cfg(rest)
        assert published is not None
        if not published.has_weights:
            raise _unpublished(name)
        _check_head(name, published.num_classes, classes)
    elif kind == "torchvision":
        from torchvision import models

        _check_head(name, len(models.get_model_weights(rest).DEFAULT.meta["categories"]), classes)
    elif name in CIFAR_RESNETS:
        raise _unpublished(name)


def _timm_names() -> list[str]:
    """Networks, and these with the tags of their published weights."""
    import timm

    return [*timm.list_models(), *timm.list_models(include_tags=True)]


def _torchvision_names() -> list[str]:
    from torchvision import models

    return list(models.list_models(module=models))


def _timm(name: str, classes: int, weights: _Weights | None, wanted: Wanted) -> tuple[nn.Module, Preprocessing]:
    import timm

    network: nn.Module
    if _source(name):
        network = _timm_of(name, classes, weights)
    elif weights is None:
        check_published(f"timm:{name}", classes)
        published = timm.get_pretrained_cfg(name)
        assert published is not None
        with fetching(f"timm:{name}"):
            ask_hub(published.hf_hub_id)
            network = timm.create_model(name, pretrained=True)
    else:
        network = timm_from(name, classes, *weights)
    return network, _preprocessing_of_timm(network, wanted)


def _timm_of(name: str, classes: int, weights: _Weights | None) -> nn.Module:
    """A network of timm of which a repository or a folder says what it is."""
    import timm

    with fetching(f"timm:{name}"):
        if weights is not None:
            return timm_from(name, classes, *weights)
        repository, _, revision = name.rpartition(":")[2].partition("@")
        if _source(name) != "local-dir":
            ask_hub(repository, revision or None)
        network = timm.create_model(name, pretrained=True)
    outputs: Any = network.num_classes
    _check_head(f"timm:{name}", outputs, classes)
    return network


def _source(name: str) -> str:
    """Where timm is to have a network from, if its name says so: ``hf_hub:OWNER/NAME``, ``local-dir:FOLDER``."""
    kind, colon, _ = name.partition(":")
    return kind if colon and kind in ("hf_hub", "hf-hub", "local-dir") else ""


def _preprocessing_of_timm(network: nn.Module, wanted: Wanted) -> Preprocessing:
    from timm.data.config import resolve_model_data_config

    return _through_timm(resolve_model_data_config(network), wanted)


def _through_timm(own: Mapping[str, Any], wanted: Wanted, channels_last: bool = True) -> Preprocessing:
    """timm's transform for evaluation, of a network's own configuration and what is wanted instead."""
    from timm.data.transforms_factory import create_transform

    config = wanted.over(own)
    transform = create_transform(**config, normalize=False)
    return Preprocessing(
        transform, config["mean"], config["std"], config["input_size"][0], channels_last, is_asked=wanted != OWN
    )


def _torchvision(
    name: str, classes: int, weights: _Weights | None, wanted: Wanted
) -> tuple[nn.Module, Preprocessing]:
    from torchvision import models
    from torchvision.transforms import v2

    published = models.get_model_weights(name).DEFAULT
    network: nn.Module
    if weights is None:
        check_published(f"torchvision:{name}", classes)
        with fetching(f"torchvision:{name}"):
            network = models.get_model(name, weights=published)
    else:
        network = torchvision_from(name, classes, *weights)
    preset = published.transforms()
    if wanted != OWN:
        (size,), (resized,) = preset.crop_size, preset.resize_size
        own = _own(size, _crop(size, resized), preset.interpolation.value, tuple(preset.mean), tuple(preset.std))
        return network, _through_timm(own, wanted)
    transform = v2.Compose(
        [
            v2.Resize(preset.resize_size, interpolation=preset.interpolation, antialias=preset.antialias),
            v2.CenterCrop(preset.crop_size),
            v2.PILToTensor(),
        ]
    )
    return network, Preprocessing(transform, tuple(preset.mean), tuple(preset.std), 3, channels_last=True)


def _hf(name: str, classes: int, weights: _Weights | None, wanted: Wanted) -> tuple[nn.Module, Preprocessing]:
    network, processor = classifier_of(name, classes, weights)
    config: Any = network.config
    _check_head(f"hf:{name}", config.num_labels, classes)
    if processor is None:
        if wanted.size is None:
            raise InvalidValue(
                f"preprocessing: expected an image processor of hf:{name}, got none; put its "
                "preprocessor_config.json into the folder, or add size=224, say"
            )
        return network, _through_timm(_own(wanted.size), wanted, channels_last=False)
    own = processor.config()
    if replace(wanted, mean=None, std=None) != OWN:
        check_config(f"hf:{name}", processor, _through_timm(own, OWN).pixels)
        return network, _through_timm(own, wanted, channels_last=False)
    numbers = wanted.over(own)
    preprocessing = Preprocessing(
        processor, numbers["mean"], numbers["std"], len(processor.mean), is_asked=wanted != OWN
    )
    return network, preprocessing


def _cifar_resnet(
    name: str, classes: int, weights: _Weights | None, wanted: Wanted
) -> tuple[nn.Module, Preprocessing]:
    from torchvision.transforms import v2

    from smd_evo.zoo.cifar_resnet import CifarResNet

    if weights is None:
        raise _unpublished(name)
    network = CifarResNet(CIFAR_RESNETS[name], classes)
    load_weights(network, *weights)
    if wanted != OWN:
        return network, _through_timm({**_own(32, 1.0), "crop_mode": "squash"}, wanted)
    transform = v2.Compose([v2.Resize((32, 32)), v2.PILToTensor()])
    return network, Preprocessing(transform, IMAGENET_MEAN, IMAGENET_STD, 3, channels_last=True)


def _from_factory(
    name: str, classes: int, weights: _Weights | None, wanted: Wanted
) -> tuple[nn.Module, Preprocessing]:
    from torchvision.transforms import v2

    network = made(name, user_object("model", name, MODELS), classes)
    if weights is not None:
        load_weights(network, *weights)
    if getattr(network, "pretrained_cfg", None):
        return network, _preprocessing_of_timm(network, wanted)
    if wanted == OWN:
        return network, Preprocessing(v2.PILToTensor())
    if wanted.size is None:
        raise InvalidValue(f"preprocessing: expected a size for {name}, which says none, got none; add size=224, say")
    return network, _through_timm(_own(wanted.size), wanted, channels_last=False)


def _own(
    size: int,
    crop: float = 0.875,
    interpolation: str = "bilinear",
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> dict[str, Any]:
    """What is usual, in timm's words."""
    return {
        "input_size": (3, size, size),
        "crop_pct": crop,
        "interpolation": interpolation,
        "mean": mean,
        "std": std,
    }


def _crop(size: int, resized: int) -> float:
    """The share of which timm, which rounds down, makes that size again."""
    share = size / resized
    return share if int(size / share) == resized else math.nextafter(share, 0)


def _unpublished(name: str) -> InvalidValue:
    return InvalidValue(f"checkpoint: expected a file with the weights of {name}, got none; none are published")


def _check_head(name: str, outputs: int, classes: int) -> None:
    if outputs != classes:
        raise InvalidValue(
            f"model: expected a network for the {classes} classes of the data, got {name}, whose published weights "
            f"have {outputs}; give a checkpoint of one that was trained for them"
        )
