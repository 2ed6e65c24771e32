"""Images are decoded once; the damaged ones are named, counted and left out, up to a limit, early beyond it."""

import io
import multiprocessing
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from zoo_helpers import damage, number_of, numbered, picture, write_folder

from smd_evo.errors import InvalidType, InvalidValue
from smd_evo.zoo import pixels as module
from smd_evo.zoo.folders import ClassFolders
from smd_evo.zoo.pixels import Pixels, decoded, workers
from smd_evo.zoo.preprocessing import Preprocessing

ENOUGH = 2**30
PREPROCESSING = Preprocessing(v2.PILToTensor(), channels=3)


def of_folder(path, preprocessing=PREPROCESSING, numbers=None):
    images = ImageFolder(str(path))
    return Pixels(images, np.arange(len(images)) if numbers is None else numbers, preprocessing)


def files(path):
    return sorted(path.rglob("*.png"))


@pytest.fixture(params=[0, 2], ids=["one process", "workers"])
def processes(request, monkeypatch):
    """Both ways to decode, whatever the images' size."""
    monkeypatch.setattr(module, "workers", lambda _: request.param)
    monkeypatch.setattr(module, "_BATCH", 5)
    return request.param


class TestDecoded:
    def test_holds_the_pixels_of_the_asked_images_in_their_order(self, tmp_path, processes):
        numbers = np.random.default_rng(0).permutation(40)[:33]
        held, good, bad = decoded(of_folder(write_folder(tmp_path, {"a": 20, "b": 20}), numbers=numbers), ENOUGH)
        assert (held.dtype, held.shape) == (torch.uint8, (33, 3, 4, 6))
        assert number_of(held) == numbers.tolist()
        assert good.tolist() == list(range(33))
        assert not bad

    @pytest.mark.parametrize("how", ["truncated", "text", "empty"])
    def test_leaves_out_what_cannot_be_decoded(self, tmp_path, processes, how):
        write_folder(tmp_path, {"a": 100, "b": 100})
        for number in (3, 150):
            damage(files(tmp_path)[number], how)
        calls = []
        held, good, bad = decoded(of_folder(tmp_path), ENOUGH, lambda: calls.append(1))
        left = [number for number in range(200) if number not in (3, 150)]
        assert number_of(held) == good.tolist() == left
        assert bad == [str(files(tmp_path)[3]), str(files(tmp_path)[150])]
        assert len(calls) == 200

    @pytest.mark.parametrize(("total", "limit"), [(2, 1), (99, 1), (199, 1), (200, 2), (300, 3)])
    def test_one_percent_may_be_unreadable_and_one_always(self, tmp_path, total, limit):
        write_folder(tmp_path, {"a": total})
        for file in files(tmp_path)[:limit]:
            damage(file, "text")
        assert len(decoded(of_folder(tmp_path), ENOUGH)[1]) == total - limit
        damage(files(tmp_path)[limit], "empty")
        expected = f"^data: expected at most {limit} unreadable of {total} images, got at least {limit + 1} \\("
        with pytest.raises(InvalidValue, match=expected) as caught:
            decoded(of_folder(tmp_path), ENOUGH)
        for file in files(tmp_path)[: limit + 1][:3]:
            assert str(file) in str(caught.value)
        assert "cannot identify image file" in str(caught.value)
        advice = (
            "; mend them, or leave them out: --skip-unreadable, skip_unreadable=True" if total > 2 else "; mend them"
        )
        assert str(caught.value).endswith(advice)
        assert "\n" not in str(caught.value)

    def test_any_number_may_be_unreadable_if_that_is_asked_for(self, tmp_path, processes):
        write_folder(tmp_path, {"a": 20})
        for file in files(tmp_path)[1:]:
            damage(file, "text")
        held, good, bad = decoded(of_folder(tmp_path), ENOUGH, skip_unreadable=True)
        assert (number_of(held), good.tolist()) == ([0], [0])
        assert bad == [str(file) for file in files(tmp_path)[1:]]
        damage(files(tmp_path)[0], "text")
        with pytest.raises(InvalidValue, match=r"^data: expected at most 19 unreadable of 20 .*; mend them$"):
            decoded(of_folder(tmp_path), ENOUGH, skip_unreadable=True)

    def test_a_scale_that_is_not_known_is_told_at_once_wherever_it_is(self, tmp_path, processes):
        write_folder(tmp_path, {"a": 30})
        file = tmp_path / "a" / "0028.tif"
        Image.fromarray(np.ones((4, 6), np.float32)).save(file)
        pixels = Pixels(ClassFolders(tmp_path), np.arange(31), PREPROCESSING)
        with pytest.raises(InvalidType, match=r"^data: expected images of 8 or 16 bits .* got floats .*0028.tif\)$"):
            decoded(pixels, ENOUGH)

    def test_at_least_one_must_be_readable(self, tmp_path):
        damage(files(write_folder(tmp_path, {"a": 1}))[0], "empty")
        with pytest.raises(
            InvalidValue, match=r"^data: expected at most 0 unreadable of 1 images, got at least 1 \("
        ):
            decoded(of_folder(tmp_path), ENOUGH)

    def test_too_many_unreadable_ones_are_found_out_early(self, tmp_path, processes):
        write_folder(tmp_path, {"a": 300})
        for file in files(tmp_path)[::2]:
            damage(file, "empty")
        tries = []
        with pytest.raises(InvalidValue, match="got at least 4 ") as caught:
            decoded(of_folder(tmp_path), ENOUGH, lambda: tries.append(1))
        assert len(tries) == 7  # every second one until the fourth unreadable one
        assert caught.value.__traceback__ is not None
        assert not multiprocessing.active_children()  # though the traceback still holds what it was doing

    def test_a_file_that_has_vanished_is_unreadable(self, tmp_path, processes):
        images = of_folder(write_folder(tmp_path, {"a": 30}))
        gone = files(tmp_path)[12]
        gone.unlink()
        _, good, bad = decoded(images, ENOUGH)
        assert bad == [str(gone)]
        assert len(good) == 29

    def test_what_takes_more_memory_than_allowed_is_not_held(self, tmp_path, processes):
        write_folder(tmp_path, {"a": 20})
        damage(files(tmp_path)[7], "text")
        one = 3 * 4 * 6
        assert decoded(of_folder(tmp_path), 20 * one)[0] is not None
        held, good, bad = decoded(of_folder(tmp_path), 20 * one - 1)
        assert held is None
        assert good.tolist() == [number for number in range(20) if number != 7]
        assert len(bad) == 1

    def test_images_of_different_sizes(self, tmp_path, processes):
        write_folder(tmp_path, {"a": 12})
        numbered(3, (6, 5)).save(files(tmp_path)[9])
        expected = r"images of one size and type, \[3, 4, 6\] of uint8, got \[3, 5, 6\] of uint8 \(.*0009.png\)"
        with pytest.raises(InvalidValue, match=expected):
            decoded(of_folder(tmp_path), ENOUGH)

    def test_draws_no_random_numbers(self, tmp_path, processes):
        images = of_folder(write_folder(tmp_path, {"a": 12}))
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
        decoded(images, ENOUGH)
        assert torch.equal(before[0], torch.get_rng_state())
        assert before[1:] == (random.getstate(), np.random.get_state()[1].tolist())

    def test_tensors_are_held_as_they_are(self):
        class Tensors(Dataset):
            def __getitem__(self, number):
                return torch.full((2, 3), number / 8), 0

        held, good, _ = decoded(Pixels(Tensors(), np.array([5, 1]), PREPROCESSING), ENOUGH)
        assert held.dtype == torch.float32
        assert held[:, 1, 2].tolist() == [5 / 8, 1 / 8]
        assert good.tolist() == [0, 1]

    def test_errors_of_the_users_own_code_come_through(self, processes):
        class Broken(Dataset):
            def __getitem__(self, number):
                return {}["mine"] if number == 8 else (picture(), 0)

        with pytest.raises(KeyError, match="mine"):
            decoded(Pixels(Broken(), np.arange(9), PREPROCESSING), ENOUGH)
        assert not multiprocessing.active_children()

    @pytest.mark.parametrize(("sample", "got"), [(picture(), "Image"), (torch.zeros(3, 4, 4), "Tensor")])
    def test_samples_without_a_class(self, sample, got):
        with pytest.raises(InvalidType, match=rf"^data: expected samples \(image, class\), got {got} \(number 0\)$"):
            decoded(Pixels([sample] * 3, np.arange(3), PREPROCESSING), ENOUGH)


