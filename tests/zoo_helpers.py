"""Tiny pictures, folders of them, and networks that show what they were given."""

import textwrap

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn


def picture(number=0, mode="RGB", size=(40, 30)):
    """A smooth picture with some noise, another one for each number."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse).astype(int) + generator.integers(-9, 10, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def numbered(number, size=(6, 4)):
    """A picture that says its number: red and green of all pixels are its digits to base 256."""
    return Image.new("RGB", size, (number // 256, number % 256, 7))


def number_of(pixels):
    """The numbers of such pictures [n, 3, h, w] as a list."""
    return (pixels[:, 0, 0, 0].int() * 256 + pixels[:, 1, 0, 0]).tolist()


def write_folder(path, classes, start=0, make=numbered):
    """``path/<class>/<number>.png`` with so many pictures of each class; numbers count through all classes."""
    for name, count in classes.items():
        (path / name).mkdir(parents=True, exist_ok=True)
        for number in range(start, start + count):
            make(number).save(path / name / f"{number:04}.png")
        start += count
    return path


def damage(file, how="truncated"):
    """Turn a picture into a JPEG that is cut short, a text, or nothing; its name stays."""
    if how == "truncated":
        picture().save(file, "JPEG")
        file.write_bytes(file.read_bytes()[:-200])
    else:
        file.write_bytes({"text": b"<html>not found</html>", "empty": b""}[how])


def saved(network, file):
    """The network's weights as a safetensors file."""
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    return file


def lively(network, seed=0):
    """The network with random weights and statistics such that its outputs depend on its inputs."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.dim() > 1:
                nn.init.kaiming_normal_(tensor, generator=generator)
            elif tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
    return network.eval()


def untrained(name="test_resnet", classes=1000, seed=0):
    """A lively network of timm."""
    with torch.random.fork_rng(devices=[]):
        return lively(timm.create_model(name, num_classes=classes), seed)


def convnext_as_published(network):
    """The state of timm's ConvNeXt in the names of its authors' own code."""
    found = {}
    for name, tensor in network.state_dict().items():
        for ours, theirs in (
            (".blocks.", "."),
            ("conv_dw", "dwconv"),
            ("mlp.fc", "pwconv"),
            ("stem.", "downsample_layers.0."),
            ("head.norm.", "norm."),
            ("head.fc.", "head."),
        ):
            name = name.replace(ours, theirs)
        parts = name.split(".")
        if "downsample" in parts:
            name = ".".join(["downsample_layers", parts[1], *parts[3:]])
        found[name] = tensor.contiguous()
    return found


def write_module(folder, name, code):
    """A module of the user's in the current folder."""
    (folder / f"{name}.py").write_text(textwrap.dedent(code))
