"""The tables of a comparison, and what they say in words."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from smd_evo.experiments.compare.methods.registry import CONTROLS, REFERENCE
from smd_evo.experiments.compare.results import MEASURES, CompareResult, Difference, MethodResult, ToTarget
from smd_evo.experiments.compare.settings import CompareConfig
from smd_evo.experiments.tables import interval, new_table, p_text, points
from smd_evo.statistics.tests import Estimate

__all__ = ["budget_text", "compare_tables", "compare_verdict"]

_ALPHA = 0.05


def compare_tables(result: CompareResult) -> list[Table]:
    """Scores on the test split; differences to the reference and the best control; how soon; what it took."""
    differences = [_differences(result, measure) for measure in MEASURES]
    beyond = [_calibrated(result, measure) for measure in MEASURES] if _is_calibrated(result) else []
    beyond += [_beyond(result)] if result.control is not None else []
    return [_scores(result), *differences, *beyond, _targets(result), _costs(result)]


def budget_text(config: CompareConfig) -> str:
    """What a run may spend."""
    forwards = "" if config.forwards is None else f", {config.forwards:,} forward passes at most"
    return f"{config.budget:,} image evaluations{forwards}"


def compare_verdict(result: CompareResult) -> list[str]:
    """What the tables show, in sentences that claim no more than their tests."""
    evolved = [method for method in result.methods if method.method not in (REFERENCE, *CONTROLS)]
    lines = [_sentence(method, REFERENCE, method.against) for method in evolved]
    lines += _beyond_both(result)
    fast = [method for method in evolved if _reaches(method, result.whole)]
    for method in fast:
        reached = [
            f"{name} that {REFERENCE} ends with after {_share(method.to_target[name], result)}"
            for name in method.to_target
            if _sooner(method.to_target[name], result.whole)
        ]
        lines.append(f"{method.method} reaches the {' and the '.join(reached)}.")
    if not fast:
        lines.append(f"No method was shown to reach the final score of {REFERENCE} with fewer {_unit(result)}.")
    return lines


def _beyond_both(result: CompareResult) -> list[str]:
    """What is better than the reference and than the best control: in accuracy, or in loss once calibrated."""
    control = result.control
    if control is None:
        return []
    lines = [
        _sentence(method, f"{control}, the best control", method.against_control)
        for method in result.methods
        if method.against_control
    ]
    better = [method.method for method in result.methods if _is_better(method)]
    if better:
        lines.append(f"Better than both {REFERENCE} and {control}: {', '.join(better)}.")
    else:
        lines.append(f"No method was shown to be better than both {REFERENCE} and {control}.")
    return lines


def _sentence(method: MethodResult, other: str, against: Mapping[str, Difference]) -> str:
    accuracy, loss = against["accuracy"], against["loss"]
    return (
        f"{method.method} against {other}: accuracy {points(accuracy.value)} points, "
        f"p = {p_text(accuracy.adjusted)}: {_word(accuracy, 1)}; loss {_signed(loss.value)}, "
        f"p = {p_text(loss.adjusted)}: {_word(loss, -1)}."
    )


def _is_better(method: MethodResult) -> bool:
    """Than both, in one of the measures; what cannot be told from what is free is none of evolution's."""
    if method.method == REFERENCE or not method.against_control:
        return False
    against = {"accuracy": method.against["accuracy"], "loss": (method.calibrated_against or method.against)["loss"]}
    return any(
        _word(against[measure], sign) == _word(method.against_control[measure], sign) == "better"
        for measure, sign in (("accuracy", 1), ("loss", -1))
    )


def _reaches(method: MethodResult, whole: float) -> bool:
    return any(_sooner(found, whole) for found in method.to_target.values())


def _sooner(found: ToTarget, whole: float) -> bool:
    """Whether that is shown: by the p value, and by the whole interval."""
    return found.adjusted < _ALPHA and found.high is not None and found.high < whole


def _share(found: ToTarget, result: CompareResult) -> str:
    value, low, high = (100 * (number or 0) / result.whole for number in (found.evaluations, found.low, found.high))
    return f"{value:.0f} [{low:.0f}, {high:.0f}] % of its {_unit(result)} (p = {p_text(found.adjusted)})"


def _unit(result: CompareResult) -> str:
    return "forward passes" if result.counted else "image evaluations"


def _word(difference: Difference, sign: int) -> str:
    """A claim needs both its p value and its interval."""
    if difference.adjusted < _ALPHA and (difference.value.low > 0 or difference.value.high < 0):
        return "better" if sign * difference.value.value > 0 else "worse"
    return "no difference shown"


def _scores(result: CompareResult) -> Table:
    config = result.config
    table = _table(
        f"{config.model} on {config.data}: {budget_text(config)}, {config.seeds} seeds",
        "Test accuracy in % and cross-entropy: means with 95 % t intervals over seeds, as far as such numbers go, "
        "which differ in children and minibatches, not in splits.",
        "accuracy",
        "loss",
    )
    test = result.parent["test"]
    table.add_row("parent", f"{100 * test.accuracy:.1f}", f"{test.loss:.3f}")
    for method in result.methods:
        table.add_row(method.method, interval(method.accuracy, 100, 1, 1), interval(method.loss, 1, 3, 3))
    return table


