"""How far a fitness may be from the stored one: what other processors make of the same network, and no more."""

import pytest
import torch

from smd_evo.experiments.finetune.verification import tolerance

FITNESS = torch.tensor([0.0, 0.5, 20.0], dtype=torch.float64)


@pytest.mark.parametrize(("rounding", "share"), [("float32", 1e-4), ("cuda", 2e-3), ("bfloat16", 2e-2)])
def test_a_loss_may_differ_by_a_share_of_itself_and_of_a_nat(rounding, share):
    limits, told = tolerance(FITNESS, "cross_entropy", 300, rounding)
    assert torch.equal(limits, share * (1 + FITNESS))
    assert told.startswith(f"{share:.0e} x (1 + the stored loss), ")


@pytest.mark.parametrize(
    ("samples", "rounding", "count"),
    [(60, "float32", 2), (5000, "float32", 5), (5000, "cuda", 50), (60, "bfloat16", 3), (5000, "bfloat16", 250)],
)
@pytest.mark.parametrize("name", ["accuracy", "macro_f1", "f1", "ndcg@5"])
def test_what_jumps_with_a_rank_may_differ_by_a_few_samples(name, samples, rounding, count):
    limits, told = tolerance(FITNESS, name, samples, rounding)
    assert bool((count / samples < limits).all())
    assert bool((limits < (count + 1) / samples).all())
    assert told.startswith(f"{count} of {samples:,} samples, ")


def test_the_bound_on_losses_is_that_of_the_outputs():
    """Cross-entropy moves by at most twice the largest change of an output; here by 1e-5."""
    logits = torch.randn(500, 10, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 4
    change = 1e-5 * (2 * torch.rand(500, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64) - 1)
    targets = torch.arange(500) % 10
    one, other = (torch.nn.functional.cross_entropy(each, targets).double() for each in (logits, logits + change))
    assert abs(float(one - other)) <= 2e-5
    assert abs(float(one - other)) < float(tolerance(one[None], "cross_entropy", 500, "float32")[0])
