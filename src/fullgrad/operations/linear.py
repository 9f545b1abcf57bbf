"""Linear operations without a constant: their bias is zero, whatever depends on the input.

An operation stands here only if it is linear in *all* its float arguments jointly. Those that can
bring in a constant through another argument (``cat``, ``where``, ``pad`` with a value) are in
``affine``; those that only move numbers are in ``moving``, windows in ``windows``.
"""

from __future__ import annotations

from functools import partial

from fullgrad.axes.algebra import fresh, with_groups
from fullgrad.operations.call import no_bias
from fullgrad.operations.propagation import Answer, Propagation, elementwise, keeps_axes, reduces
from fullgrad.operations.registry import put

_linear = partial(put, bias=no_bias, family="linear")

_linear(["neg", "_conj", "_conj_physical", "_neg_view"], axes=elementwise)
_linear(["tril", "triu", "cumsum"], axes=keeps_axes)
# Given the mask that was drawn, dropout is linear.
_linear("native_dropout", axes=keeps_axes)
_linear(["sum", "mean", "nansum", "trace"], axes=reduces)


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
