"""Which parameters can be patched in place, and which of them are one and the same."""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from smd_evo.core.integers import INTEGERS, Place
from smd_evo.core.wrapped import inner
from smd_evo.errors import InvalidValue, UnsupportedParameter, shown

__all__ = [
    "check_device",
    "check_integers",
    "check_not_frozen",
    "check_supported",
    "check_there",
    "check_uncopied",
    "without_aliases",
]

_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def check_device(device: object) -> torch.device:
    """The device of a name, if it is there: "cuda" is "cuda:0" here.

    Raises:
        InvalidValue: there is no such device.

    >>> check_device("cpu")
    device(type='cpu')
    """
    try:
        return torch.empty(0, device=device).device  # type: ignore[call-overload, no-any-return]
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0][:200]
        raise InvalidValue(f"device: expected one that is there, got {shown(device)} ({reason}); try 'cpu'") from None


def check_supported(name: str, tensor: Tensor) -> None:
    """Refuse a parameter that cannot be patched in place, with the reason."""
    if problem := _problem(name, tensor, _DTYPES):
        raise UnsupportedParameter(f"{name}: expected a strided 16- to 64-bit floating tensor, but {problem}")


def check_integers(name: str, place: Place) -> None:
    """Refuse integers that are not one number of each weight, in the whole range of their type."""
    problem = None
    if not place.stored:
        problem = "it is a buffer that no state dict holds (persistent=False), so no child could be stored"
    elif place.part is not None and place.tensor.shape != place.holder.shape:
        problem = f"it is {list(place.tensor.shape)} inside of {list(place.holder.shape)}: packed, or no weights"
    elif getattr(place.holder, "target_dtype", place.tensor.dtype) != place.tensor.dtype:
        problem = f"it stands for {place.holder.target_dtype}, whose range is smaller"  # type: ignore[attr-defined]
    elif place.part is not None and inner(place.tensor):
        problem = "it is of a tensor subclass itself"
    if problem := problem or _problem(name, place.tensor, INTEGERS):
        raise UnsupportedParameter(f"{name}: expected a strided int8 or uint8 tensor of weights, but {problem}")


def _problem(name: str, tensor: Tensor, dtypes: tuple[torch.dtype, ...]) -> str | None:
    """Why a tensor cannot be patched in place, and what to do; None if it can."""
    problem = None
    if is_lazy(tensor):
        problem = "it is lazy; run one batch through the network first"
    elif tensor.is_meta:
        problem = "it is on the meta device; load its weights first"
    elif tensor.is_inference():
        problem = "it was made in inference mode, where alone it may change; build the network outside of it"
    elif tensor.is_quantized or tensor.layout != torch.strided or type(tensor.data) is not Tensor:
        problem = "it is quantized, sparse or of a tensor subclass; use the plain floating-point network"
        if parts := [part for part, each in inner(tensor).items() if each.dtype in INTEGERS]:
            problem += f", or name the integers inside of it, as in select={f'{name}.{parts[0]}'!r}"
    elif tensor.dtype not in dtypes:
        mend = "name it in select=..." if tensor.dtype in INTEGERS else "leave it out with select=..."
        problem = f"it is {tensor.dtype}; {mend} or convert the network"
    elif _has_gaps(tensor):
        problem = "its memory is expanded or has gaps; make it .contiguous() first"
    return problem


def check_there(module: nn.Module) -> None:
    """Refuse a network some of whose tensors are not there, but for those that accelerate's hooks fetch in time."""
    for place, part in module.named_modules():
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            if tensor.is_meta and not hasattr(part, "_hf_hook"):
                raise UnsupportedParameter(
                    f"{f'{place}.{name}'.lstrip('.')}: expected a network whose weights are there, but it is on the "
                    "meta device; load its weights first"
                )


def check_uncopied(module: nn.Module, device: torch.device | str | None, actors: bool) -> None:
    """Raise InvalidValue where a network cannot do without a copy.

    Args:
        module: the network.
        device: where it is to be; None: where it is.
        actors: whether there are some.
    """
    if actors:
        raise InvalidValue("copy: expected True with actors, each of which has a copy, got False; leave it out")
    if device is None:
        return
    wanted = torch.empty(0, device=device).device  # "cuda" is "cuda:0" here
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.device != wanted:
            raise InvalidValue(
                f"copy: expected True for another device than the network's, got False with {wanted} and a network "
                f"on {tensor.device}; move the network itself, or leave copy out"
            )


def check_not_frozen(module: nn.Module) -> None:
    """Refuse a network whose compiler makes constants of the weights: of the first child's, and for good."""
    for part in module.modules():
        config = getattr(part, "get_compiler_config", None)
        if not hasattr(part, "_orig_mod") and getattr(part, "_compiled_call_impl", None) is None:
            continue
        inductor = sys.modules.get("torch._inductor.config")
        if getattr(inductor, "freezing", False) or (callable(config) and (config() or {}).get("freezing")):
            raise UnsupportedParameter(
                "module: expected weights that may change, got a network compiled with torch._inductor's freezing, "
                "which makes constants of them; compile it without that option, or pass the network itself"
            )


def _has_gaps(tensor: Tensor) -> bool:
    """Whether the elements do not fill one run of memory, in whatever order of the dimensions."""
    step = 1
    for stride, length in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if length > 1 and stride != step:
            return tensor.numel() > 0
        step *= max(length, 1)
    return False


def without_aliases(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop parameters that are the memory of an earlier one (tied by ``.data``); refuse partial overlaps."""
    unique: dict[str, Tensor] = {}
    taken: dict[tuple[torch.device, int], list[tuple[int, int, str]]] = {}
    for name, tensor in parameters.items():
        if not tensor.numel():
            unique[name] = tensor
            continue
        place = (tensor.device, tensor.untyped_storage().data_ptr())
        start = int(tensor.storage_offset()) * tensor.element_size()
        end = start + tensor.numel() * tensor.element_size()
        overlaps = [other for other in taken.get(place, []) if start < other[1] and other[0] < end]
        if not overlaps:
            unique[name] = tensor
            taken.setdefault(place, []).append((start, end, name))
            continue
        twin = unique[overlaps[0][2]]
        same = overlaps[0][:2] == (start, end) and twin.stride() == tensor.stride() and twin.dtype == tensor.dtype
        if not same or twin.shape != tensor.shape:
            raise UnsupportedParameter(
                f"{name}: expected memory of its own or that of one whole tied parameter, but it overlaps "
                f"{overlaps[0][2]}; clone one of the two"
            )
    return unique
