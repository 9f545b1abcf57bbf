"""Operations whose result has no gradient although it is computed from the input."""

from __future__ import annotations

from fullgrad.operations.registry import put

# They read a tensor's shape and type, not its values.
put(
    """
    zeros_like ones_like empty_like full_like rand_like randn_like randint_like
    new_zeros new_ones new_full new_empty new_empty_strided
    """,
    family="factory",
    reads_shape=True,
)
# Their derivative is zero wherever it exists.
put(["bernoulli", "heaviside", "nextafter"], family="constant", piecewise_constant=True)
put("detach", family="constant", detaches=True)
