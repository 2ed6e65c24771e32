"""Pictures become uint8 pixels, and these what timm and torchvision themselves make of the pictures."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import timm
import torch
from helpers import SmallNet
from PIL import Image
from torch import nn
from torchvision import models
from torchvision.transforms import v2
from zoo_helpers import lively, picture, saved, untrained

from smd_evo import Evaluator, ParameterSpace, RandomSubspace, sample_mutations
from smd_evo.errors import InvalidType
from smd_evo.zoo.models import build_model
from smd_evo.zoo.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Normalize, Preprocessing

MODES = ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "HSV"]


def small(channels=1, classes=3):
    """A network that takes images [n, channels, 4, 4] of uint8, the hook with it."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes))
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.4,), (0.3,))
    network.register_forward_pre_hook(Normalize(Preprocessing(v2.PILToTensor(), mean, std)))
    return network.eval()


def pixels(channels=1, count=5):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, channels, 4, 4), generator=generator, dtype=torch.uint8)


class TestPictures:
    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("channels", [1, 3])
    def test_of_any_mode_have_the_channels_that_the_network_wants(self, mode, channels):
        image = picture(mode=mode)
        found = Preprocessing(v2.PILToTensor(), channels=channels)(image)
        assert found.dtype == torch.uint8
        assert torch.equal(found, v2.functional.pil_to_tensor(image.convert("L" if channels == 1 else "RGB")))
        assert found.shape == (channels, 30, 40)

    @pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1), ("CMYK", 3), ("P", 3)])
    def test_are_gray_or_coloured_as_they_are_where_the_network_does_not_say(self, mode, channels):
        assert Preprocessing(v2.PILToTensor())(picture(mode=mode)).shape == (channels, 30, 40)

    @pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_are_turned_as_their_metadata_say(self, tmp_path, orientation, form, mode):
        """A corner tells: the picture is stored turned, and is to be seen as it was."""
        seen = picture(mode=mode)
        back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(orientation)  # PIL's number of the inverse
        stored = seen if back is None else seen.transpose(Image.Transpose(back))
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"lossless": True} if form == "WEBP" else {}
        stored.save(tmp_path / "x", form, exif=exif, **options)
        # As a file, not by its name: Pillow 13 maps gray TIFFs into memory by name, and then they are scrambled.
        with (tmp_path / "x").open("rb") as file, Image.open(file) as image:
            found = Preprocessing(v2.PILToTensor(), channels=3)(image)
        assert torch.equal(found, v2.functional.pil_to_tensor(seen.convert("RGB")))

    def test_with_damaged_metadata_are_taken_as_they_are_stored(self, tmp_path):
        picture().save(tmp_path / "x.png", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
        with Image.open(tmp_path / "x.png") as image, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PIL's
            found = Preprocessing(v2.PILToTensor())(image)
        assert torch.equal(found, v2.functional.pil_to_tensor(picture()))

    @pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_of_16_bits_are_put_on_the_scale_of_8(self, tmp_path, form, channels):
        values = np.arange(65536).reshape(256, 256)
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / "x", form)
        with Image.open(tmp_path / "x") as image:
            found = Preprocessing(v2.PILToTensor(), channels=channels)(image)
        assert torch.equal(found, torch.from_numpy(np.rint(values * 255 / 65535)).byte().expand(channels, -1, -1))

    def test_of_16_bits_are_turned_too(self, tmp_path):
        values = np.arange(24).reshape(4, 6) * 2570
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / "x.png", exif=exif)
        with Image.open(tmp_path / "x.png") as image:
            found = Preprocessing(v2.PILToTensor(), channels=1)(image)
        assert found[0].tolist() == np.rot90(values // 257, -1).tolist()

    @pytest.mark.parametrize(("dtype", "kind"), [(np.float32, "floats"), (np.int32, "integers of 32 bits")])
    def test_of_numbers_on_no_known_scale_are_refused(self, tmp_path, dtype, kind):
        Image.fromarray(np.array([[0, 1], [255, 40000]], dtype)).save(tmp_path / "x.tif")
        with (
            Image.open(tmp_path / "x.tif") as image,
            pytest.raises(InvalidType, match=f"^data: expected images of 8 or 16 bits a channel, got {kind}"),
        ):
            Preprocessing(v2.PILToTensor(), channels=3)(image)

    def test_tensors_stay_as_they_are(self):
        for tensor in (torch.rand(2, 3), torch.zeros(1, 4, 4, dtype=torch.uint8)):
            assert Preprocessing(v2.PILToTensor(), channels=3)(tensor) is tensor

    def test_other_things_are_refused(self):
        with pytest.raises(InvalidType, match=r"^data: expected PIL images or tensors, got ndarray; convert them$"):
            Preprocessing(v2.PILToTensor())(pixels()[0].numpy())


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
@pytest.mark.parametrize(
    "name",
    [
        "timm:test_resnet",
        "timm:test_vit",
        "timm:test_byobnet",
        "torchvision:squeezenet1_0",
        "torchvision:efficientnet_b0",
    ],
)
class TestPublishedNetworks:
    """Pixels and hook together against the library's own transform, also with the mean and std of each."""

    @staticmethod
    def pair(name, tmp_path):
        library, rest = name.split(":")
        own = untrained(rest) if library == "timm" else lively(models.get_model(rest))
        network, preprocessing = build_model(name, 1000, saved(own, tmp_path / "weights.safetensors"))
        network.register_forward_pre_hook(Normalize(preprocessing))
        if library == "timm":
            transform = timm.data.create_transform(**timm.data.resolve_model_data_config(own))
        else:
            transform = models.get_model_weights(rest).DEFAULT.transforms()
        return own, transform, network, preprocessing

    def test_compute_what_they_would_of_the_librarys_own_transform(self, name, mode, tmp_path):
        own, transform, network, preprocessing = self.pair(name, tmp_path)
        image = picture(mode=mode, size=(300, 260))
        found = preprocessing(image)
        with torch.inference_mode():
            expected = transform(image.convert("RGB"))[None]
            logits = network(found[None])
            assert (logits - own(expected)).norm() < 1e-4 * logits.norm()
            assert (logits - own(1.05 * expected)).norm() > 1e-3 * logits.norm()
        assert found.dtype == torch.uint8
        normalised = Normalize(preprocessing)(network, (found[None],))[0]
        torch.testing.assert_close(normalised, expected, rtol=1e-5, atol=2e-6)
        pickle.loads(pickle.dumps(preprocessing))  # it travels to the processes that decode


class TestNormalize:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_is_torchvisions(self, channels):
        mean, std = ((0.4,), (0.3,)) if channels == 1 else (IMAGENET_MEAN, IMAGENET_STD)
        expected = v2.functional.normalize(v2.functional.to_dtype(pixels(channels), scale=True), mean, std)
        found = Normalize(Preprocessing(v2.PILToTensor(), mean, std))(nn.Identity(), (pixels(channels), "more"))
        torch.testing.assert_close(found[0], expected, rtol=1e-5, atol=1e-6)
        assert found[1:] == ("more",)

    def test_gray_images_become_as_many_channels_as_the_mean_has(self):
        hook = Normalize(Preprocessing(v2.PILToTensor(), IMAGENET_MEAN, IMAGENET_STD))
        gray = pixels(1)
        assert torch.equal(hook(nn.Identity(), (gray,))[0], hook(nn.Identity(), (gray.expand(-1, 3, -1, -1),))[0])

    @pytest.mark.parametrize(
        "inputs",
        [
            (torch.full((2, 3, 4, 4), 0.5),),
            (torch.arange(96).view(2, 3, 4, 4),),
            (torch.arange(14, dtype=torch.uint8).view(2, 7),),
            (torch.ones(2, dtype=torch.uint8),),
            ("text", 1),
            (),
        ],
        ids=["floats", "int64", "a table", "a vector", "a text", "nothing"],
    )
    def test_what_are_no_pixels_pass_as_they_are(self, inputs):
        found = Normalize(Preprocessing(v2.PILToTensor(), IMAGENET_MEAN, IMAGENET_STD))(nn.Identity(), inputs)
        assert len(found) == len(inputs)
        assert all(one is other for one, other in zip(found, inputs, strict=True))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_the_layout_is_the_same_however_the_pixels_lie_in_memory(self, channels):
        for channels_last in (False, True):
            hook = Normalize(Preprocessing(v2.PILToTensor(), (0.4,), (0.3,), channels_last=channels_last))
            one = hook(nn.Identity(), (pixels(3),))[0]
            other = hook(nn.Identity(), (pixels(3).to(memory_format=torch.channels_last),))[0]
            assert one.stride() == other.stride()
            layout = torch.channels_last if channels_last else torch.contiguous_format
            assert one.is_contiguous(memory_format=layout)

    def test_a_batch_is_normalised_once_as_long_as_somebody_holds_it_and_nobody_writes_to_it(self):
        network = small()
        (hook,) = network._forward_pre_hooks.values()
        images = pixels()
        first = hook(network, (images,))[0]
        values = first.clone()
        assert hook(network, (images,))[0] is first
        assert hook(network, (images.clone(),))[0] is not first
        again = hook(network, (images,))[0]
        again.mul_(2)
        assert torch.equal(hook(network, (images,))[0], values)
        kept = hook(network, (images,))[0]
        images += 1
        assert torch.equal(
            hook(network, (images,))[0], small()._forward_pre_hooks.popitem()[1](network, (images,))[0]
        )
        assert torch.equal(kept, values)

    def test_what_nobody_counts_the_writes_to_is_made_anew(self):
        network, images = small(), pixels()
        (hook,) = network._forward_pre_hooks.values()
        with torch.inference_mode():
            first = hook(network, (images,))[0]
            assert hook(network, (images,))[0] is not first
            unseen = pixels()
        first = hook(network, (unseen,))[0]
        assert hook(network, (unseen,))[0] is not first

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
    def test_is_in_the_type_that_the_network_has_by_now(self, dtype):
        network, images = small(), pixels()
        outputs = network(images)
        network.to(dtype)
        found = network(images)
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), outputs, rtol=0.1, atol=0.1)

    @pytest.mark.parametrize("copied", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
    def test_a_copy_begins_without(self, copied):
        network, images = small(), pixels()
        (hook,) = network._forward_pre_hooks.values()
        first = hook(network, (images,))[0]
        (other,) = copied(network)._forward_pre_hooks.values()
        assert torch.equal(other(network, (images,))[0], first)
        assert other(network, (images,))[0] is not first

    def test_children_that_share_layers_have_it_from_the_record(self, monkeypatch):
        network, images = small(3), pixels(3)
        made = []
        divided = torch.Tensor.__truediv__
        monkeypatch.setattr(torch.Tensor, "__truediv__", lambda one, other: made.append(one) or divided(one, other))
        evaluator = Evaluator(network, (images, torch.zeros(5, dtype=torch.int64)), select="3.*", reuse=True)
        evaluator.features = None
        recipes = sample_mutations(0, 8, subspace=RandomSubspace(0.5), sigma=0.1)
        found = evaluator.predict(recipes[:2])
        begun = len(made)
        assert torch.equal(evaluator.predict(recipes)[:2], found)
        assert len(made) - begun < len(recipes)

    def test_a_network_of_the_users_may_view_its_inputs(self):
        class Views(nn.Module):
            def forward(self, images):
                return images.view(len(images), -1)

        network = Views()
        network.register_forward_pre_hook(Normalize(Preprocessing(v2.PILToTensor())))
        assert torch.equal(network(pixels(3)), pixels(3).flatten(1) / 255)


@pytest.mark.parametrize("channels", [1, 3])
class TestTheNetworkWithItsHook:
    def test_copies_have_it_too(self, channels):
        network = small(channels)
        expected = network(pixels(channels))
        assert torch.equal(copy.deepcopy(network)(pixels(channels)), expected)
        assert torch.equal(pickle.loads(pickle.dumps(network))(pixels(channels)), expected)

    def test_its_state_does_not(self, channels):
        plain = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
        assert small(channels).state_dict().keys() == plain.state_dict().keys()
        assert len(list(small(channels).buffers())) == 0

    def test_children_have_it_too(self, channels):
        network = small(channels)
        space = ParameterSpace(network)
        mutation = sample_mutations(1, 1, subspace=RandomSubspace(0.5), sigma=0.3)[0]
        child = space.make_child(mutation)
        with space.applied(mutation) as patched:
            expected = patched(pixels(channels))
        assert torch.equal(child(pixels(channels)), expected)
        assert not torch.equal(expected, network(pixels(channels)))

    def test_an_exported_program_does_it_too(self, channels):
        network = small(channels)
        program = torch.export.export(network, (pixels(channels),))
        torch.testing.assert_close(program.module()(pixels(channels)), network(pixels(channels)))

    def test_it_works_where_many_networks_compute_at_once(self, channels):
        network = small(channels)
        parameters = {name: torch.stack([p, 2 * p]) for name, p in network.named_parameters()}
        images = pixels(channels)
        batched = torch.func.vmap(lambda own: torch.func.functional_call(network, own, (images,)))(parameters)
        torch.testing.assert_close(batched[0], network(pixels(channels)))


def test_a_network_without_the_hook_refuses_pixels():
    """What all of the above is for."""
    with pytest.raises(RuntimeError, match=r"Byte|uint8|unsigned char"):
        SmallNet().eval()(pixels())
