"""Settings of the experiments: each field with its default, its check and what the command line says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from smd_evo.documents import YAML_BYTES, parse_yaml, read_file
from smd_evo.errors import InvalidValue, check_choice, kept
from smd_evo.experiments import readers
from smd_evo.zoo.names import OUTPUTS

__all__ = [
    "CHILDREN",
    "ELSEWHERE",
    "FITNESSES",
    "FORMATS",
    "GROUPS",
    "METRICS",
    "OBJECT",
    "ExperimentConfig",
    "fitness_name",
    "in_percent",
    "is_object",
    "load_settings",
    "load_yaml",
    "setting",
]

FITNESSES = {
    "cross_entropy": "cross-entropy",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "f1": "F1",
    "auroc": "AUROC",
    "average_precision": "average precision",
    "ndcg@10": "NDCG@10",
    "mrr@10": "MRR@10",
    "pearson": "Pearson's correlation",
    "spearman": "Spearman's correlation",
    "r2": "R2",
}
"""Names of fitnesses, and what reports call them. Behind @ may be another number."""
OBJECT = "object"
"""What stands before the colon where a program gave an object, which nobody can load by a name."""

ELSEWHERE = ("model", "checkpoint", "checkpoint_key", "data", "data_dir", "fitness")
"""Settings that say where a stored run's parent, data and fitness are now, if they are not where they were."""

FORMATS = ("safetensors", "torch")
"""Of exported weights."""
GROUPS = ("Parent and data", "Search", "Machine")
"""Headings of the help."""

METRICS = ("cross_entropy", "accuracy")
CHILDREN = 1_000_000
"""The most of one generation."""
_PRECISIONS = ("float32", "bfloat16", "auto")
_Config = TypeVar("_Config", bound="ExperimentConfig")


def is_object(value: object) -> bool:
    """Whether a setting stands for an object of a program.

    >>> is_object("object:SmallNet"), is_object("demo-cnn"), is_object(None)
    (True, False, False)
    """
    return str(value).startswith(f"{OBJECT}:")


def fitness_name(name: str) -> str:
    """What reports call a fitness.

    >>> fitness_name("macro_f1"), fitness_name("object:absolute error")
    ('macro F1', 'absolute error')
    """
    return FITNESSES.get(name, name.removeprefix(f"{OBJECT}:"))


def in_percent(name: str) -> bool:
    """Whether a fitness of classifiers is a share, which reports tell in percent.

    >>> in_percent("macro_f1"), in_percent("cross_entropy"), in_percent("object:perplexity")
    (True, False, False)
    """
    return name != "cross_entropy" and ":" not in name


def setting(
    default: Any, metavar: str, text: str, read: readers.Reader, group: str = GROUPS[1], choices: Sequence[str] = ()
) -> Any:
    """A field that the command line offers as an option with this placeholder and help.

    Args:
        default: its value where none is given.
        metavar, text: for the help.
        read: checks and converts what is given.
        group: one of :data:`GROUPS`, under which the help tells it.
        choices: names that a shell may complete.
    """
    return field(
        default=default,
        metadata={"metavar": metavar, "help": text, "read": read, "group": group, "choices": tuple(choices)},
    )


