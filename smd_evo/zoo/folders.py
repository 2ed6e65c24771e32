"""Folders of images, one for each class, with whatever else lies beside them."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS, is_image_file

from smd_evo.errors import InvalidValue
from smd_evo.zoo.preprocessing import eight_bit, upright

__all__ = ["FORMATS", "ClassFolders", "open_picture"]

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
"""Formats of the extensions that torchvision takes for images. PIL knows more, and starts Ghostscript for one."""


def open_picture(path: str) -> Image.Image:
    """The picture in a file, upright, as RGB.

    Raises:
        OSError and others of PIL's: it is none of :data:`FORMATS`, or damaged.
        InvalidType: it holds numbers of an unknown scale.
    """
    with open(path, "rb") as file:
        return upright(eight_bit(Image.open(file, formats=FORMATS))).convert("RGB")


class ClassFolders(ImageFolder):  # type: ignore[misc]
    """torchvision's ``ImageFolder`` without what is hidden, ``.ipynb_checkpoints`` for one; classes may be empty.

    Args:
        path: the folder of the classes' folders.

    Raises:
        InvalidValue: there are no such folders, or no images in any.
    """

    def __init__(self, path: Path) -> None:
        inside = len(str(path))
        hidden = f"{os.sep}."
        super().__init__(
            str(path),
            loader=open_picture,
            is_valid_file=lambda file: is_image_file(file) and hidden not in file[inside:],
            allow_empty=True,
        )
        if not self.samples:
            raise InvalidValue(
                f"data: expected images in the class folders of {path}, got none in {', '.join(self.classes[:3])}; "
                f"their names end in {', '.join(IMG_EXTENSIONS)}"
            )

    def find_classes(self, directory: str | Path) -> tuple[list[str], dict[str, int]]:
        """Names of the folders, sorted, and their numbers."""
        entries = [entry for entry in os.scandir(directory) if not entry.name.startswith(".")]
        names = sorted(entry.name for entry in entries if entry.is_dir())
        if not names:
            images = sum(is_image_file(entry.name) for entry in entries)
            raise InvalidValue(
                f"data: expected a folder of images for each class in {directory}, got {images} images and no "
                "folder; images that lie there side by side have no labels, sort them into folders"
            )
        return names, {name: number for number, name in enumerate(names)}
