"""Numbers of all kinds, and the contract that every numeric argument fulfils."""

import decimal
import fractions
import json

import numpy as np
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


def fulfils_the_contract(use, value, *, but=()):
    """``use`` of an odd kind of a number gives what it gives of the plain one, to the letter, or says why not.

    Of each kind but some; one that does not is named.
    """
    plain = json.dumps(use(value))
    for kind in KINDS:
        if kind in but:
            continue
        odd = EXTREME[kind] if kind in EXTREME else (SAME | OTHER)[kind](value)
        try:
            found = json.dumps(use(odd))
        except SmdEvoError as error:
            refusal = str(error)
            assert kind not in SAME, f"{kind}: {refusal}"
            assert ": expected " in refusal, kind
            assert len(refusal.splitlines()) == 1, kind
            assert len(refusal) < 500, kind
        except Exception as error:
            raise AssertionError(f"{kind}: {error!r}") from error
        else:
            assert kind in EXTREME or found == plain, kind
