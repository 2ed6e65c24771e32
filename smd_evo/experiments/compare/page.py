"""What a page says of a comparison of methods."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smd_evo.experiments.compare import results as found
from smd_evo.experiments.compare.run import Score
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.compare.table import budget_text, compare_tables, compare_verdict
from smd_evo.experiments.facts import data_facts, environment
from smd_evo.experiments.record import RunRecord
from smd_evo.experiments.sections import Cell, Group, Section, Table, decimal, estimate, figure, printed
from smd_evo.experiments.settings import fitness_name

__all__ = ["compare_section"]

_ROLES = {
    "fitness": "ranks children",
    "validation": "chooses settings, makes curves",
    "test": "is reported, once a run",
}
_CHOSEN = "\N{NO-BREAK SPACE}\N{BLACK STAR}"


def compare_section(record: RunRecord) -> Section:
    """What each method reached with the same budget, how soon, and with which settings."""
    result, results = _result(record), record.results
    scores, *others = map(printed, compare_tables(result))
    config = result.config
    return Section(
        title=f"Comparison of {len(result.methods)} methods, {config.model} on {config.data}",
        folder=record.name,
        verdict=compare_verdict(result),
        facts=_facts(record, result),
        tables=[scores, *others, _trials(result), _methods(result)],
        figure=figure(
            record,
            "Learning curves of each method, over image evaluations and below over forward passes: accuracy on the "
            "left, cross-entropy on the right, the parent as a dashed line. The tables hold what they end with.",
            f"Means over {config.seeds} seeds on {results['data']['samples']['validation']:,} validation images; "
            "bands are 95 % t intervals over seeds. A curve or a band that leaves its plot is much worse than the "
            "others.",
        ),
        environment=environment(results),
        unreadable=[str(name) for name in results["data"]["unreadable"]],
    )


def _facts(record: RunRecord, result: found.CompareResult) -> dict[str, str]:
    config, samples = result.config, record.results["data"]["samples"]["fitness"]
    tuning = config.budget if config.tuning_budget is None else config.tuning_budget
    tried = (
        f"{config.trials} trials of each method, of {tuning:,} image evaluations each, on a seed of their own, and"
    )
    if config.trials == 1:
        tried = "each method has the first of its settings, untried;"
    return {
        **data_facts(record.config, record.results, _ROLES),
        "Budget": f"{budget_text(config)} a run",
        "Generations": f"{config.children:,} children on {min(config.images, samples):,} of the {samples:,} fitness "
        "images; methods of a single generation, or of none, spend the same budget in their own way",
        "Runs": f"{config.seeds} of each method; a seed draws the same minibatches for all methods",
        "Tuning": f"{tried} all settings of what is free; those that are best by {fitness_name(config.metric)} on "
        "validation make the reported runs",
        "Fitness": fitness_name(config.fitness),
        "Seed": str(config.seed),
        "Computed on": f"{config.device}, {config.precision}",
    }


def _trials(result: found.CompareResult) -> Table:
    tried = [(method, result.trials[method.method]) for method in result.methods]
    return Table(
        title="All settings that were tried",
        columns=["settings", "accuracy, %", "loss"],
        groups=[Group(_tried(trials, method), method.method) for method, trials in tried if trials],
        note="On validation, at the end of a trial. A star marks the settings of the reported runs.",
    )


def _tried(trials: tuple[found.Trial, ...], method: found.MethodResult) -> list[list[Cell]]:
    chosen = [trial.settings for trial in trials].index(method.settings)
    return [
        [
            Cell(f"{_words(trial.settings)}{_CHOSEN if number == chosen else ''}"),
            Cell(f"{100 * trial.score.accuracy:.1f}"),
            Cell(decimal(trial.score.loss)),
        ]
        for number, trial in enumerate(trials)
    ]


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}\N{NO-BREAK SPACE}{value}" for name, value in settings.items()) or "none"


def _methods(result: found.CompareResult) -> Table:
    lines = [[Cell(method.method, method.about)] for method in result.methods]
    return Table("What the methods are", ["method"], [Group(lines)])


def _result(record: RunRecord) -> found.CompareResult:
    """The result as it was before it became JSON."""
    settings: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in record.config.items()
    }
    results = record.results
    return found.CompareResult(
        config=CompareConfig(**settings),
        parameters=results["parameters"],
        parent={split: Score(**score) for split, score in results["parent"].items()},
        methods=tuple(map(_method, results["methods"])),
        trials={name: tuple(map(_trial, trials)) for name, trials in results["trials"].items()},
        control=results.get("control"),
    )


def _method(method: Mapping[str, Any]) -> found.MethodResult:
    values = {
        "method": str(method["method"]),  # the terminal's tables take texts alone
        "accuracy": estimate(method["accuracy"]),
        "loss": estimate(method["loss"]),
        "against": _differences(method["against"]),
        "calibrated": {name: estimate(each) for name, each in method.get("calibrated", {}).items()},
        "calibrated_against": _differences(method.get("calibrated_against", {})),
        "against_control": _differences(method.get("against_control", {})),
        "to_target": {name: found.ToTarget(**each) for name, each in method["to_target"].items()},
        "curve": _curve(method["curve"]),
    }
    return found.MethodResult(**{**method, **values})


def _differences(stored: Mapping[str, Any]) -> dict[str, found.Difference]:
    return {name: _difference(each) for name, each in stored.items()}


def _difference(difference: Mapping[str, Any]) -> found.Difference:
    return found.Difference(**{**difference, "value": estimate(difference["value"])})


def _curve(curve: Mapping[str, Any]) -> found.Curve:
    scores = {name: tuple(map(estimate, curve[name])) for name in found.MEASURES}
    evaluations, forwards = (tuple(curve.get(name, ())) for name in ("evaluations", "forwards"))
    return found.Curve(**scores, evaluations=evaluations, forwards=forwards)


def _trial(trial: Mapping[str, Any]) -> found.Trial:
    return found.Trial(trial["settings"], Score(**trial["score"]))  # None: the loss of a method that diverged
