"""Linear operations without a constant: their bias is zero, whatever depends on the input.

An operation stands here only if it is linear in *all* its float arguments jointly. Those that can
bring in a constant through another argument (``cat``, ``where``, ``pad`` with a value) are in
``affine``.
"""

from __future__ import annotations

from fullgrad.rules.registry import NO_BIAS, Bias, Call, register

_MOVING = """
view _unsafe_view reshape _reshape_alias view_as alias clone _to_copy to permute transpose t
numpy_T mT expand slice select squeeze unsqueeze diagonal unfold as_strided split
split_with_sizes unsafe_split unsafe_split_with_sizes chunk unsafe_chunk unbind flip roll rot90
index_select gather take take_along_dim index tril triu narrow movedim repeat repeat_interleave
detach lift_fresh contiguous pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle
im2col col2im reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
replication_pad2d replication_pad3d _pad_circular view_as_real view_as_complex real imag _conj
conj_physical resolve_conj _neg_view resolve_neg diag_embed masked_select flatten ravel
split_copy view_copy permute_copy expand_copy slice_backward select_backward
""".split()

_SUMMING = """
sum mean nansum nanmean cumsum trace neg
avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d
upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d
_upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
_upsample_bilinear2d_aa upsample_trilinear3d upsample_bicubic2d _upsample_bicubic2d_aa
_fft_c2c _fft_r2c _fft_c2r
""".split()


def _no_bias(call: Call) -> tuple[Bias, ...]:
    return NO_BIAS


def _dropout(call: Call) -> tuple[Bias, ...]:
    """The mask is drawn once; given the mask, dropout is linear."""
    return NO_BIAS


def install() -> None:
    """Register the structural rules."""
    register(_MOVING, _no_bias, family="linear")
    register(_SUMMING, _no_bias, family="linear")
    register("native_dropout", _dropout, family="linear")
