"""Metrics of all samples together by their names, as scikit-learn and SciPy have them, of a network's outputs.

NaN of outputs that are not finite, and where a metric is not defined: of one class alone, of constant numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smd_evo.errors import InvalidType, InvalidValue

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["METRICS", "Metric", "metric_of"]

METRICS = ("f1", "auroc", "average_precision", "ndcg@10", "mrr@10", "pearson", "spearman", "r2")
"""Their names; of all of them more is better. Behind @ may be another number."""


@dataclass(frozen=True)
class Metric:
    """A number of all outputs and targets.

    Attributes:
        name: one of :data:`METRICS`.
        classes: whether targets are numbers of the network's outputs, or 0 and 1 for each; others are refused early.
        function: of finite outputs and targets of equal length.
        per_sample: the same of each sample that has a target, where the number is the mean of those; float64 [n].
    """

    name: str
    classes: bool
    function: Callable[[str, Tensor, Tensor], float]
    per_sample: Callable[[str, Tensor, Tensor], Tensor] | None = None

    def __call__(self, outputs: Any, targets: Any) -> float:
        """The number.

        Args:
            outputs: the logits, or what :func:`.classification.logits_of` finds them in.
            targets: a tensor.

        Raises:
            InvalidValue, InvalidType: these are not of the kind that the metric is of.
        """
        found = self._finite(outputs, targets)
        return self.function(self.name, *found) if found else math.nan

    def of_each(self, outputs: Any, targets: Any) -> Tensor | None:
        """Of each sample that has a target; None of a number that is no mean, and of outputs that are not finite.

        Args:
            outputs, targets: as above.

        Returns:
            float64 [n], whose mean is the metric.
        """
        found = self._finite(outputs, targets) if self.per_sample else None
        return self.per_sample(self.name, *found) if self.per_sample and found else None

    def _finite(self, outputs: Any, targets: Any) -> tuple[Tensor, Tensor] | None:
        """Outputs and targets as the functions take them."""
        from torch import Tensor

        from smd_evo.evaluation.classification import logits_of

        logits = logits_of(outputs).detach().cpu()
        if not isinstance(targets, Tensor):
            raise InvalidType(f"{self.name}: expected targets in one tensor, got {type(targets).__name__}")
        if len(logits) != len(targets) or not logits.dim():
            raise InvalidValue(f"{self.name}: expected a target for each output, got {_shapes(logits, targets)}")
        return (logits.double(), targets.cpu()) if bool(logits.isfinite().all()) else None


def metric_of(name: str) -> Metric | None:
    """The metric of a name, None if there is none.

    >>> import torch
    >>> scores = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
    >>> metric_of("mrr@10")(scores, torch.tensor([0, 2])), metric_of("mrr@1")(scores, torch.tensor([0, 2]))
    (0.75, 0.5)
    """
    kind = re.sub(r"@[1-9]\d*$", "@10", name)
    if kind not in METRICS:
        return None
    return Metric(name, kind in ("f1", "auroc", "average_precision"), _FUNCTIONS[kind], _PER_SAMPLE.get(kind))


def _f1(name: str, outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import f1_score

    found = _columns(name, outputs, targets, "f1 is of two, macro_f1 of more")
    return float(f1_score(found[0][0], found[0][1] > 0, zero_division=0.0)) if found else math.nan


# These two are scikit-learn's numbers for all classes at once, in a tenth of its time: a bootstrap wants thousands.
def _auroc(name: str, outputs: Tensor, targets: Tensor) -> float:
    import numpy as np
    from scipy.stats import rankdata

    true, scores = _stacked(_columns(name, outputs, targets))
    positive = true.sum(0)
    pairs = positive * (len(true) - positive)
    above = (rankdata(scores, axis=0) * true).sum(0) - positive * (positive + 1) / 2  # Mann and Whitney's U
    return float(np.mean(above[pairs > 0] / pairs[pairs > 0])) if pairs.any() else math.nan


def _average_precision(name: str, outputs: Tensor, targets: Tensor) -> float:
    import numpy as np

    true, scores = _stacked(_columns(name, outputs, targets))
    order = np.argsort(-scores, axis=0)
    true, scores = np.take_along_axis(true, order, 0), np.take_along_axis(scores, order, 0)
    places = np.arange(len(true))[:, None]
    precision = true.cumsum(0) / (places + 1)
    ends = np.where(np.diff(scores, axis=0, append=np.nan) != 0, places, len(true))  # of equal scores the last place
    ends = np.minimum.accumulate(ends[::-1])[::-1]
    found = (np.take_along_axis(precision, ends, 0) * true).sum(0)
    positive = true.sum(0)
    return float(np.mean(found[positive > 0] / positive[positive > 0])) if positive.any() else math.nan


def _stacked(columns: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """What is of each class, and its scores: [n, C] each."""
    import numpy as np

    if not columns:
        return np.zeros((0, 1), dtype=bool), np.zeros((0, 1))
    true, scores = zip(*columns, strict=True)
    return np.stack(true, 1), np.stack(scores, 1)


def _columns(name: str, outputs: Tensor, targets: Tensor, two: str = "") -> list[tuple[Any, Any]]:
    """Of each class what is of it, and the scores for it: above 0 where it is likelier than the others.

    Empty where there are no samples.

    Args:
        name: of the metric.
        outputs: [n, C] for classes, [n] or [n, 1] for one class or not.
        targets: class numbers [n], where -100 is none, or [n, C] of 0 and 1.
        two: why there may be no more than two classes, if so.
    """
    if outputs.dim() == 2 and outputs.shape[1] == 1:
        outputs = outputs[:, 0]
    many = outputs.dim() == 2 and outputs.shape[1] > 2
    targets = targets.double()  # bool has no arithmetic
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    whole = bool((targets == targets.round()).all())
    if not whole or outputs.dim() not in (1, 2) or (targets.shape != outputs.shape and targets.dim() != 1):
        raise InvalidValue(
            f"{name}: expected class numbers [n], or 0 and 1 of the outputs' shape, got {_shapes(outputs, targets)}"
        )
    if two and (many or targets.dim() == 2):
        raise InvalidValue(f"{name}: expected outputs [n], [n, 1] or [n, 2], got {_shapes(outputs, targets)}; {two}")
    if targets.dim() == 2:
        _check_binary(name, targets, "each output")
        return [(targets[:, n].numpy() > 0, outputs[:, n].numpy()) for n in range(outputs.shape[1])]
    known = targets != -100
    outputs, targets = outputs[known], targets[known]
    if not len(targets):
        return []
    if outputs.dim() == 2 and not many:
        outputs = outputs[:, 1] - outputs[:, 0]
    if outputs.dim() == 1:
        _check_binary(name, targets, "one output")
        return [(targets.numpy() > 0, outputs.numpy())]
    scores = outputs.softmax(1).numpy()
    return [((targets == number).numpy(), scores[:, number]) for number in range(scores.shape[1])]


def _check_binary(name: str, targets: Tensor, of: str) -> None:
    """Refuse targets of which some are neither 0 nor 1."""
    others = targets[(targets != 0) & (targets != 1)]
    if others.numel():
        raise InvalidValue(f"{name}: expected targets 0 and 1 for {of}, got {int(others[0])}")


def _ndcg(name: str, outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import ndcg_score

    outputs, relevance = _ranked(name, outputs, targets)
    if not len(outputs):
        return math.nan
    return float(ndcg_score(relevance.numpy(), outputs.numpy(), k=int(name.partition("@")[2])))


def _ndcg_of_each(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    import torch

    outputs, relevance = _ranked(name, outputs, targets)
    found = [_ndcg(name, outputs[n : n + 1], relevance[n : n + 1]) for n in range(len(outputs))]
    return torch.tensor(found, dtype=torch.float64)


def _mrr(name: str, outputs: Tensor, targets: Tensor) -> float:
    return float(_mrr_of_each(name, outputs, targets).mean())


def _mrr_of_each(name: str, outputs: Tensor, targets: Tensor) -> Tensor:
    outputs, relevance = _ranked(name, outputs, targets)
    relevant = relevance > 0
    best = outputs.masked_fill(~relevant, -math.inf).amax(1, keepdim=True)
    before = ((outputs >= best) & ~relevant).sum(1).double()  # equal scores count against it
    found = (before < int(name.partition("@")[2])) & relevant.any(1)
    return found / (1 + before)


def _ranked(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [n, items], and how much each item is worth: targets of that shape, or the right one's number [n].

    Samples whose number is -100, which is none, are left out.
    """
    from torch.nn.functional import one_hot

    if outputs.dim() == 2 and outputs.shape[1] > 1:
        if targets.shape == outputs.shape and bool((targets >= 0).all()):
            return outputs, targets.double()
        if targets.dim() == 1 and not targets.is_floating_point():
            numbers, items = targets.long(), outputs.shape[1]
            known = numbers != -100
            wrong = numbers[known & ((numbers < 0) | (numbers >= items))]
            if len(wrong):
                raise InvalidValue(
                    f"{name}: expected numbers of {items} items, or -100 for none, got {int(wrong[0])}"
                )
            return outputs[known], one_hot(numbers[known], items).double()
    raise InvalidValue(
        f"{name}: expected scores [n, items] and the right item's number [n], or what each is worth [n, items], got "
        f"{_shapes(outputs, targets)}"
    )


