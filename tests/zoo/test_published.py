"""Files as timm, torchvision and the authors of networks publish them."""

import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import MNASNet, googlenet
from torchvision.models.densenet import DenseNet
from torchvision.models.vision_transformer import VisionTransformer
from zoo_helpers import convnext_as_published, lively, saved, untrained

from smd_evo.errors import InvalidValue
from smd_evo.zoo.checkpoint import read_checkpoint
from smd_evo.zoo.models import build_model
from smd_evo.zoo.weights import load_weights


def same(one, other):
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def renamed(network, pattern, new):
    """Its state in other names; torch's metadata stay."""
    state = network.state_dict()
    found = type(state)((re.sub(pattern, new, name), tensor) for name, tensor in state.items())
    assert found.keys() != state.keys()
    found._metadata = state._metadata
    return found


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x.pth"


def small_vit():
    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3
    )


class TestTorchvision:
    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_densenet_with_dots_in_its_layers_names_and_without_counts(self, file, prefix):
        def small():
            return DenseNet(growth_rate=4, block_config=(2, 1), num_init_features=8, num_classes=3)

        own, network = lively(small(), seed=1), lively(small(), seed=2)
        old = renamed(own, r"(denselayer\d\.(?:norm|conv))(\d)\.", r"\1.\2.")
        state = {f"{prefix}{name}": tensor for name, tensor in old.items() if "num_batches" not in name}
        assert f"{prefix}features.denseblock1.denselayer1.norm.1.running_mean" in state
        torch.save(state, file)
        load_weights(network, read_checkpoint(file), file)
        assert same(network, own)

    @pytest.mark.parametrize("prefix", ["", "module."])
    def test_vit_with_its_first_names(self, file, prefix):
        own, network = lively(small_vit(), seed=1), lively(small_vit(), seed=2)
        old = renamed(own, r"mlp\.(\d)\.", lambda found: f"mlp.linear_{1 + int(found[1]) // 3}.")
        del old._metadata
        torch.save({f"{prefix}{name}": tensor for name, tensor in old.items()}, file)
        load_weights(network, read_checkpoint(file), file)
        assert same(network, own)

    @pytest.mark.parametrize("version", [1, 2])
    def test_mnasnet_has_the_version_of_its_file(self, file, version):
        own = MNASNet(0.5, 3)
        if version == 1:
            with pytest.warns(UserWarning, match="previous version"):
                own._load_from_state_dict({}, "", {"version": 1}, False, [], [], [])
        own = lively(own, seed=1)
        torch.save({"state_dict": own.state_dict()}, file)
        if version == 1:
            with pytest.warns(UserWarning, match="previous version"):
                network, _ = build_model("torchvision:mnasnet0_5", 3, file)
        else:
            network, _ = build_model("torchvision:mnasnet0_5", 3, file)
        assert same(network, own)
        images = torch.rand(1, 3, 32, 32)
        assert torch.equal(network(images), own(images))

    def test_mnasnet_in_a_file_without_versions(self, file):
        own = lively(MNASNet(0.5, 3), seed=1)
        assert same(build_model("torchvision:mnasnet0_5", 3, saved(own, file))[0], own)

    @pytest.mark.parametrize("has_head", [True, False])
    def test_googlenet_with_and_without_the_head_that_training_needs(self, file, has_head):
        own = lively(googlenet(num_classes=3, aux_logits=has_head, init_weights=False), seed=1)
        network, _ = build_model("torchvision:googlenet", 3, saved(own, file))
        assert same(network, own)
        assert network.transform_input


class TestTimm:
    def test_densenet_as_torchvision_publishes_it(self, file):
        own = untrained("densenet121", 3)
        old = renamed(own, r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.")
        torch.save({f"module.{name}": tensor for name, tensor in old.items()}, file)
        assert same(build_model("timm:densenet121", 3, file)[0], own)

    def test_of_its_own_training_script(self, file, tmp_path):
        from timm.utils import CheckpointSaver, ModelEmaV3

        own, args = untrained("test_resnet", 3), timm.utils.misc.argparse.Namespace(model="test_resnet", lr=0.1)
        average = ModelEmaV3(own)
        with torch.no_grad():
            own.fc.weight += 1
        optimizer = torch.optim.SGD(own.parameters(), 0.1)
        CheckpointSaver(own, optimizer, args, average, checkpoint_dir=str(tmp_path))._save(file, epoch=3)
        with pytest.warns(UserWarning, match="took 'state_dict_ema' of .*x.pth, which also holds state_dict; "):
            network, _ = build_model("timm:test_resnet", 3, file)
        assert same(network, average.module)
        assert same(build_model("timm:test_resnet", 3, file, "state_dict")[0], own)

    def test_an_architecture_that_timm_loads_leniently_is_loaded_whole(self, file):
        weights = dict(untrained("dla46_c", 3).state_dict())
        del weights["level2.root.conv.weight"]
        save_file(weights, file)
        with pytest.raises(InvalidValue, match=r"level2.root.conv.weight is missing; "):
            build_model("timm:dla46_c", 3, file)

    def test_its_own_loading_is_left_as_it_was(self, file):
        before = timm.models._builder.load_pretrained
        save_file({"a": torch.ones(1)}, file)
        with pytest.raises(InvalidValue):
            build_model("timm:test_resnet", 3, file)
        assert timm.models._builder.load_pretrained is before


class TestConvNextAsItsAuthorsPublishIt:
    """Of whose names only timm knows what is meant."""

    OWN = untrained("test_convnext", 7)

    def published(self):
        return convnext_as_published(self.OWN)

    def test_behind_a_prefix(self, file):
        torch.save({"model": {f"module.{name}": tensor for name, tensor in self.published().items()}}, file)
        assert same(build_model("timm:test_convnext", 7, file)[0], self.OWN)

    @pytest.mark.parametrize("change", ["missing", "int8", "nan"])
    def test_without_a_tensor_or_of_other_numbers(self, file, change):
        state = self.published()
        tensor = state.pop("stages.1.0.pwconv1.weight")
        if change != "missing":
            state["stages.1.0.pwconv1.weight"] = tensor.to(torch.int8) if change == "int8" else tensor * torch.nan
        save_file(state, file)
        with pytest.raises(InvalidValue, match=r"^checkpoint: expected "):
            build_model("timm:test_convnext", 7, file)
