"""The tables of mutation windows, and what they say in words."""

from __future__ import annotations

from collections.abc import Callable

from rich.table import Table

from smd_evo.experiments.tables import claim, new_table, p_text, points
from smd_evo.experiments.window.numbers import PartialEstimate
from smd_evo.experiments.window.results import Profile, Window, WindowResult
from smd_evo.statistics.tests import holm

__all__ = ["window_tables", "window_verdict"]


def window_tables(result: WindowResult) -> list[Table]:
    """The edges of the windows, and the best child inside of each."""
    edges = _table(
        f"{result.config.model} on {result.config.data}, {result.samples['fitness']:,} fitness images: "
        f"{100 * result.parent:.1f} %",
        "up to sigma: while the median child keeps that share of the parent's accuracy; ratios: to the same of dense "
        "mutations, as it is and times the square root of the density (matched norm); brackets: 95 % bootstrap "
        "intervals over children, ? where the cells do not tell; not corrected for the number of lines.",
        "up to sigma",
        "matched sigma",
        "matched norm",
    )
    best = _table(
        f"Best child up to there, {result.samples['validation']:,} validation images: "
        f"{100 * result.parent_validation:.1f} %",
        "fitness: its accuracy in %, by which it was chosen, so too high; gain: of accuracy over the parent on "
        "validation, in points, with its 95 % paired bootstrap interval; p: exact McNemar test, not corrected for "
        "the number of lines. Windows differ in how many children they hold.",
        "sigma",
        "fitness",
        "gain",
        "p",
    )
    for profile in result.profiles:
        for table in (edges, best):
            table.add_row(profile.rule)
        for window in profile.windows:
            name = f"  {100 * window.share:.0f} %"
            edges.add_row(name, _edge(window, profile), _ratio(window.matched_sigma), _ratio(window.matched_norm))
            best.add_row(name, *_best(window))
        for table in (edges, best):
            table.add_section()
    return [edges, best]


def window_verdict(result: WindowResult) -> list[str]:
    """What the tables show, in sentences that claim no more than their intervals."""
    lines = []
    for profile in result.profiles:
        for window in profile.windows:
            if window.matched_sigma and window.matched_norm:
                lines.append(
                    f"{profile.rule} against dense, {100 * window.share:.0f} % kept: "
                    f"{_compared(window.matched_sigma)} at matched sigma; "
                    f"{_compared(window.matched_norm)} at matched norm."
                )
    found = [(profile, profile.windows[-1]) for profile in result.profiles if profile.windows[-1].best]
    adjusted = holm([window.best.p_value for _, window in found if window.best])
    for (profile, window), p_value in zip(found, adjusted, strict=True):
        assert window.best is not None
        which = f"Best child of {profile.rule} within {100 * window.share:.0f} %"
        lines.append(f"{which}, p adjusted by Holm, the interval not: {claim(window.best.gain, p_value)}")
    lost = sum(cell.nonfinite for profile in result.profiles for cell in profile.cells)
    if lost:
        lines.append(f"{lost} children had outputs that are not finite; their accuracy counts as 0.")
    spent, full = result.evaluations["children"], result.evaluations["full grid"]
    lines.append(f"{spent:,} children were evaluated; the full grid of the same strengths has {full:,}.")
    return lines


def _compared(ratio: PartialEstimate) -> str:
    if ratio.value is None:
        return "no ratio shown"
    if ratio.low is not None and ratio.low > 1:
        word = "wider"
    elif ratio.high is not None and ratio.high < 1:
        word = "narrower"
    else:
        word = "no difference shown"
    return f"{word}, {_ratio(ratio)} times,"


def _edge(window: Window, profile: Profile) -> str:
    if window.beyond == "chance":
        return "no more than chance"
    if window.beyond == "below":
        return f"< {_short(profile.cells[0].sigma, 3)}"
    if window.beyond == "above":
        return f"> {_short(profile.cells[-1].sigma, 3)}"
    return _with_interval(window.sigma, lambda number: _short(number, 3), lambda number: _short(number, 2))


def _ratio(ratio: PartialEstimate | None) -> str:
    """With two decimals, which tell on which side of 1 it is, or three digits."""
    if ratio is None:
        return ""
    return _with_interval(ratio, *(lambda number: f"{number:.2f}" if number < 10 else _short(number, 3),) * 2)


def _with_interval(number: PartialEstimate, text: Callable[[float], str], end_text: Callable[[float], str]) -> str:
    if number.value is None:
        return "?"
    low, high = ("?" if end is None else end_text(end) for end in (number.low, number.high))
    return f"{text(number.value)} [{low}, {high}]"


def _short(number: float, digits: int) -> str:
    """Rounded to so many significant digits; 110 and not 1.1e+02."""
    return f"{float(f'{number:.{digits}g}'):g}"


def _best(window: Window) -> tuple[str, ...]:
    best = window.best
    if best is None:
        return ("none", "", "", "")
    return _short(best.sigma, 3), f"{100 * best.accuracy:.1f}", points(best.gain), p_text(best.p_value)


def _table(title: str, caption: str, *numbers: str) -> Table:
    return new_table(title, caption, [""], numbers)
