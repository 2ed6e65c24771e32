"""Parents by name: timm, torchvision, CIFAR ResNets, the user's own."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import nn

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.zoo.checkpoint import load_weights, read_checkpoint
from smd_evo.zoo.pixels import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from smd_evo.zoo.sources import user_object

__all__ = ["MODELS", "build_model", "check_name"]

_DEPTHS = (20, 32, 44, 56, 110)
MODELS = ("demo-cnn", "timm:NAME", "torchvision:NAME", *(f"cifar-resnet{depth}" for depth in _DEPTHS))
"""Names of parents, beside ``module.path:factory``."""


def build_model(name: str, classes: int, checkpoint: str | Path | None = None) -> tuple[nn.Module, Preprocessing]:
    """A pre-trained network, and what it wants done to a picture.

    Args:
        name: one of :data:`MODELS` but the demo's, or ``module.path:factory``: a function of the number of classes
            that returns a trained network; what it wants is read from timm's ``pretrained_cfg`` if it has one, else
            it gets pixels on a scale from 0 to 1 and images as large as they are.
        classes: outputs that the data has.
        checkpoint: file with its weights; without one, the published ones are fetched.

    Raises:
        InvalidValue, InvalidType: an unknown name, weights that cannot be had, another number of classes.
    """
    kind, rest = check_name(name)
    weights = None if checkpoint is None else read_checkpoint(checkpoint)
    if kind == "timm":
        network, preprocessing = _timm(rest, classes, pretrained=weights is None)
    elif kind == "torchvision":
        network, preprocessing = _torchvision(rest, classes, pretrained=weights is None)
    elif kind.startswith("cifar-resnet"):
        network, preprocessing = _cifar_resnet(name, classes, trained=weights is not None)
    else:
        network, preprocessing = _from_factory(name, classes)
    if weights is not None:
        assert checkpoint is not None
        load_weights(network, weights, checkpoint)
    return network.eval(), preprocessing


def check_name(name: str) -> tuple[str, str]:
    """The parts of a parent's name before and after its colon.

    Raises:
        InvalidValue: neither timm nor torchvision nor this package knows it, and it is no ``module.path:factory``.
    """
    kind, _, rest = name.partition(":")
    if kind == "timm" and rest:
        import timm

        if not timm.is_model(rest.partition(".")[0]):
            raise _nearest("timm", rest, timm.list_models())
    elif kind == "torchvision" and rest:
        from torchvision import models

        if rest not in (known := models.list_models(module=models)):
            raise _nearest("torchvision", rest, known)
    elif name not in MODELS and not rest:
        raise _unknown(name)
    return kind, rest


def _unknown(name: str) -> InvalidValue:
    import timm

    # The name of a network without its library's prefix is the likeliest mistake.
    known = [*MODELS, *(f"timm:{known}" for known in timm.list_models())]
    near = difflib.get_close_matches(name, known, 1) or difflib.get_close_matches(f"timm:{name}", known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InvalidValue(f"model: expected one of {', '.join(MODELS)}, module.path:factory, got {name!r}{hint}")


def _nearest(library: str, name: str, known: Sequence[str]) -> InvalidValue:
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean '{library}:{near[0]}'?" if near else ""
    return InvalidValue(f"model: expected one of {len(known)} names of {library}, got {name!r}{hint}")


def _timm(name: str, classes: int, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    import timm

    if pretrained:
        own = getattr(timm.get_pretrained_cfg(name, allow_unregistered=False), "num_classes", classes)
        _check_head(f"timm:{name}", own, classes)
        network = _fetched(f"timm:{name}", lambda: timm.create_model(name, pretrained=True, num_classes=classes))
    else:
        network = timm.create_model(name, num_classes=classes)
    return network, _preprocessing_of_timm(network)


def _preprocessing_of_timm(network: nn.Module) -> Preprocessing:
    from timm.data.config import resolve_model_data_config
    from timm.data.transforms_factory import create_transform

    config = resolve_model_data_config(network)
    transform = create_transform(**config, normalize=False)
    return Preprocessing(transform, config["mean"], config["std"], config["input_size"][0])


def _torchvision(name: str, classes: int, pretrained: bool) -> tuple[nn.Module, Preprocessing]:
    from torchvision import models
    from torchvision.transforms import v2

    weights = models.get_model_weights(name).DEFAULT
    if pretrained:
        _check_head(f"torchvision:{name}", len(weights.meta["categories"]), classes)
        network = _fetched(f"torchvision:{name}", lambda: models.get_model(name, weights=weights))
    else:
        network = models.get_model(name, weights=None, num_classes=classes)
    preset = weights.transforms()
    transform = v2.Compose(
        [
            v2.Resize(preset.resize_size, interpolation=preset.interpolation, antialias=preset.antialias),
            v2.CenterCrop(preset.crop_size),
            v2.PILToTensor(),
        ]
    )
    return network, Preprocessing(transform, tuple(preset.mean), tuple(preset.std), 3)


def _cifar_resnet(name: str, classes: int, trained: bool) -> tuple[nn.Module, Preprocessing]:
    from torchvision.transforms import v2

    from smd_evo.zoo.cifar_resnet import CifarResNet

    if not trained:
        raise InvalidValue(
            f"checkpoint: expected a file with the weights of {name}, got none; none are published here"
        )
    network = CifarResNet(int(name.removeprefix("cifar-resnet")), classes)
    transform = v2.Compose([v2.Resize((32, 32)), v2.PILToTensor()])
    return network, Preprocessing(transform, IMAGENET_MEAN, IMAGENET_STD, 3)


def _from_factory(name: str, classes: int) -> tuple[nn.Module, Preprocessing]:
    from torchvision.transforms import v2

    network = user_object("model", name)(classes)
    if not isinstance(network, nn.Module):
        raise InvalidType(f"model: expected a torch.nn.Module from {name}, got {type(network).__name__}")
    if getattr(network, "pretrained_cfg", None):
        return network, _preprocessing_of_timm(network)
    return network, Preprocessing(v2.PILToTensor())


def _check_head(name: str, outputs: int, classes: int) -> None:
    if outputs != classes:
        raise InvalidValue(
            f"model: expected a network for the {classes} classes of the data, got {name}, whose published weights "
            f"have {outputs}; give a checkpoint of one that was trained for them"
        )


def _fetched(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """What ``build`` returns; libraries that fetch weights say in many words that there is no network."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.ERROR)
    try:
        return build()
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InvalidValue(
            f"model: expected the weights of {name} in the cache or from the network, got neither ({reason}); "
            "give a checkpoint: a file of its weights, safetensors or torch"
        ) from None
    finally:
        hub.setLevel(level)
