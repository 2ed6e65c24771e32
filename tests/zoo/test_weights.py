"""What torch can load is loaded, through the module's own means, and whole; or one line says what does not fit."""

import argparse
import copy
import warnings
from collections import OrderedDict

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel
from zoo_helpers import lively

from smd_evo.errors import InvalidValue
from smd_evo.zoo.checkpoint import read_checkpoint
from smd_evo.zoo.weights import load_weights

WEIGHTS = lively(SmallNet(), seed=1).state_dict()
OTHERS = lively(SmallNet(), seed=3).state_dict()


def loaded(content, file, network=None, key=None):
    """A network after a round trip of this content through a file."""
    torch.save(content, file)
    network = lively(SmallNet(), seed=2) if network is None else network
    load_weights(network, read_checkpoint(file, key), file.name)
    return network


def same(network, weights=WEIGHTS):
    return same_bits(state_bits(network), {name: bits(tensor) for name, tensor in weights.items()})


def bits(tensor):
    return tensor.contiguous().flatten().view(torch.uint8)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "x.pth"


class TestNamesThatFrameworksMake:
    @pytest.mark.parametrize(
        "prefix",
        ["module.", "_orig_mod.", "model.", "net.", "module.module.", "model._orig_mod.module.", "my.own.name."],
    )
    def test_before_all_of_them(self, file, prefix):
        assert same(loaded({f"{prefix}{name}": tensor for name, tensor in WEIGHTS.items()}, file))

    def test_of_lightning_beside_an_optimizer_and_hyper_parameters(self, file):
        content = {
            "state_dict": {f"model.{name}": tensor for name, tensor in WEIGHTS.items()},
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
            "hyper_parameters": {"lr": 0.1},
            "epoch": 3,
        }
        assert same(loaded(content, file))

    def test_beside_a_loss_with_tensors_of_its_own_are_told(self, file):
        weights = {f"net.{name}": tensor for name, tensor in WEIGHTS.items()} | {"loss.weight": torch.ones(3)}
        with pytest.warns(UserWarning, match=r"took the tensors under 'net.' of x.pth, and left out 1 others: "):
            assert same(loaded({"state_dict": weights}, file))

    def test_of_wrapped_parts(self, file):
        network = SmallNet()
        network.load_state_dict(WEIGHTS)
        network.conv = nn.DataParallel(network.conv)
        network.bn = torch.compile(network.bn)
        assert "conv.module.weight" in network.state_dict()
        assert same(loaded(network.state_dict(), file))

    def test_of_an_average_in_torchs_own_class(self, file):
        network = SmallNet()
        network.load_state_dict(WEIGHTS)
        assert same(loaded(AveragedModel(nn.DataParallel(network)).state_dict(), file))

    def test_averages_beside_raw_weights_in_one_state_are_taken_and_that_is_told(self, file):
        both = {f"model.{name}": tensor for name, tensor in OTHERS.items()}
        both |= {f"model_ema.module.{name}": tensor for name, tensor in WEIGHTS.items()}
        with pytest.warns(UserWarning, match=r"^checkpoint: took the tensors under 'model_ema.*left out 8 others"):
            assert same(loaded(both, file))
        assert same(loaded(both, file, key="model"), OTHERS)

    def test_of_a_network_that_has_such_names_itself(self, file):
        class Wrapper(nn.Module):
            def __init__(self):
                super().__init__()
                self.module = lively(SmallNet(), seed=2)

        weights = {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}
        for prefix in ("", "module.", "_orig_mod.module.", "model."):
            content = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
            assert same(loaded(content, file, Wrapper()).module)

    def test_a_part_of_another_network_is_not_taken_unasked(self, file):
        content = {f"encoder_q.{n}": t for n, t in WEIGHTS.items()} | {f"encoder_k.{n}": t for n, t in OTHERS.items()}
        with pytest.raises(InvalidValue, match=r"its names are behind 'encoder_q.', which checkpoint_key=enc"):
            loaded(content, file)
        assert same(loaded(content, file, key="encoder_k"), OTHERS)

    @given(
        st.lists(st.sampled_from(["module", "_orig_mod", "model", "net", "network"]), max_size=4),
        st.sampled_from(["conv", "bn", "head"]),
    )
    def test_any_nesting(self, words, part):
        prefix = "".join(f"{word}." for word in words)
        weights = {prefix + name.replace(part, f"{part}.module"): tensor for name, tensor in WEIGHTS.items()}
        network = lively(SmallNet(), seed=2)
        load_weights(network, weights, "x")
        assert same(network)


