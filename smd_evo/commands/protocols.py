"""One generation of one network, or of several in turn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smd_evo.bar import Bar, DryRun
from smd_evo.commands.shared import calls, chosen, deliver, interrupts_tell, placed, say
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.terminal import show

if TYPE_CHECKING:
    from smd_evo.experiments.protocol.plan import Part, Plan

__all__ = ["finetune_all", "finetune_one"]

_NOT_CHECKED = ("device", "checkpoint")
"""Settings that runs may have of their own where they were made; the second, of those that are not asked for now."""


def finetune_one(config: FinetuneConfig, target: Path, dry_run: bool) -> None:
    """A run of its own."""
    with placed(target) as place:
        with Bar(dry_run) as bar:
            made = calls().finetune(config, bar)
        deliver(place, made)


def finetune_all(plan: Plan, out: str | None, dry_run: bool) -> None:
    """Each part in a folder of its own; what is there already is kept if it was made with these settings."""
    configs = _configs(plan, out)

    from smd_evo.experiments.finetune.files import is_finished
    from smd_evo.experiments.folders.content import RESULTS
    from smd_evo.experiments.protocol.checks import check_parents
    from smd_evo.experiments.protocol.files import write_summary
    from smd_evo.experiments.protocol.naming import naming
    from smd_evo.experiments.protocol.table import overall_table, protocol_table, protocol_verdict
    from smd_evo.experiments.sections import rich_table

    def told() -> str:
        done = sum((target / part.folder / RESULTS).is_file() for part in configs)
        what = "models" if plan.seeds is None else "runs"
        return f"{done} of {len(configs)} {what} are finished; the same command goes on"

    with chosen(out, "finetune") as target, interrupts_tell(told):
        _check_others(plan, target)
        done = [
            part for part, config in configs.items() if is_finished(target / part.folder, config, _NOT_CHECKED[:1])
        ]
        asked = {part.name: config for part, config in configs.items()}
        check_parents(asked, {part.name: config for part, config in configs.items() if part not in done})
        for part, config in configs.items():
            if part in done:
                continue
            try:
                with naming(part.folder):
                    finetune_one(config, target / part.folder, dry_run)
            except DryRun as told_of:
                say(f"{part.folder}: {told_of}")
        if dry_run:
            return
        _check_others(plan, target)  # others may have come meanwhile
        parts = plan.found(target)
        summary = write_summary(target, {part.folder: part.name for part in parts}, plan.command(parts))
        tables = [protocol_table(summary), *([rich_table(overall_table(summary))] if summary.overall else [])]
        show(tables, protocol_verdict(summary), target)


def _configs(plan: Plan, out: str | None) -> Mapping[Part, FinetuneConfig]:
    """The settings of each run; what is wrong with them shows before torch is imported."""
    from smd_evo.early import check_settings
    from smd_evo.experiments.protocol.naming import naming

    def parsed(settings: dict[str, Any]) -> FinetuneConfig:
        config = FinetuneConfig.parsed(settings)
        check_settings(config, out)
        return config

    parsed(plan.common)
    found = {}
    for part in plan.parts:
        with naming(part.name):
            found[part] = parsed({**plan.settings(part), **plan.weights(part)})
    return {part: config.on_device() for part, config in found.items()}


def _check_others(plan: Plan, target: Path) -> None:
    """Raise InvalidValue if runs that are not asked for now, and go into the table, have other settings."""
    from smd_evo.experiments.finetune.files import is_finished
    from smd_evo.experiments.protocol.naming import naming

    for part in plan.found(target):
        if part not in plan.parts:
            with naming(part.name):
                config = FinetuneConfig.read(plan.settings(part))
            is_finished(target / part.folder, config, _NOT_CHECKED)