def test_unreadable_images_of_other_data_sets_have_numbers(tmp_path):
    class Files(Dataset):
        def __getitem__(self, number):
            return Image.open(tmp_path / f"{number}"), 0

    for number in (4, 6):
        picture().save(tmp_path / f"{number}", "PNG")
    assert decoded(Pixels(Files(), np.array([4, 5, 6]), PREPROCESSING), ENOUGH)[2] == ["number 5"]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((3, 32, 32), 0), ((1, 64, 64), 0), ((7,), 0), ((), 0), ((3, 224, 224), 3), ((3, 72, 72), 3)],
)
def test_only_bigger_images_are_worth_processes(shape, expected, monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert workers(torch.zeros(shape, dtype=torch.uint8)) == expected


def test_no_more_processes_than_pytorch_thinks_wise(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.utils.data.DataLoader([1, 2], num_workers=workers(torch.zeros(3, 224, 224)))
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(96)), raising=False)
    assert workers(torch.zeros(3, 224, 224)) == 8


def test_no_processes_of_a_process_that_may_have_none(monkeypatch):
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert workers(torch.zeros(3, 224, 224)) == 0


class TestOddFiles:
    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
    def test_png_of_any_mode(self, tmp_path, mode):
        (tmp_path / "a").mkdir()
        picture(mode=mode).save(tmp_path / "a" / "x.png")
        expected = v2.functional.pil_to_tensor(picture(mode=mode).convert("RGB"))
        assert torch.equal(decoded(of_folder(tmp_path), ENOUGH)[0][0], expected)

    def test_cmyk_jpeg(self, tmp_path):
        (tmp_path / "a").mkdir()
        picture(mode="CMYK").save(tmp_path / "a" / "x.jpg")
        assert decoded(of_folder(tmp_path), ENOUGH)[0].shape == (1, 3, 30, 40)

    def test_a_palette_with_transparent_colours_is_no_reason_to_warn(self, tmp_path):
        (tmp_path / "a").mkdir()
        picture(mode="P").save(tmp_path / "a" / "x.png", transparency=bytes(range(256)))
        with Image.open(tmp_path / "a" / "x.png") as image, pytest.warns(UserWarning, match="Transparency"):
            image.convert("RGB")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decoded(of_folder(tmp_path), ENOUGH)[0].shape == (1, 3, 30, 40)

    def test_damaged_files_of_any_format_raise_nothing_else(self, tmp_path):
        """Each is read or left out; bytes are changed and cut off at random."""
        generator, found = random.Random(0), []
        for form in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "PPM"):
            buffer = io.BytesIO()
            picture(size=(20, 15)).save(buffer, form)
            for number in range(60):
                content = bytearray(buffer.getvalue())
                for _ in range(generator.choice([1, 3, 10])):
                    content[generator.randrange(min(len(content), 200))] = generator.randrange(256)
                folder = tmp_path / form / f"{number}"
                folder.mkdir(parents=True)
                (folder / "x.png").write_bytes(content[: generator.choice([None, -1, len(content) // 2])])
            images = of_folder(tmp_path / form)
            found += [type(module._Tried(images)[number]) for number in range(len(images))]
        assert found.count(torch.Tensor) > 50
        assert found.count(str) > 50

    def test_a_png_with_a_chunk_of_no_name(self, tmp_path):
        """PIL calls it a syntax error."""
        write_folder(tmp_path, {"a": 3})
        file = files(tmp_path)[1]
        before, chunk, after = file.read_bytes().partition(b"IDAT")
        file.write_bytes(before[:-4] + (1).to_bytes(4, "big") + chunk + after)  # the next one seems to begin inside
        assert decoded(of_folder(tmp_path), ENOUGH)[2] == [str(file)]

    def test_a_picture_of_absurd_size_is_unreadable(self, tmp_path, monkeypatch):
        write_folder(tmp_path, {"a": 3})
        picture(size=(300, 300)).save(files(tmp_path)[1])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 300 / 2 - 1)  # twice that is an error
        assert decoded(of_folder(tmp_path), ENOUGH)[2] == [str(files(tmp_path)[1])]
