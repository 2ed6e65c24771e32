"""Files of images: of which formats they are opened, and as what."""

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torchvision.datasets.folder import IMG_EXTENSIONS
from zoo_helpers import picture

from smd_evo.errors import InvalidType
from smd_evo.zoo.folders import FORMATS, ClassFolders, open_picture


def test_formats_are_those_of_the_extensions():
    Image.init()
    assert {Image.EXTENSION[each] for each in IMG_EXTENSIONS} == set(FORMATS)


@pytest.mark.parametrize("form", [*FORMATS, "MPO"])
def test_the_content_tells_the_format_and_not_the_name(tmp_path, form):
    picture().save(tmp_path / "x.png", form)
    found = open_picture(str(tmp_path / "x.png"))
    assert (found.mode, found.size) == ("RGB", picture().size)


@pytest.mark.parametrize("form", ["GIF", "EPS", "PDF", "ICO", "TGA", "JPEG2000"])
def test_no_others_are_opened(tmp_path, form, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript would run"))
    picture().save(tmp_path / "x.png", form)
    with pytest.raises(OSError, match="cannot identify image file"):
        open_picture(str(tmp_path / "x.png"))


def test_turned_and_of_16_bits(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    values = np.arange(24).reshape(4, 6) * 2570
    Image.fromarray(values.astype(np.uint16)).save(tmp_path / "x.png", exif=exif)
    found = np.asarray(open_picture(str(tmp_path / "x.png")))
    assert np.array_equal(found, np.repeat(np.rot90(values // 257, 2)[..., None], 3, axis=2))


def test_floats_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 6), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(InvalidType, match=r"^data: expected images of 8 or 16 bits a channel, got floats"):
        open_picture(str(tmp_path / "x.tif"))


def test_a_data_set_of_them_travels_to_processes(tmp_path):
    (tmp_path / "a").mkdir()
    picture().save(tmp_path / "a" / "x.png")
    loader = torch.utils.data.DataLoader(
        ClassFolders(tmp_path), num_workers=1, multiprocessing_context="spawn", collate_fn=list
    )
    assert [[(image.size, number) for image, number in batch] for batch in loader] == [[(picture().size, 0)]]