@dataclass(frozen=True)
class ExperimentConfig:
    """Settings that all experiments have: the parent, the data, where and how they run."""

    model: str = setting(
        "demo-cnn",
        "NAME",
        "Parent: demo-cnn, timm:NAME, torchvision:NAME, hf:NAME, cifar-resnetN or module.path:factory [demo-cnn].",
        readers.text,
        GROUPS[0],
    )
    checkpoint: str | None = setting(
        None, "FILE", "Its weights, safetensors or torch [the published ones].", readers.path, GROUPS[0]
    )
    checkpoint_key: str | None = setting(
        None,
        "NAME",
        "Which of them, where the file holds several, like model or ema [the EMA].",
        readers.path,
        GROUPS[0],
    )
    data: str = setting(
        "digits",
        "NAME",
        "digits, imagenet:PATH, imagefolder:PATH, cifar10, cifar100, fashion-mnist or module.path:factory [digits].",
        readers.text,
        GROUPS[0],
    )
    data_dir: str = setting(
        "data", "DIR", "Folder of cifar10, cifar100 and fashion-mnist [data].", readers.text, GROUPS[0]
    )
    download: bool = setting(False, "", "Fetch these if they are not there.", readers.flag, GROUPS[0])
    fitness_samples: int | None = setting(
        None,
        "N",
        "Samples that rank children [5000, at most a third of the training data].",
        readers.samples,
        GROUPS[0],
    )
    validation_samples: int | None = setting(None, "N", "Samples that choose, likewise.", readers.samples, GROUPS[0])
    test_samples: int | None = setting(
        None, "N", "Samples that are reported [all of the test data].", readers.samples, GROUPS[0]
    )
    memory: float = setting(
        4.0,
        "GIB",
        "Decoded images to hold in memory; more are decoded again when needed [4].",
        readers.memory,
        GROUPS[0],
    )
    skip_unreadable: bool = setting(
        False, "", "Leave out unreadable images, however many [at most 1 %].", readers.flag, GROUPS[0]
    )
    outputs: str = setting(
        "all",
        "NAME",
        "Outputs that the network keeps: all, or present, those of the classes that the images have [all].",
        readers.one_of(OUTPUTS),
        GROUPS[0],
        OUTPUTS,
    )
    preprocessing: str | None = setting(
        None,
        "TEXT",
        "Instead of the network's own: some of size=224,crop=0.875,interpolation=bicubic,mean=0.5,std=0.5.",
        readers.preprocessing,
        GROUPS[0],
    )
    select: str = setting(
        "all",
        "TERMS",
        "Parameters to mutate: all, weight, bias, norm, head, lora, layers, patterns [all].",
        readers.terms,
    )
    seed: int = setting(0, "N", "Seed of everything [0].", readers.seed)
    device: str = setting("cpu", "NAME", "auto, cpu, cuda or cuda:N [auto].", readers.device_name, GROUPS[2])
    precision: str = setting(
        "float32",
        "NAME",
        "float32; bfloat16: autocast, twice as fast where the processor has units for it; auto: that where it has "
        "[float32].",
        readers.one_of(_PRECISIONS),
        GROUPS[2],
        _PRECISIONS,
    )
    batch_size: int | str = setting(
        "auto", "N", "Images a forward pass, or auto [auto].", readers.batch_size, GROUPS[2]
    )

    def __post_init__(self) -> None:
        # However they come, from Python, a file or the command line; the device last, as it may have to import torch.
        own = sorted(fields(self), key=lambda each: each.name == "device")
        kept(self, **{each.name: each.metadata["read"](each.name, getattr(self, each.name)) for each in own})

    @classmethod
    def read(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """Settings from a mapping of names to numbers or strings; what is missing has its default.

        Raises:
            InvalidValue, InvalidType: an unknown name or an unusable value.
        """
        return cls.parsed(values).on_device()

    @classmethod
    def parsed(cls: type[_Config], values: Mapping[str, Any]) -> _Config:
        """The same but for the device, which is only looked for by :meth:`on_device`: that has to import torch."""
        known: dict[str, Field[Any]] = {setting.name: setting for setting in fields(cls)}
        for name in values:
            check_choice("setting", name, known)
        values = {**values, "device": values.get("device", "auto")}
        config = cls(**values)
        config.check(values)
        return config

    def on_device(self: _Config) -> _Config:
        """The same settings with a device that is there, and its precision: the stored ones say what was used."""
        device = readers.device("device", self.device)
        return replace(self, device=device, precision=readers.precision(self.precision, device))

    def check(self, given: Mapping[str, Any]) -> None:
        """Raise InvalidValue if settings exclude each other; ``given`` are those that have no default."""

    def as_dict(self) -> dict[str, Any]:
        """The settings as plain values, which :meth:`read` takes."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @property
    def sizes(self) -> dict[str, int | None]:
        """Samples of each split, where they are given."""
        return {
            "fitness": self.fitness_samples,
            "validation": self.validation_samples,
            "test": self.test_samples,
        }


def load_settings(path: Path | str) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        InvalidValue: the file is unreadable or holds no mapping.
    """
    values = load_yaml("config", path)
    if not isinstance(values, dict):
        raise InvalidValue(f"config: expected lines like 'children: 64' in {path}, got {type(values).__name__}")
    return values


def load_yaml(what: str, path: Path | str) -> Any:
    """The value that a YAML file holds.

    Raises:
        InvalidValue: the file is unreadable.
    """
    try:
        return parse_yaml(read_file(Path(path), YAML_BYTES).decode())
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InvalidValue(f"{what}: expected a readable YAML file, got {path} ({reason})") from None
