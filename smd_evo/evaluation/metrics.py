"""Metrics of all samples together by their names: scikit-learn's and SciPy's, of a network's outputs.

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
        classes: whether targets may be numbers of the network's outputs.
        function: of finite outputs and targets of equal length.
    """

    name: str
    classes: bool
    function: Callable[[str, Tensor, Tensor], float]

    def __call__(self, outputs: Any, targets: Any) -> float:
        """The number.

        Args:
            outputs: the logits, or what :func:`.classification.logits_of` finds them in.
            targets: a tensor.

        Raises:
            InvalidValue, InvalidType: these are not of the kind that the metric is of.
        """
        from torch import Tensor

        from smd_evo.evaluation.classification import logits_of

        logits = logits_of(outputs).detach().cpu()
        if not isinstance(targets, Tensor):
            raise InvalidType(f"{self.name}: expected targets in one tensor, got {type(targets).__name__}")
        if len(logits) != len(targets) or not logits.dim():
            raise InvalidValue(f"{self.name}: expected a target for each output, got {_shapes(logits, targets)}")
        if not bool(logits.isfinite().all()):
            return math.nan
        return self.function(self.name, logits.double(), targets.cpu())


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
    return Metric(name, kind not in ("pearson", "spearman", "r2"), _FUNCTIONS[kind])


def _f1(name: str, outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import f1_score

    found = _columns(name, outputs, targets, "f1 is of two, macro_f1 of more")
    return float(f1_score(found[0][0], found[0][1] > 0, zero_division=0.0)) if found else math.nan


def _auroc(name: str, outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import roc_auc_score

    found = [roc_auc_score(true, score) for true, score in _columns(name, outputs, targets) if 0 < true.mean() < 1]
    return sum(found) / len(found) if found else math.nan


def _average_precision(name: str, outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import average_precision_score

    found = [average_precision_score(true, score) for true, score in _columns(name, outputs, targets) if true.any()]
    return sum(found) / len(found) if found else math.nan


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
        return [(targets[:, n].numpy() > 0, outputs[:, n].numpy()) for n in range(outputs.shape[1])]
    known = targets != -100
    outputs, targets = outputs[known], targets[known]
    if not len(targets):
        return []
    if outputs.dim() == 2 and not many:
        outputs = outputs[:, 1] - outputs[:, 0]
    if outputs.dim() == 1:
        if not 0 <= int(targets.min()) <= int(targets.max()) <= 1:
            raise InvalidValue(f"{name}: expected targets 0 and 1 for one output, got {int(targets.max())}")
        return [(targets.numpy() > 0, outputs.numpy())]
    scores = outputs.softmax(1).numpy()
    return [((targets == number).numpy(), scores[:, number]) for number in range(scores.shape[1])]


def _ndcg(name: str, outputs: Tensor, targets: Tensor) -> float:
    from sklearn.metrics import ndcg_score

    outputs, relevance = _ranked(name, outputs, targets)
    if not len(outputs):
        return math.nan
    return float(ndcg_score(relevance.numpy(), outputs.numpy(), k=int(name.partition("@")[2])))


def _mrr(name: str, outputs: Tensor, targets: Tensor) -> float:
    outputs, relevance = _ranked(name, outputs, targets)
    relevant = relevance > 0
    best = outputs.masked_fill(~relevant, -math.inf).amax(1, keepdim=True)
    before = ((outputs >= best) & ~relevant).sum(1).double()  # equal scores count against it
    found = (before < int(name.partition("@")[2])) & relevant.any(1)
    return float((found / (1 + before)).mean())


def _ranked(name: str, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [n, items], and how much each item is worth: targets of that shape, or the right one's number [n].

    Samples whose number is -100, which is none, are left out.
    """
    from torch.nn.functional import one_hot

    if outputs.dim() == 2 and outputs.shape[1] > 1:
        if targets.shape == outputs.shape and bool((targets >= 0).all()):
            return outputs, targets.double()
        if targets.dim() == 1 and not targets.is_floating_point():
            known = targets != -100
            return outputs[known], one_hot(targets[known].long(), outputs.shape[1]).double()
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