class TestSeveralInOneFile:
    @pytest.mark.parametrize("name", ["state_dict_ema", "model_ema", "ema", "ema_state_dict", "teacher", "net_ema"])
    @pytest.mark.parametrize("raw", ["state_dict", "model", "student"])
    def test_the_average_is_taken_and_that_is_told(self, file, name, raw):
        content = {raw: OTHERS, name: WEIGHTS, "epoch": 3}
        with pytest.warns(UserWarning, match=rf"^checkpoint: took '{name}' of .*x.pth, which also holds {raw}; "):
            assert same(loaded(content, file))
        assert same(loaded(content, file, key=raw), OTHERS)

    def test_as_timm_chooses(self, file):
        timm = pytest.importorskip("timm.models._helpers")
        names = ["model", "ema", "state_dict", "model_ema", "state_dict_ema"]
        for present in range(1, 2 ** len(names)):
            chosen = [name for place, name in enumerate(names) if present >> place & 1]
            if "ema" in chosen and not {"model_ema", "state_dict_ema"} & {*chosen}:
                continue  # timm does not know that name
            torch.save({name: {"a": torch.tensor(float(names.index(name)))} for name in chosen}, file)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert read_checkpoint(file) == timm.load_state_dict(str(file))

    def test_one_that_is_none_is_passed_over(self, file):
        assert same(loaded({"state_dict_ema": None, "state_dict": WEIGHTS, "use_ema": False}, file))

    def test_an_average_without_names_is_told(self, file):
        with pytest.warns(UserWarning, match=r"took 'model' of .*x.pth, which also holds ema; "):
            assert same(loaded({"model": WEIGHTS, "ema": {"shadow_params": [torch.ones(2)]}}, file))

    def test_of_torchvisions_training_script(self, file):
        network = lively(SmallNet(), seed=1)
        optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
        content = {
            "model": OTHERS,
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
            "epoch": 89,
            "args": argparse.Namespace(lr=0.5, model="resnet50", device=torch.device("cpu"), workers=16),
            "model_ema": AveragedModel(network).state_dict(),
            "scaler": {},
        }
        with pytest.warns(UserWarning, match="took 'model_ema'"):
            assert same(loaded(content, file))

    def test_a_key_names_any_of_them_also_nested_ones_and_beginnings_of_names(self, file):
        content = {"state": {"generator": WEIGHTS}, "my": {f"d.{n}": t for n, t in OTHERS.items()}, "a.b": WEIGHTS}
        for key, weights in (("state.generator", WEIGHTS), ("my", OTHERS), ("a.b", WEIGHTS)):
            assert same(loaded(content, file, key=key), weights)
        assert same(loaded(content["my"], file, key="d"), OTHERS)

    def test_an_unknown_key(self, file):
        torch.save({"model": {f"net.{n}": t for n, t in WEIGHTS.items()}, "generator": WEIGHTS, "epoch": 3}, file)
        for key in ("modle", "epoch", "", "model.net.conv"):
            with pytest.raises(InvalidValue, match=rf"^checkpoint_key: .* of model, gen.*, net in .*'{key}'"):
                read_checkpoint(file, key)

    def test_unusual_names_have_to_be_named(self, file):
        torch.save({"generator": WEIGHTS, "optimizer": {"state": {0: {"step": torch.ones(())}}}}, file)
        with pytest.raises(InvalidValue, match=r"got OrderedDict as 'generator'; name one by checkpoint_key: gen"):
            read_checkpoint(file)


class Renaming(nn.Linear):
    """Its weight was called kernel, and was the other way round, in version 1."""

    _version = 2

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *rest):
        if local_metadata.get("version") == 1:
            state_dict[f"{prefix}weight"] = state_dict.pop(f"{prefix}kernel").T
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)


