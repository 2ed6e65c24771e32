"""Settings of ``smd-evo finetune --generations``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from smd_evo.errors import InvalidValue, check_choice, check_pairs
from smd_evo.experiments import readers
from smd_evo.experiments.finetune.settings import FinetuneConfig
from smd_evo.experiments.settings import CHILDREN, FITNESSES, GROUPS, ExperimentConfig, setting
from smd_evo.experiments.subspaces import SUBSPACES, check_density, has_density, staged, stages_of, subspace_of

__all__ = [
    "MAY_CHANGE",
    "VOTERS",
    "EvolutionConfig",
    "check_generations",
    "images_at",
    "most_images",
    "phases",
]

SEARCHERS = ("gradient", "selection", "newton")
LOGS = ("csv", "tensorboard", "mlflow", "wandb")

VOTERS = 10
"""The best children of the last generation that may vote."""

MAY_CHANGE = (
    *("generations", "patience", "checkpoint_every", "keep_checkpoints", "log"),
    *("actors", "gpus_per_actor", "ray_address", "device", "memory"),
    *("model", "checkpoint", "checkpoint_key", "data", "data_dir", "download", "skip_unreadable"),
)
"""Settings that a run may be resumed with other values of; of the last line only if the same parent and data come."""


def _schedule(name: str, value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return str(readers.whole("try 300, or 300,1000@50")(name, value))
    text = value
    images_at(text, 1)
    return text


def images_at(schedule: str, generation: int) -> int:
    """Images that rank a child in a generation, which counts from 1.

    Args:
        schedule: "300", or "300,1000@50": from generation 50 on, 1,000.
        generation: its number.

    Raises:
        InvalidValue, InvalidType: the schedule is no such text.

    Example:
        >>> [images_at("300,1000@50", generation) for generation in (1, 49, 50)]
        [300, 300, 1000]
    """
    return [count for begin, count in _parts(schedule) if begin <= generation][-1]


def phases(schedule: str, first: int, last: int) -> list[tuple[int, int]]:
    """How many of some generations have how many images.

    Args:
        schedule: as for :func:`images_at`.
        first, last: numbers of the generations.

    Example:
        >>> phases("300,1000@50", 41, 100)
        [(9, 300), (51, 1000)]
    """
    parts = _parts(schedule)
    ends = [begin - 1 for begin, _ in parts[1:]] + [last]
    counts = [min(end, last) - max(begin, first) + 1 for (begin, _), end in zip(parts, ends, strict=True)]
    return [(count, images) for count, (_, images) in zip(counts, parts, strict=True) if count > 0]


def most_images(schedule: str, generations: int) -> int:
    """The most images that rank a child in a run of so many generations, however many that are.

    Args:
        schedule: as for :func:`images_at`.
        generations: of the run.

    Example:
        >>> most_images("300,1000@50", 49), most_images("300,1000@50", 10**12)
        (300, 1000)
    """
    return max(count for begin, count in _parts(schedule) if begin <= generations)


def _parts(schedule: str) -> list[tuple[int, int]]:
    """The generation that each part begins with, the first one with 1, and its images."""
    parts = readers.schedule("images", schedule, ",", "try 300,1000@50")
    return [(begin, readers.whole_number("images", size, mend="try 300, or 300,1000@50")) for begin, size in parts]


def _logs(name: str, value: Any) -> tuple[str, ...]:
    chosen = tuple(dict.fromkeys(check_choice(name, item, LOGS) for item in readers.items(name, value or ())))
    if missing := [item for item in chosen if item != "csv" and importlib.util.find_spec(item) is None]:
        raise InvalidValue(f"{name}: expected {missing[0]} to be installed, got none; pip install 'smd-evo[log]'")
    return chosen


def _density(name: str, value: Any) -> float:
    return readers.number(name, value, low=0, high=1, mend="over generations there is one, try 0.1")


def _rate(name: str, value: Any) -> float | None:
    return None if value is None else readers.number(name, value, low=0, mend="leave it out for the default")


def _ridge(name: str, value: Any) -> float:
    return readers.number(name, value, low=0, mend="try 0.3")


_OF_SEARCHER = {"adapt_sigma": "selection", "learning_rate": "gradient", "ridge": "newton", "calibrated": "newton"}
"""Settings that one searcher alone has."""


@dataclass(frozen=True)
class EvolutionConfig(ExperimentConfig):
    """Settings of ``smd-evo finetune --generations``.

    Example:
        >>> EvolutionConfig.read({"generations": "20", "images": "300,1000@10"}).images
        '300,1000@10'
    """

    generations: int = setting(
        100,
        "N",
        "Generations, of one run that can be resumed [a single one, beside controls].",
        readers.whole("try 100"),
    )
    searcher: str = setting(
        "gradient",
        "NAME",
        "gradient: the parent follows what all children tell; selection: the best is the next parent; newton: the "
        "mixture of all that is solved for by their outputs [gradient].",
        readers.one_of(SEARCHERS),
        choices=SEARCHERS,
    )
    children: int = setting(32, "N", "", readers.whole("try 32", low=2, high=CHILDREN))
    images: str | None = setting(
        None,
        "N[,N@G...]",
        "Images that rank a child, others each generation; from generation G on, N [300, or all if there are fewer].",
        _schedule,
    )
    subspace: str = setting("random", "NAME", "", staged(subspace_of(SUBSPACES)))
    density: float = setting(0.1, "X", "", _density)
    sigma: float | None = setting(None, "X", "", readers.sigma)
    keep: float = setting(0.9, "X", "", readers.keep)
    adapt_sigma: bool = setting(False, "", "With selection: the 1/5 success rule.", readers.flag)
    learning_rate: float | None = setting(
        None, "X", "With gradient: step size of Adam [0.2 x sigma x sqrt(density)].", _rate
    )
    ridge: float = setting(
        0.3, "X", "With newton: the larger, the shorter the step; few images want much [0.3].", _ridge
    )
    calibrated: bool = setting(
        False,
        "",
        "With newton: leave out what a temperature and class biases would gain [no].",
        readers.flag,
    )
    fitness: str = setting("cross_entropy", "NAME", "", readers.one_or_own(tuple(FITNESSES)))
    validate_every: int = setting(5, "N", "Generations between validations [5].", readers.whole("try 5"))
    patience: int | None = setting(
        None, "N", "Stop after N validations without a better one [never].", readers.samples
    )
    late_parents: int = setting(
        4,
        "N",
        "Validated parents that may vote in the ensemble; each takes a network's memory [4].",
        readers.whole("try 4", low=0),
    )
    checkpoint_every: int = setting(
        10, "N", "Generations between checkpoints [10].", readers.whole("try 10"), GROUPS[2]
    )
    keep_checkpoints: int = setting(3, "N", "Checkpoints to keep [3].", readers.whole("try 3"), GROUPS[2])
    log: tuple[str, ...] = setting((), "NAME[,NAME...]", "csv, tensorboard, mlflow, wandb.", _logs, choices=LOGS)
    actors: int = setting(
        0,
        "N",
        "Processes that evaluate, by Ray; 0 or 1: this one [0].",
        readers.whole("try 2", low=0, high=10_000),
        GROUPS[2],
    )
    gpus_per_actor: float | None = setting(None, "X", "GPUs of each, or a share of one [none].", _rate, GROUPS[2])
    ray_address: str | None = setting(None, "ADDR", "Ray cluster to use [one of its own].", readers.path, GROUPS[2])

    def check(self, given: Mapping[str, Any]) -> None:
        """See the base class."""
        check_density(self.subspace, given)
        begin, stage = stages_of(self.subspace)[-1]
        if begin > self.generations:
            raise InvalidValue(
                f"subspace: expected stages that begin within the {self.generations:,} generations, got {stage} from "
                f"{begin:,} on; give more generations, or leave it out"
            )
        defaults = {each.name: each.default for each in fields(self)}
        for name, other in _OF_SEARCHER.items():
            if self.searcher != other and given.get(name) not in (None, defaults[name]):
                raise InvalidValue(
                    f"{name}: expected it with searcher {other}, got it with {self.searcher}; leave it out"
                )
        if self.searcher == "newton" and self.actors > 1:
            raise InvalidValue(
                f"actors: expected none with searcher newton, which needs outputs, got {self.actors}; leave it out"
            )
        if self.searcher == "newton" and "keep" in given and given["keep"] != defaults["keep"]:
            raise InvalidValue(
                "keep: expected none with searcher newton, which has a calibration of its own; leave it out"
            )
        if self.searcher == "gradient":
            check_pairs("children", self.children)
        for name in ("gpus_per_actor", "ray_address"):
            if self.actors < 2 and given.get(name) is not None:
                raise InvalidValue(f"{name}: expected it with actors, got {self.actors} of them; give 2 or more")

    def as_dict(self) -> dict[str, Any]:
        """See the base class."""
        left_out = set() if self.searcher == "newton" else {"ridge", "calibrated"}
        left_out |= set() if has_density(self.subspace) else {"density"}
        return {name: value for name, value in super().as_dict().items() if name not in left_out}


def check_generations(settings: Mapping[str, Any]) -> None:
    """Raise InvalidValue if one of the settings makes sense over several generations only, or over a single one."""
    many, single = ({each.name for each in fields(kind)} for kind in (EvolutionConfig, FinetuneConfig))
    for name in settings:
        if name in many - single and "generations" not in settings:
            raise InvalidValue(f"{name}: expected it with generations, got it without; give --generations 100, say")
        if name in single - many and "generations" in settings:
            raise InvalidValue(f"{name}: expected it for a single generation, got it with generations; leave one out")
