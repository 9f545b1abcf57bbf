"""Linear operations without a constant: their bias is zero, whatever depends on the input.

An operation stands here only if it is linear in *all* its float arguments jointly. Those that can
bring in a constant through another argument (``cat``, ``where``, ``pad`` with a value) are in
``affine``; those that only move numbers are in ``moving``, windows in ``windows``. What has no
gradient at all stands at the end.
"""

from __future__ import annotations

from functools import partial

from fullgrad.axes.algebra import fresh, with_groups
from fullgrad.operations import _origins
from fullgrad.operations.call import no_bias
from fullgrad.operations.propagation import Answer, Propagation, elementwise, keeps_axes, reduces
from fullgrad.operations.registry import put

_linear = partial(put, bias=no_bias, family="linear")

_linear("neg", axes=elementwise, origin=_origins.negated)
_linear(["_conj", "_conj_physical", "_neg_view"], axes=elementwise)
_linear(["tril", "triu"], axes=keeps_axes)
_linear("cumsum", axes=keeps_axes, origin=_origins.accumulated)
# Given the mask that was drawn, dropout is linear.
_linear("native_dropout", axes=keeps_axes, origin=_origins.carried)
_linear(["sum", "mean", "nansum", "trace"], axes=reduces, origin=_origins.reduced)


def _fourier(p: Propagation) -> Answer:
    """Frequencies are no positions, and positions made of frequencies are not known to be any."""
    axes = p.first()
    if axes is None:
        return None
    changed = p.dims("dim", len(axes.groups))
    groups = [fresh(n) if d in changed else axes.groups[d] for d, n in enumerate(p.shape)]
    return with_groups(axes, groups)


_linear(["_fft_c2c", "_fft_r2c", "_fft_c2r"], axes=_fourier)

# Each channel reads another part of a box; other boxes are in ``_boxes``.
_linear("torchvision::ps_roi_align")

# -- results without a gradient although they are computed from the input --------------------------

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
