"""A comparison of four methods as numbers, without running anything."""

import dataclasses
import json

from report_helpers import ENVIRONMENT, finetune_results

from smd_evo.experiments.compare.results import CompareResult, Curve, Difference, MethodResult, ToTarget, Trial
from smd_evo.experiments.compare.run import Score
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.statistics.tests import Estimate

CONFIG = CompareConfig(
    methods=("smd", "sparse-es", "mine:Method"), budget=8000, seeds=3, trials=2, children=20, images=100, seed=4
)
MARKS = (0, 4000, 8000)
NEVER = ToTarget(None, None, None, 1.0, 1.0)


def around(value, spread=0.01):
    return Estimate(value, value - spread, value + spread)


def method(name, accuracy, loss, settings, reached, p_value=0.01):
    """One whose differences to the reference are certain, or with a p value of 0.5 not."""
    against = {}
    if name != "openai-es":
        for measure, difference in (("accuracy", accuracy - 0.9), ("loss", loss - 0.3)):
            against[measure] = Difference(around(difference), p_value / 2, p_value, 0.25, 3)
    return MethodResult(
        method=name,
        about=f"what {name} is",
        settings=settings,
        accuracy=around(accuracy),
        loss=around(loss),
        against=against,
        to_target={"accuracy": reached, "loss": reached},
        curve=Curve(MARKS, tuple(map(around, (0.7, 0.8, accuracy))), tuple(map(around, (0.9, 0.5, loss)))),
        evaluations=7920,
        calibration=4900,
        seconds=3.25,
        memory=None if name == "smd" else 13 * 2**20,
    )


def compare_result(**settings):
    """The reference, one that is better and sooner, one that is worse, one of which nothing is known."""
    rates = [{"rate": 0.2, "sigma": 1.0}, {"rate": 0.4, "sigma": 1.0}]
    none: dict = {}
    methods = (
        method("openai-es", 0.9, 0.3, rates[1], ToTarget(8000.0, 8000.0, 8000.0, 1.0, 1.0)),
        method("smd", 0.85, 0.46, {"density": 0.01}, NEVER),
        method("sparse-es", 0.95, 0.2, rates[0], ToTarget(2000.0, 1600.0, 2400.0, 0.001, 0.002)),
        method("mine:Method", 0.905, 0.29, none, ToTarget(7600.0, 6000.0, None, 0.8, 0.8), p_value=0.5),
    )
    tried = {"smd": [{"density": 0.1}, {"density": 0.01}], "mine:Method": [none, {"rate": 3}]}
    return CompareResult(
        config=dataclasses.replace(CONFIG, **settings),
        parameters=14458,
        parent={"validation": Score(0.7, 0.9), "test": Score(0.732, 0.868)},
        methods=methods,
        trials={
            each.method: tuple(
                Trial(settings, Score(0.8 + place / 10, 0.5 - place / 10))
                for place, settings in enumerate(tried.get(each.method, rates))
            )
            for each in methods
        },
    )


def compare_results(result):
    """The same as it is written."""
    written = {name: value for name, value in dataclasses.asdict(result).items() if name != "config"}
    data = finetune_results()["data"]
    return json.loads(json.dumps({"kind": "compare", **written, "data": data, "environment": ENVIRONMENT}))