def _pearson(name: str, outputs: Tensor, targets: Tensor) -> float:
    from scipy.stats import pearsonr

    return _correlation(pearsonr, *_pairs(name, outputs, targets))


def _spearman(name: str, outputs: Tensor, targets: Tensor) -> float:
    from scipy.stats import spearmanr

    return _correlation(spearmanr, *_pairs(name, outputs, targets))


def _correlation(function: Callable[[Any, Any], Any], outputs: Any, targets: Any) -> float:
    """Mean over the columns."""
    if len(outputs) < 2 or not all(part.std(0).all() for part in (outputs, targets)):
        return math.nan
    found = [float(function(*column)[0]) for column in zip(outputs.T, targets.T, strict=True)]
    return sum(found) / len(found)


def _r2(name: str, outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import r2_score

    mine, true = _pairs(name, outputs, targets)
    return float(r2_score(true, mine)) if len(true) > 1 and true.std(0).all() else math.nan


def _pairs(name: str, outputs: Tensor, targets: Tensor) -> tuple[Any, Any]:
    """Numbers and those that they should be, [n, columns] each."""
    mine, true = (part.double().reshape(len(part), -1) for part in (outputs, targets))
    if mine.shape != true.shape:
        raise InvalidValue(
            f"{name}: expected targets of the outputs' shape, got {_shapes(outputs, targets)}"
            "; it compares numbers: for classes take another metric"
        )
    return mine.numpy(), true.numpy()


def _shapes(outputs: Tensor, targets: Tensor) -> str:
    kind = str(targets.dtype).removeprefix("torch.")
    return f"outputs {list(outputs.shape)} and targets {list(targets.shape)} of {kind}"


_FUNCTIONS: dict[str, Callable[[str, Any, Any], float]] = {
    "f1": _f1,
    "auroc": _auroc,
    "average_precision": _average_precision,
    "ndcg@10": _ndcg,
    "mrr@10": _mrr,
    "pearson": _pearson,
    "spearman": _spearman,
    "r2": _r2,
}

_PER_SAMPLE: dict[str, Callable[[str, Any, Any], Any]] = {"ndcg@10": _ndcg_of_each, "mrr@10": _mrr_of_each}
