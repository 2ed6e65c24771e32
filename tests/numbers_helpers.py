"""Numbers of all kinds, and the contract that every numeric argument fulfils."""

import decimal
import fractions
import json

import numpy as np
import pytest
import torch

from smd_evo.errors import SmdEvoError

_DTYPES = {int: torch.int64, float: torch.float64, bool: torch.bool}

SAME = {
    "numpy": lambda value: np.asarray(value)[()],
    "numpy, narrow": lambda value: {int: np.int16, float: np.float32, bool: np.bool_}[type(value)](value),
    "array": np.asarray,
    "tensor": lambda value: torch.tensor(value, dtype=_DTYPES[type(value)]),
    "parameter": lambda value: torch.tensor(
        value, dtype=_DTYPES[type(value)], requires_grad=isinstance(value, float)
    ),
}
"""Other ways to say a number, all of which are taken."""

OTHER = {
    "fraction": fractions.Fraction,
    "decimal": decimal.Decimal,
    "bfloat16": lambda value: torch.tensor(value, dtype=torch.bfloat16),
    "text": str,
    "bytes": lambda value: str(value).encode(),
    "True": lambda value: True,
    "numpy's True": lambda value: np.bool_(True),
    "float": float,
    "complex": complex,
    "list": lambda value: [value],
    "one in an array": lambda value: np.asarray([value]),
    "one in a tensor": lambda value: torch.tensor([value], dtype=_DTYPES[type(value)]),
    "many": lambda value: torch.zeros(50, 50),
    "meta": lambda value: torch.tensor(value, dtype=_DTYPES[type(value)], device="meta"),
    "span of time": lambda value: np.timedelta64(int(value), "ns"),
    "a class": lambda value: int,
}
"""What is taken as the same number, or refused."""

EXTREME = {
    "NaN": float("nan"),
    "infinite": torch.tensor(float("inf")),
    "signalling NaN": decimal.Decimal("sNaN"),
    "beyond int64": 2**70,
    "beyond printing": 10**5000,
    "negative": -(10**30),
}
"""Other numbers, which may be too much."""

KINDS = [*SAME, *OTHER, *EXTREME]


def fulfils_the_contract(use, value, kind):
    """``use`` of an odd kind of a number gives what it gives of the plain one, to the letter, or says why not."""
    odd = EXTREME[kind] if kind in EXTREME else (SAME | OTHER)[kind](value)
    if kind in SAME:
        assert json.dumps(use(odd)) == json.dumps(use(value))
        return
    try:
        found = json.dumps(use(odd))
    except SmdEvoError as error:
        refusal = str(error)
    else:
        assert kind in EXTREME or found == json.dumps(use(value))
        return
    assert ": expected " in refusal
    assert len(refusal.splitlines()) == 1
    assert len(refusal) < 500


def every_kind(cases):
    """Parametrises a test by each case and each kind of number."""
    both = [(case, kind) for case in cases for kind in KINDS]
    return pytest.mark.parametrize(("case", "kind"), both, ids=[f"{case}-{kind}" for case, kind in both])
