"""Names of a file's tensors made those of a network: without what wrappers and training frameworks add."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterable, Mapping

from torch import Tensor

from smd_evo.zoo.checkpoint import is_averaged, under, with_metadata

__all__ = ["COUNT", "renamed"]

COUNT = "num_batches_tracked"
"""Last part of the names of batch normalisation's counts, which change no output and which old files lack."""

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Where DataParallel, torch.compile, FSDP and activation checkpointing put the network that they wrap."""

_HOLDERS = _WRAPPERS | {"model", "net", "network", "backbone", "classifier", "base_model", "student"}
"""Where training code puts its network beside losses and metrics."""

_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$")
"""Names before PyTorch 0.4, in which torchvision publishes DenseNet; ``norm.1.weight`` is ``norm1.weight`` now."""


def renamed(weights: Mapping[str, Tensor], known: Collection[str]) -> tuple[OrderedDict[str, Tensor], list[str], str]:
    """The same weights by a network's names, as far as that is certain.

    Args:
        weights: by the file's names; ``_metadata`` is renamed, too.
        known: the network's own names.

    Returns:
        The weights, what was left out (names of tensors beside the network), and what the names had in front.
    """
    unwrapped = _without_wrappers(weights, known)
    prefix = _prefix(unwrapped, known)
    found = _without_wrappers(under(unwrapped, prefix), known)
    left_out = [name for name in unwrapped if not name.startswith(prefix)]
    if "n_averaged" not in known:  # of torch.optim.swa_utils.AveragedModel
        found.pop("n_averaged", None)
        left_out = [name for name in left_out if name != "n_averaged"]
    names = {name: _present(name, known) for name in found}
    moved = OrderedDict((names[name], tensor) for name, tensor in found.items())
    return with_metadata(moved, getattr(found, "_metadata", {})), left_out, prefix


def _present(name: str, known: Collection[str]) -> str:
    new = _OLD_DENSENET.sub(r"\1\2", name)
    return new if name not in known and new in known else name


def _without_wrappers(weights: Mapping[str, Tensor], known: Collection[str]) -> OrderedDict[str, Tensor]:
    """The same without wrappers anywhere in the names, but where the network's own names have them."""
    own = {_plain(name): name for name in known}
    if len(own) < len(known):  # wrappers tell two of its tensors apart
        return under(weights, "")
    wrapped = any(name != plain for plain, name in own.items())

    def new(name: str) -> str:
        return name if name in known else own.get(_plain(name), name if wrapped else _plain(name))

    found = OrderedDict((new(name), tensor) for name, tensor in weights.items())
    if len(found) < len(weights):  # they tell two of the file's tensors apart
        return under(weights, "")
    places = {_place(name) for name in known}
    modules = {_plain(place): place for each in places for place in _with_parents(each)}
    metadata = {
        place if wrapped and place in modules.values() else modules.get(_plain(place), _plain(place)): about
        for place, about in getattr(weights, "_metadata", {}).items()
    }
    return with_metadata(found, metadata)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _place(name: str) -> str:
    return name.rpartition(".")[0]


def _with_parents(place: str) -> Iterable[str]:
    parts = place.split(".")
    return (".".join(parts[:count]) for count in range(len(parts) + 1))


def _prefix(names: Collection[str], known: Collection[str]) -> str:
    """What stands before the network's names: what most of them are found behind, averaged weights first."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for start in range(len(parts)):
            if (rest := ".".join(parts[start:])) in known and parts[-1] != COUNT:
                counts[name[: len(name) - len(rest)]] += 1
    usable = [prefix for prefix in counts if _is_usable(prefix, names)]
    return max(usable, key=lambda prefix: (counts[prefix], is_averaged(prefix), -len(prefix)), default="")


def _is_usable(prefix: str, names: Collection[str]) -> bool:
    """Whether it may be taken off: it is before all names, or it is a usual one."""
    words = prefix.split(".")[:-1]
    return all(word in _HOLDERS or is_averaged(word) for word in words) or all(
        name.startswith(prefix) for name in names
    )
