"""Weights are read from any usual file and loaded whole; what is no weights is refused and never run."""

import copy
import os
import pickle
import random
import warnings

import pytest
import torch
from helpers import SmallNet, same_bits, state_bits
from safetensors.torch import save_file
from torch import nn
from zoo_helpers import lively, saved

from smd_evo.errors import InvalidValue
from smd_evo.zoo.checkpoint import read_checkpoint
from smd_evo.zoo.weights import load_weights

WEIGHTS = lively(SmallNet(), seed=1).state_dict()


def loaded(file):
    network = lively(SmallNet(), seed=2)
    load_weights(network, read_checkpoint(file), file)
    return network


def same(network):
    return all(torch.equal(tensor, WEIGHTS[name]) for name, tensor in network.state_dict().items())


class TestFilesOfWeights:
    def test_safetensors(self, tmp_path):
        save_file(WEIGHTS, tmp_path / "x.safetensors")
        assert same(loaded(tmp_path / "x.safetensors"))

    @pytest.mark.parametrize("name", ["x.pt", "x.pth", "x.bin", "x"])
    @pytest.mark.parametrize("zipped", [True, False])
    def test_of_torch(self, tmp_path, name, zipped):
        torch.save(WEIGHTS, tmp_path / name, _use_new_zipfile_serialization=zipped)
        assert same(loaded(tmp_path / name))

    @pytest.mark.parametrize(
        "content",
        [
            {"state_dict": WEIGHTS},
            {"model_state_dict": WEIGHTS, "epoch": 3, "loss": 0.5},
            {"model": WEIGHTS, "optimizer": {"state": {0: {"step": torch.ones(())}}, "lr": [0.1]}},
            {"state_dict": {"model": WEIGHTS}},
            {"state_dict": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
            {f"_orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()},
            {f"module._orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()},
            {f"_orig_mod.module.{name}": tensor for name, tensor in WEIGHTS.items()},
            {name: tensor for name, tensor in WEIGHTS.items() if "num_batches" not in name},
            {name: nn.Parameter(tensor, requires_grad=False) for name, tensor in WEIGHTS.items()},
            dict(reversed(WEIGHTS.items())),
        ],
        ids=lambda content: next(iter(content)),
    )
    def test_wrapped_or_with_prefixes_or_without_counts(self, tmp_path, content):
        torch.save(content, tmp_path / "x.pt")
        assert same(loaded(tmp_path / "x.pt"))

    def test_of_libraries_that_wrap_networks(self, tmp_path):
        network = SmallNet()
        network.load_state_dict(WEIGHTS)
        for wrapped in (nn.DataParallel(network), torch.compile(network)):
            torch.save(wrapped.state_dict(), tmp_path / "x.pt")
            assert same(loaded(tmp_path / "x.pt"))

    def test_a_network_whose_own_names_look_like_a_prefix(self, tmp_path):
        class Wrapper(nn.Module):
            def __init__(self):
                super().__init__()
                self.module = lively(SmallNet(), seed=2)

        network = Wrapper()
        torch.save({f"module.{name}": tensor for name, tensor in WEIGHTS.items()}, tmp_path / "x.pt")
        load_weights(network, read_checkpoint(tmp_path / "x.pt"), "x.pt")
        assert same(network.module)

    def test_in_half_precision(self, tmp_path):
        halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in WEIGHTS.items()}
        save_file(halves, tmp_path / "x.safetensors")
        network = loaded(tmp_path / "x.safetensors")
        assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
        torch.testing.assert_close(network.head.weight, WEIGHTS["head.weight"], rtol=1e-3, atol=1e-3)

    def test_from_another_device(self, tmp_path, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:3")
            torch.save(WEIGHTS, tmp_path / "x.pt")
        if torch.cuda.device_count() < 4:
            with pytest.raises(RuntimeError, match=r"CUDA|cuda"):
                torch.load(tmp_path / "x.pt", weights_only=True)
        assert same(loaded(tmp_path / "x.pt"))

    def test_in_the_home_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        save_file(WEIGHTS, tmp_path / "x.safetensors")
        assert same(loaded("~/x.safetensors"))


class TestOtherArchitectures:
    @pytest.mark.parametrize(
        ("change", "text"),
        [
            (lambda weights: weights.pop("bn.weight"), "bn.weight is missing"),
            (lambda weights: weights.pop("bn.running_var"), "bn.running_var is missing"),
            (lambda weights: weights.update(extra=torch.ones(2)), "extra is unknown"),
            (
                lambda weights: weights.update({"head.weight": torch.ones(5, 64), "head.bias": torch.ones(5)}),
                "head.weight is [5, 64] instead of [3, 64]; head.bias is [5] instead of [3]",
            ),
            (
                lambda weights: [weights.update({n.replace("bn", "norm"): weights.pop(n)}) for n in list(weights)],
                "bn.weight is missing; bn.bias is missing; bn.running_mean is missing and ",
            ),
        ],
    )
    def test_the_first_tensors_that_differ_are_named_and_nothing_is_loaded(self, tmp_path, change, text):
        weights = dict(WEIGHTS)
        change(weights)
        save_file(weights, tmp_path / "x.safetensors")
        network = SmallNet()
        before = state_bits(network)
        with pytest.raises(
            InvalidValue, match=r"^checkpoint: expected the 8 tensors of the model in .*x.safet"
        ) as caught:
            load_weights(network, read_checkpoint(tmp_path / "x.safetensors"), tmp_path / "x.safetensors")
        assert text in str(caught.value)
        assert str(caught.value).endswith("is it of another architecture, or for other classes?")
        assert same_bits(before, state_bits(network))


class Malicious:
    """What a pickle can do."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.mkdir, (str(self.file),)


class TestWhatIsNoWeights:
    @pytest.mark.parametrize(
        "where", ["the file", "beside weights", "as a name", "in old torch format", "plain pickle"]
    )
    def test_a_malicious_pickle_is_refused_and_not_run(self, tmp_path, where):
        made, file = tmp_path / "made", tmp_path / "x.pt"
        content = {
            "beside weights": {"state_dict": WEIGHTS, "args": Malicious(made)},
            "as a name": {"state_dict": {**WEIGHTS, Malicious(made): 1}},
        }.get(where, Malicious(made))
        if where == "plain pickle":
            file.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, file, _use_new_zipfile_serialization=where != "in old torch format")
        with pytest.raises(
            InvalidValue,
            match=r"^checkpoint: expected a file of weights alone, got something else, which is never unp",
        ):
            read_checkpoint(file)
        assert not made.exists()
        torch.load(file, weights_only=False) if where != "plain pickle" else pickle.loads(file.read_bytes())
        assert made.exists()  # it would have

    def test_a_whole_network(self, tmp_path):
        torch.save(SmallNet(), tmp_path / "x.pt")
        with pytest.raises(
            InvalidValue, match=r"never unpickled: helpers.SmallNet, .*, in .*; save network.state_dict\(\) with saf"
        ):
            read_checkpoint(tmp_path / "x.pt")

    def test_a_script(self, tmp_path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.script(nn.Linear(1, 1)), tmp_path / "x.pt")
        with pytest.raises(InvalidValue, match=r"^checkpoint: expected a file of weights alone, got .*TorchScript"):
            read_checkpoint(tmp_path / "x.pt")

    @pytest.mark.parametrize(
        ("content", "got"),
        [
            ({"a": torch.ones(1), "b": 3}, "int as 'b'"),
            ({"state_dict": {"a": "text"}}, "str as 'a'"),
            ({0: torch.ones(1)}, "Tensor as 0"),
            ([torch.ones(1)], "list"),
            (torch.ones(1), "Tensor"),
            ({}, "none"),
        ],
    )
    def test_other_contents(self, tmp_path, content, got):
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(InvalidValue, match=rf"tensors by name, in .*x.pt, got {got}; save network.state_dict"):
            read_checkpoint(tmp_path / "x.pt")

    def test_not_there_or_a_folder(self, tmp_path):
        with pytest.raises(
            InvalidValue, match=r"^checkpoint: expected a file of weights, got .*x.pt, which is not there$"
        ):
            read_checkpoint(tmp_path / "x.pt")
        with pytest.raises(
            InvalidValue, match=r"^checkpoint: expected a file of weights, got .*, which is a folder$"
        ):
            read_checkpoint(tmp_path)

    @pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"hello world\n", b"\x80", b"PK\x03\x04", bytes(100)])
    def test_files_of_something_else(self, tmp_path, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidValue, match=r"^checkpoint: expected a file of weights alone, got ") as caught:
            read_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
    def test_damaged_files_raise_nothing_else(self, tmp_path, form):
        file = tmp_path / ("x.safetensors" if form == "safetensors" else "x.pt")
        if form == "safetensors":
            saved(SmallNet(), file)
        else:
            torch.save(WEIGHTS, file, _use_new_zipfile_serialization=form == "zip")
        whole, generator, refused = file.read_bytes(), random.Random(0), 0
        for number in range(120):
            content = bytearray(whole)
            if number % 2:
                content = content[: generator.randrange(len(content))]
            else:
                for _ in range(generator.choice([1, 10])):
                    content[generator.randrange(min(len(content), 400))] = generator.randrange(256)
            file.write_bytes(content)
            try:
                read_checkpoint(file)  # a changed number is not noticed
            except InvalidValue:
                refused += 1
        assert refused >= 60  # all that are cut short


def test_a_network_may_be_loaded_twice():
    network = SmallNet()
    load_weights(network, copy.deepcopy(WEIGHTS), "somewhere")
    load_weights(network, network.state_dict(), "itself")
    assert same(network)
