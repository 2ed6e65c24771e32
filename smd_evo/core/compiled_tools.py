"""What Numba's kernels share. Their cache looks at their own file alone: after a change here, it is to be emptied."""

from __future__ import annotations

from typing import Any

from numba import njit
from numba.extending import intrinsic

__all__ = ["bitcast", "inner"]

inner = njit(error_model="numpy", nogil=True, inline="always")
"""A function that becomes part of the kernels that call it."""


def bitcast(before: Any, after: Any) -> Any:
    """The same bits as another type of the same width."""

    def typed(typing: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.bitcast(arguments[0], context.get_value_type(after))

        return after(before), code

    return intrinsic(typed)