def _is_calibrated(result: CompareResult) -> bool:
    return all(method.calibrated for method in result.methods)


def _calibrated(result: CompareResult, measure: str) -> Table:
    """What is left of differences once everybody's outputs are calibrated."""
    scale, digits = (100, 1) if measure == "accuracy" else (1, 3)
    table = _table(
        f"Test {measure}, calibrated, and difference to {REFERENCE}",
        "Each method's outputs with a temperature and a bias for each class, fitted to its own outputs for the "
        "fitness split, outside of the budget. Differences and p values as above.",
        measure,
        "difference",
        "p",
    )
    for method in result.methods:
        cells = [interval(method.calibrated[measure], scale, digits, digits)]
        if measure in method.calibrated_against:
            found = method.calibrated_against[measure]
            cells += [points(found.value) if measure == "accuracy" else _signed(found.value), p_text(found.adjusted)]
        table.add_row(method.method, *cells)
    return table


def _beyond(result: CompareResult) -> Table:
    """What evolution adds to what is free."""
    loss = "loss, calibrated" if _is_calibrated(result) else "loss"
    table = _table(
        f"Differences to {result.control}, the best control on validation",
        f"In accuracy (points), and in {loss}. Paired over seeds, as above.",
        "accuracy",
        "p",
        loss,
        "p",
    )
    for method in result.methods:
        if method.against_control:
            accuracy, found = method.against_control["accuracy"], method.against_control["loss"]
            cells = points(accuracy.value), p_text(accuracy.adjusted), _signed(found.value), p_text(found.adjusted)
            table.add_row(method.method, *cells)
    return table


def _differences(result: CompareResult, measure: str) -> Table:
    seeds = result.config.seeds
    in_points = " in points" if measure == "accuracy" else ""
    table = _table(
        f"Test {measure}: difference to {REFERENCE}",
        f"Difference{in_points}: paired over seeds, with its 95 % t interval, each line's by itself, not corrected; "
        "p: paired t test after Holm's correction for the lines of this table; W: signed-rank "
        f"test, not corrected, which {seeds} seeds cannot bring below {2 / 2**seeds:.2g}; better: seeds.",
        "difference",
        "p",
        "W",
        "better",
    )
    for method in result.methods:
        if measure in method.against:
            found = method.against[measure]
            value = points(found.value) if measure == "accuracy" else _signed(found.value)
            tests = p_text(found.adjusted), p_text(found.wilcoxon)
            table.add_row(method.method, value, *tests, f"{found.better} of {seeds}")
    return table


def _targets(result: CompareResult) -> Table:
    table = _table(
        f"{_unit(result).capitalize()} until the validation score that {REFERENCE} ends with",
        "In % of what its whole run took, by the mean curve of all seeds, made monotone; 95 % bootstrap intervals "
        "over seeds, paired with the reference's, not corrected, and the p value of taking as much, after Holm's "
        "correction; never: not within the budget.",
        *(name for measure in MEASURES for name in (measure, "p")),
    )
    for method in result.methods:
        cells = [_target(method.to_target[measure], result.whole) for measure in MEASURES]
        table.add_row(method.method, *(text for cell in cells for text in cell))
    return table


def _costs(result: CompareResult) -> Table:
    trials = result.config.trials
    chosen = f"the best of {trials} trials of each method on validation"
    if trials == 1:
        chosen = "the first of each method, untried"
    table = _table(
        "Settings, and what a run took",
        f"Settings: {chosen}; of what is free the best of all on validation. "
        "Strengths are in units of the calibrated one, for which so many images were evaluated once, "
        "outside of the budget; forwards: passes of an image through the whole network that this took, as layers "
        "before what is mutated are computed once a minibatch; seconds: without the scores; MiB: at the peak, "
        "beyond parent and data.",
        "settings",
        "images",
        "forwards",
        "calibration",
        "seconds",
        "MiB",
    )
    for method in result.methods:
        table.add_row(
            method.method,
            ", ".join(f"{name} {value}" for name, value in method.settings.items()),
            f"{method.evaluations:,}",
            "?" if method.forwards is None else f"{method.forwards:,.0f}",
            f"{method.calibration:,}",
            f"{method.seconds:.1f}",
            "?" if method.memory is None else f"{method.memory / 2**20:,.0f}",
        )
    return table


def _signed(found: Estimate) -> str:
    return f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _target(found: ToTarget, whole: float) -> tuple[str, str]:
    value, low, high = (
        "never" if number is None else f"{100 * number / whole:.0f}"
        for number in (found.evaluations, found.low, found.high)
    )
    p_value = "" if found.p_value == 1 else p_text(found.adjusted)
    return value if value == low == high else f"{value} [{low}, {high}]", p_value


def _table(title: str, caption: str, *numbers: str) -> Table:
    return new_table(title, caption, ["method"], numbers)
