"""How long it will take, and whether a low precision helps."""

import warnings

import pytest
import torch
from helpers import blobs, trained

from smd_evo import Evaluator
from smd_evo.experiments import readers, speed
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.workload import Part, workload

WORK = workload([Part("children", 10, 40)])


def timed_at(monkeypatch, low, whole):
    """Seconds an image in bfloat16 and in float32."""
    monkeypatch.setattr(speed, "seconds_per_image", lambda _: low if torch.is_autocast_enabled("cpu") else whole)
    with torch.autocast("cpu", torch.bfloat16):
        return speed.timed(WORK, Evaluator(trained(), blobs(40)))


def test_a_precision_that_makes_it_slower_is_told(monkeypatch):
    with pytest.warns(UserWarning, match=r"^precision: bfloat16 takes 10\.0 times as long as float32"):
        assert timed_at(monkeypatch, 0.5, 0.05).seconds == 200


def test_one_that_does_not_is_not(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert timed_at(monkeypatch, 0.04, 0.05).seconds == 16
        monkeypatch.setattr(speed, "seconds_per_image", lambda _: 1.0)
        assert speed.timed(WORK, Evaluator(trained(), blobs(40))).seconds == 400


@pytest.mark.parametrize("there", [True, False])
def test_auto_is_what_the_processor_has_units_for(monkeypatch, there):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: there, raising=False)
    expected = "bfloat16" if there else "float32"
    assert readers.precision("auto", "cpu") == expected
    config = FinetuneConfig.read({"precision": "auto", "device": "cpu"})
    assert config.precision == config.as_dict()["precision"] == expected
    assert readers.precision("float32", "cpu") == "float32"