class TestWhatModulesDoThemselves:
    def test_versions_reach_each_module_also_behind_prefixes(self, file):
        network = nn.Sequential(Renaming(3, 2))
        old = OrderedDict({"module.0.kernel": torch.arange(6.0).view(3, 2), "module.0.bias": torch.zeros(2)})
        old._metadata = OrderedDict({"": {"version": 1}, "module": {"version": 1}, "module.0": {"version": 1}})
        loaded({"state_dict": old}, file, network)
        assert torch.equal(network[0].weight, torch.arange(6.0).view(3, 2).T)

    def test_hooks_rename(self, file):
        def hook(module, state, prefix, *_):
            state[f"{prefix}bn.weight"] = state.pop(f"{prefix}bn.gamma")

        network = lively(SmallNet(), seed=2)
        network.register_load_state_dict_pre_hook(hook)
        weights = {name.replace("bn.weight", "bn.gamma"): tensor for name, tensor in WEIGHTS.items()}
        assert same(loaded(weights, file, network))

    def test_parametrized_weights_in_the_names_of_the_old_function(self, file):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            old = nn.utils.weight_norm(nn.Linear(3, 2))
        network = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        loaded(old.state_dict(), file, network)
        assert torch.equal(network.parametrizations.weight.original1, old.weight_v)

    def test_extra_state(self, file):
        class Extra(nn.Linear):
            told = None

            def get_extra_state(self):
                return {"classes": ["a", "b"]}

            def set_extra_state(self, state):
                self.told = state

        network = loaded(Extra(2, 2).state_dict(), file, Extra(2, 2))
        assert network.told == {"classes": ["a", "b"]}

    def test_constants_that_are_no_longer_stored(self, file):
        class Constant(nn.Linear):
            def __init__(self, kept):
                super().__init__(2, 2)
                self.register_buffer("index", torch.arange(3), persistent=kept)

        loaded(Constant(True).state_dict(), file, Constant(False))
        changed = Constant(True).state_dict() | {"index": torch.arange(3) + 1}
        with pytest.raises(InvalidValue, match="index is unknown"):
            loaded(changed, file, Constant(False))


class Tied(nn.Module):
    def __init__(self, tied=True):
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        if tied:
            self.head.weight = self.embed.weight


class TestTiedWeights:
    @pytest.mark.parametrize("tied", [True, False])
    def test_of_safetensors_save_model(self, tmp_path, tied):
        own = Tied()
        save_model(own, tmp_path / "x.safetensors")
        network = Tied(tied)
        load_weights(network, read_checkpoint(tmp_path / "x.safetensors"), "x")
        assert torch.equal(network.embed.weight, own.embed.weight)
        assert torch.equal(network.head.weight, own.embed.weight)

    @pytest.mark.parametrize("name", ["embed.weight", "head.weight"])
    def test_under_one_of_their_names(self, file, name):
        values = torch.arange(15.0).view(5, 3)
        assert torch.equal(loaded({name: values}, file, Tied()).head.weight, values)
        with pytest.raises(InvalidValue, match="weight is missing"):
            loaded({name: values}, file, Tied(tied=False))

    def test_that_differ_are_refused(self, file):
        content = {"embed.weight": torch.zeros(5, 3), "head.weight": torch.ones(5, 3)}
        with pytest.raises(InvalidValue, match=r"expected one tensor for embed.weight and head.weight, which "):
            loaded(content, file, Tied())


class TestHalfRandomNetworksNeverPass:
    """Whatever the module's own loading lets through."""

    class Lenient(SmallNet):
        def load_state_dict(self, state_dict, strict=True, assign=False):
            return super().load_state_dict(state_dict, strict=False, assign=assign)

    class Filling(SmallNet):
        """Takes what it has for what is missing."""

        def _load_from_state_dict(self, state_dict, prefix, *rest):
            for name, tensor in self.state_dict(prefix=prefix).items():
                state_dict.setdefault(name, tensor)
            super()._load_from_state_dict(state_dict, prefix, *rest)

    @pytest.mark.parametrize("kind", [Lenient, Filling])
    @pytest.mark.parametrize("name", ["conv.weight", "bn.bias", "head.bias"])
    def test_a_parameter_that_keeps_its_value_is_named_and_nothing_is_loaded(self, kind, name):
        network = lively(kind(), seed=2)
        before = state_bits(network)
        weights = {each: tensor for each, tensor in WEIGHTS.items() if each != name}
        with pytest.raises(InvalidValue, match=rf"^checkpoint: expected all of the model's .* got none for {name}; "):
            load_weights(network, weights, "x")
        assert same_bits(before, state_bits(network))
        load_weights(network, WEIGHTS, "x")
        assert same(network)

    def test_statistics_that_nobody_writes(self):
        weights = {name: tensor for name, tensor in WEIGHTS.items() if name != "bn.running_var"}
        with pytest.raises(InvalidValue, match=r"got none for bn.running_var; "):
            load_weights(self.Lenient(), weights, "x")

    def test_an_interrupt_leaves_the_network_as_it_was(self):
        class Interrupted(SmallNet):
            def _load_from_state_dict(self, *_):
                raise KeyboardInterrupt

        network = lively(Interrupted(), seed=2)
        before = state_bits(network)
        with pytest.raises(KeyboardInterrupt):
            load_weights(network, WEIGHTS, "x")
        assert same_bits(before, state_bits(network))


