"""``python -m smd_evo`` and ``smd-evo``: interrupts are looked after before anything else is imported."""

from __future__ import annotations

from smd_evo.interrupts import Interrupts


def main() -> None:
    """Entry point."""
    interrupts = Interrupts()
    interrupts.begin()
    try:
        from smd_evo.cli import main as command
    except KeyboardInterrupt:
        interrupts.leave()
    command(interrupts)


if __name__ == "__main__":
    main()
