"""Linear operations without a constant: their bias is zero, whatever depends on the input.

An operation stands here only if it is linear in *all* its float arguments jointly. Those that can
bring in a constant through another argument (``cat``, ``where``, ``pad`` with a value) are in
``affine``.
"""

from __future__ import annotations

from fullgrad.operations.registry import NO_BIAS, Bias, Call, register

_MOVING = [
    "view",
    "_unsafe_view",
    "_reshape_alias",
    "alias",
    "clone",
    "_to_copy",
    "permute",
    "transpose",
    "t",
    "expand",
    "slice",
    "select",
    "squeeze",
    "unsqueeze",
    "diagonal",
    "unfold",
    "as_strided",
    "split",
    "split_with_sizes",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unbind",
    "flip",
    "roll",
    "rot90",
    "index_select",
    "gather",
    "take",
    "index",
    "tril",
    "triu",
    "repeat",
    "masked_select",
    "lift_fresh",
    "pixel_shuffle",
    "pixel_unshuffle",
    "channel_shuffle",
    "im2col",
    "col2im",
    "reflection_pad1d",
    "reflection_pad2d",
    "reflection_pad3d",
    "replication_pad1d",
    "replication_pad2d",
    "replication_pad3d",
    "view_as_real",
    "view_as_complex",
    "_conj",
    "_conj_physical",
    "_neg_view",
    "diag_embed",
]

_SUMMING = [
    "sum",
    "mean",
    "nansum",
    "cumsum",
    "trace",
    "neg",
    "avg_pool2d",
    "avg_pool3d",
    "_adaptive_avg_pool2d",
    "_adaptive_avg_pool3d",
    "upsample_nearest1d",
    "upsample_nearest2d",
    "upsample_nearest3d",
    "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d",
    "_upsample_nearest_exact3d",
    "upsample_linear1d",
    "upsample_bilinear2d",
    "_upsample_bilinear2d_aa",
    "upsample_trilinear3d",
    "upsample_bicubic2d",
    "_upsample_bicubic2d_aa",
    "_fft_c2c",
    "_fft_r2c",
    "_fft_c2r",
]


def _no_bias(call: Call) -> tuple[Bias, ...]:
    return NO_BIAS


def install() -> None:
    """Register the structural rules."""
    register(_MOVING, _no_bias, family="linear")
    register(_SUMMING, _no_bias, family="linear")
    # Given the mask that was drawn, dropout is linear.
    register("native_dropout", _no_bias, family="linear")