def but(name, tensor):
    return dict(WEIGHTS) | {name: tensor}


class TestNumbers:
    @pytest.mark.parametrize(
        ("tensor", "text"),
        [
            (torch.ones(3, dtype=torch.int8), r"is of integers \(int8\) instead of floating-point numbers"),
            (torch.ones(3, dtype=torch.uint8), r"is of integers \(uint8\) instead of"),
            (torch.ones(3, dtype=torch.int64), r"is of integers \(int64\) instead of"),
            (torch.ones(3, dtype=torch.bool), r"is of truth values \(bool\) instead of"),
            (torch.ones(3, dtype=torch.complex64), r"is of complex numbers \(complex64\) instead of"),
            (torch.tensor([1, torch.nan, 2]), "holds NaN"),
            (torch.ones(3, device="meta"), "has no numbers, being saved from the meta device"),
            (torch.ones(3).to_sparse(), "is sparse_coo instead of a dense tensor"),
            (
                torch.tensor([1e300, 0, 0], dtype=torch.float64),
                r"holds numbers beyond 3.40282e\+38, the la",
            ),
        ],
        ids=["int8", "uint8", "int64", "bool", "complex", "nan", "meta", "sparse", "large"],
    )
    def test_that_a_parameter_would_take_and_not_mean_are_refused_by_name(self, file, tensor, text):
        network = lively(SmallNet(), seed=2)
        before = state_bits(network)
        with pytest.raises(InvalidValue, match=rf"^checkpoint: expected finite numbers .* x.pth.*: head.bias {text}"):
            loaded(but("head.bias", tensor), file, network)
        assert same_bits(before, state_bits(network))

    def test_statistics_likewise(self, file):
        with pytest.raises(InvalidValue, match=r"bn.running_var holds NaN"):
            loaded(but("bn.running_var", torch.full((4,), torch.nan)), file)

    @pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
    def test_other_floating_point_types_are_rounded(self, file, kind):
        network = loaded({name: t.to(kind) if t.is_floating_point() else t for name, t in WEIGHTS.items()}, file)
        assert network.head.weight.dtype == torch.float32
        assert torch.equal(network.head.weight, WEIGHTS["head.weight"].to(kind).float())

    def test_counts_as_floating_point_numbers(self, file):
        assert loaded(but("bn.num_batches_tracked", torch.tensor(7.0)), file).bn.num_batches_tracked == 7

    def test_infinite_weights_are_told(self, file):
        with pytest.warns(UserWarning, match=r"^checkpoint: x.pth holds infinite numbers: head.bias$"):
            loaded(but("head.bias", torch.tensor([0, -torch.inf, 0])), file)

    def test_infinite_masks_are_usual(self, file):
        network = SmallNet()
        network.register_buffer("mask", torch.zeros(2))
        assert loaded(but("mask", torch.tensor([0, -torch.inf])), file, network).mask[1] == -torch.inf

    @pytest.mark.parametrize("shape", [(1,), (), (1, 3), (3, 1), (0,)])
    def test_shapes_that_would_broadcast(self, file, shape):
        with pytest.raises(InvalidValue, match=r"head.bias is \[.*\] instead of \[3\]"):
            loaded(but("head.bias", torch.ones(shape)), file)


def test_a_network_keeps_what_shares_memory_with_the_weights():
    network = lively(SmallNet(), seed=1)
    load_weights(network, network.state_dict(), "itself")
    assert same(network)


def test_the_weights_stay_as_they_were():
    weights = copy.deepcopy(WEIGHTS)
    load_weights(SmallNet(), weights, "x")
    assert same(lively(SmallNet(), 1), weights)
    assert weights.keys() == WEIGHTS.keys()


def test_safetensors_under_another_name(tmp_path):
    save_file(WEIGHTS, tmp_path / "x.bin")
    network = SmallNet()
    load_weights(network, read_checkpoint(tmp_path / "x.bin"), "x")
    assert same(network)
