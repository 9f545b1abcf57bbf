"""One call or more of every operation that has a bias rule."""

from __future__ import annotations

import math
from typing import Any

import torch

from rule_cases import Case, Make, cplx, n, pos

A = torch.ops.aten
S = (2, 6, 4, 4)
IDX = torch.tensor([[0, 2], [1, 0]])
MASK = torch.arange(2 * 6).view(2, 6) % 3 == 0


def one(name: str, *rest: Any, arg: Make | None = None, overload: str = "default") -> Case:
    op = getattr(getattr(A, name), overload)
    return Case(lambda u: op(u, *rest), arg or n(2, 6), note=f"{name}.{overload}{rest}"[:60])


LINEAR = [
    one("view", [3, 4]),
    one("_unsafe_view", [3, 4]),
    one("_reshape_alias", [3, 4], [4, 1]),
    one("alias"),
    one("clone"),
    Case(lambda u: A._to_copy.default(u, dtype=torch.float64), n(2, 6)),
    one("permute", [1, 0]),
    one("transpose", 0, 1, overload="int"),
    one("t"),
    one("expand", [3, 2, 6]),
    one("slice", 1, 1, 5, 2, overload="Tensor"),
    one("select", 1, 2, overload="int"),
    one("squeeze", arg=n(2, 1, 3)),
    one("unsqueeze", 1),
    one("diagonal"),
    one("unfold", 1, 3, 2),
    one("as_strided", [2, 2], [1, 2]),
    one("split", 2, 1, overload="Tensor"),
    one("split_with_sizes", [2, 4], 1),
    one("unsafe_split", 2, 1, overload="Tensor"),
    one("unsafe_split_with_sizes", [2, 4], 1),
    one("unbind", 1, overload="int"),
    one("flip", [1]),
    one("roll", [2], [1]),
    one("rot90", 1, [0, 1]),
    one("index_select", 1, torch.tensor([0, 0, 3])),
    one("gather", 1, IDX),
    one("take", torch.tensor([0, 5])),
    one("index", [None, torch.tensor([1, 1])], overload="Tensor"),
    one("tril"),
    one("triu"),
    one("repeat", [2, 1]),
    one("masked_select", MASK),
    one("lift_fresh"),
    one("pixel_shuffle", 2, arg=n(2, 4, 2, 2)),
    one("pixel_unshuffle", 2, arg=n(2, 1, 4, 4)),
    one("channel_shuffle", 2, arg=n(*S)),
    one("im2col", [2, 2], [1, 1], [0, 0], [1, 1], arg=n(*S)),
    one("col2im", [4, 4], [2, 2], [1, 1], [0, 0], [2, 2], arg=n(2, 8, 4)),
    one("reflection_pad1d", [1, 1], arg=n(2, 3, 4)),
    one("reflection_pad2d", [1, 1, 1, 1], arg=n(*S)),
    one("reflection_pad3d", [1, 1, 1, 1, 1, 1], arg=n(2, 3, 3, 3, 3)),
    one("replication_pad1d", [1, 1], arg=n(2, 3, 4)),
    one("replication_pad2d", [1, 1, 1, 1], arg=n(*S)),
    one("replication_pad3d", [1, 1, 1, 1, 1, 1], arg=n(2, 3, 3, 3, 3)),
    one("view_as_real", arg=cplx(2, 3)),
    one("view_as_complex", arg=n(2, 3, 2)),
    one("_conj", arg=cplx(2, 3)),
    one("_conj_physical", arg=cplx(2, 3)),
    one("_neg_view"),
    one("diag_embed"),
    one("sum", [1], overload="dim_IntList"),
    one("mean", [1], True, overload="dim"),
    one("nansum", [1]),
    one("cumsum", 1),
    one("trace"),
    one("neg"),
    one("avg_pool2d", [3, 3], [2, 2], [1, 1], True, False, arg=n(*S)),
    one("avg_pool3d", [2, 2, 2], arg=n(2, 3, 4, 4, 4)),
    one("_adaptive_avg_pool2d", [2, 2], arg=n(*S)),
    one("_adaptive_avg_pool3d", [2, 2, 2], arg=n(2, 3, 4, 4, 4)),
    one("upsample_nearest1d", [6], arg=n(2, 3, 4)),
    one("upsample_nearest2d", [6, 7], arg=n(*S)),
    one("upsample_nearest3d", [5, 6, 7], arg=n(2, 3, 4, 4, 4)),
    one("_upsample_nearest_exact1d", [6], arg=n(2, 3, 4)),
    one("_upsample_nearest_exact2d", [6, 7], arg=n(*S)),
    one("_upsample_nearest_exact3d", [5, 6, 7], arg=n(2, 3, 4, 4, 4)),
    one("upsample_linear1d", [6], False, arg=n(2, 3, 4)),
    one("upsample_bilinear2d", [6, 7], True, arg=n(*S)),
    one("_upsample_bilinear2d_aa", [6, 7], False, arg=n(*S)),
    one("upsample_trilinear3d", [5, 6, 7], False, arg=n(2, 3, 4, 4, 4)),
    one("upsample_bicubic2d", [6, 7], False, arg=n(*S)),
    one("_upsample_bicubic2d_aa", [6, 7], False, arg=n(*S)),
    one("_fft_r2c", [1], 0, True),
    one("_fft_c2c", [1], 0, True, arg=cplx(2, 6)),
    one("_fft_c2r", [1], 0, 6, arg=cplx(2, 4)),
    Case(lambda u: A.native_dropout.default(u, 0.5, True)[0], n(2, 6), note="native_dropout"),
]

HOMOGENEOUS = [
    one("relu"),
    one("leaky_relu", 0.1),
    one("abs"),
    one("abs", arg=cplx(2, 3)),
    Case(lambda u: A.rrelu_with_noise.default(u, torch.zeros_like(u), 0.1, 0.3, False), n(2, 6)),
    one("amax", [1]),
    one("amin", [1]),
    Case(lambda u: A.max_pool2d_with_indices.default(u, [3, 3], [2, 2], [1, 1])[0], n(*S)),
    Case(lambda u: A.max_pool3d_with_indices.default(u, [2, 2, 2])[0], n(2, 3, 4, 4, 4)),
    Case(lambda u: A.adaptive_max_pool2d.default(u, [2, 2])[0], n(*S)),
    Case(lambda u: A.adaptive_max_pool3d.default(u, [2, 2, 2])[0], n(2, 3, 4, 4, 4)),
    Case(
        lambda u: A.fractional_max_pool2d.default(
            u, [2, 2], [2, 2], torch.full((2, 6, 2), 0.4, dtype=torch.float64)
        )[0],
        n(*S),
    ),
    Case(
        lambda u: A.fractional_max_pool3d.default(
            u, [2, 2, 2], [2, 2, 2], torch.full((2, 3, 3), 0.4, dtype=torch.float64)
        )[0],
        n(2, 3, 4, 4, 4),
    ),
    Case(lambda u: A.sort.default(u, 1)[0], n(2, 6)),
    Case(lambda u: A.topk.default(u, 2, 1)[0], n(2, 6)),
    Case(lambda u: A.kthvalue.default(u, 2, 1)[0], n(2, 6)),
    Case(lambda u: A.median.dim(u, 1)[0], n(2, 6)),
    one("nanmedian"),
    Case(lambda u: A.mode.default(u, 1)[0], n(2, 6)),
    Case(lambda u: A.cummax.default(u, 1)[0], n(2, 6)),
    Case(lambda u: A.cummin.default(u, 1)[0], n(2, 6)),
    one("max"),
    Case(lambda u: A.min.dim(u, 1)[0], n(2, 6)),
    one("std", [1], overload="correction"),
    one("var", [1], overload="correction"),
    one("linalg_vector_norm", 2, [1]),
    one("linalg_vector_norm", 0, [1]),
    one("linalg_vector_norm", math.inf, [1]),
    one("linalg_vector_norm", 0.5, [1]),
    one("sqrt", arg=pos(2, 6)),
    one("rsqrt", arg=pos(2, 6)),
    one("reciprocal"),
    *(one(name) for name in ("sign", "sgn", "floor", "ceil", "round", "trunc")),
    *(one("pow", p, arg=pos(2, 6), overload="Tensor_Scalar") for p in (0, 0.5, 1, 2, 3, -1.5)),
    one("pow", 3, overload="Tensor_Scalar"),
    Case(lambda u: A.pow.Scalar(2.0, u), n(2, 6)),
    Case(A.pow.Tensor_Tensor, pos(2, 6), n(2, 6)),
    Case(A.mm.default, n(2, 6), n(6, 3)),
    Case(A.bmm.default, n(2, 3, 4), n(2, 4, 5)),
    Case(A.dot.default, n(6), n(6)),
    Case(A.mv.default, n(2, 6), n(6)),
    Case(A.mul.Tensor, n(2, 6), n(6)),
    Case(lambda u: A.mul.Tensor(u, 3.0), n(2, 6)),
    Case(lambda u, v: A.mul_.Tensor(u.clone(), v), n(2, 6), n(2, 6)),
    Case(A.mul.Tensor, cplx(2, 3), cplx(2, 3)),
    Case(A.div.Tensor, n(2, 6), pos(2, 6)),
    Case(lambda u: A.div.Tensor(1.5 * torch.ones((), dtype=torch.float64), u), pos(2, 6)),
    Case(lambda u, v: A.div.Tensor_mode(u, v, rounding_mode="floor"), n(2, 6), pos(2, 6)),
    Case(A._prelu_kernel.default, n(2, 6), pos(1, 6)),
]

AFFINE = [
    Case(A.add.Tensor, n(2, 6), n(6)),
    Case(lambda u, v: A.add.Tensor(u, v, alpha=0.7), n(2, 6), n(2, 1)),
    Case(lambda u: A.add.Tensor(u, 3), n(2, 6)),
    Case(lambda u, v: A.add_.Tensor(u.clone(), v, alpha=2), n(2, 6), n(2, 6)),
    Case(lambda u, v: A.sub.Tensor(u, v, alpha=0.7), n(2, 6), n(6)),
    Case(lambda u, v: A.sub_.Tensor(u.clone(), v), n(2, 6), n(6)),
    Case(lambda u: A.rsub.Scalar(u, 2.0, 0.5), n(2, 6)),
    Case(A.rsub.Tensor, n(2, 6), n(2, 6)),
    Case(lambda u, v: A.cat.default([u, v], 1), n(2, 6), n(2, 3)),
    Case(lambda u, v, w: A.cat.default([u, v, w], -1), n(2, 1), n(2, 3), n(2, 2)),
    Case(lambda u, v: A.stack.default([u, v], -1), n(2, 6), n(2, 6)),
    Case(A.addmm.default, n(3), n(2, 6), n(6, 3)),
    Case(lambda c, a, b: A.addmm.default(c, a, b, beta=0.5, alpha=2), n(3), n(2, 6), n(6, 3)),
    Case(lambda c, a, b: A.baddbmm.default(c, a, b, beta=0.5), n(2, 3, 5), n(2, 3, 4), n(2, 4, 5)),
    Case(lambda c, a, b: A.addmv.default(c, a, b, beta=0.5, alpha=3), n(2), n(2, 6), n(6)),
    Case(
        lambda u, w, b: A.convolution.default(u, w, b, [2, 1], [1, 0], [1, 1], False, [0, 0], 2),
        n(*S),
        n(4, 3, 3, 3),
        n(4),
    ),
    Case(
        lambda u, w, b: A.convolution.default(u, w, b, [2], [1], [1], True, [1], 1),
        n(2, 6, 5),
        n(6, 4, 3),
        n(4),
        note="transposed",
    ),
    Case(
        lambda u, w: A.convolution.default(u, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        n(*S),
        n(4, 6, 3, 3),
    ),
    Case(lambda u, v: A.where.self(MASK, u, v), n(2, 6), n(6)),
    Case(lambda u: A.masked_fill.Scalar(u, MASK, -1.5), n(2, 6)),
    Case(lambda u: A.masked_fill.Scalar(u, MASK, -math.inf), n(2, 6)),
    Case(lambda u: A.masked_fill_.Scalar(u.clone(), MASK, 2), n(2, 6)),
    Case(lambda u, v: A.masked_fill.Tensor(u, MASK, v), n(2, 6), n()),
    Case(lambda u: A.constant_pad_nd.default(u, [1, 2], 0.5), n(2, 6)),
    Case(lambda u: A.constant_pad_nd.default(u, [1, 2, 0, 1]), n(2, 6)),
    Case(lambda u: A.constant_pad_nd.default(u, [-1, 2], 3.0), n(2, 6)),
    Case(A.maximum.default, n(2, 6), n(2, 6)),
    Case(A.minimum.default, n(2, 6), n(2, 6)),
    Case(A.fmax.default, n(2, 6), n(2, 6)),
    Case(A.fmin.default, n(2, 6), n(2, 6)),
    Case(lambda u: A.maximum.default(u, torch.zeros(6, dtype=torch.float64)), n(2, 6)),
    Case(lambda u, v: A.copy_.default(u.clone(), v), n(2, 6), n(6)),
    Case(lambda u: A.fill_.Scalar(u.clone(), 2.5), n(2, 6)),
    Case(lambda u, v: A.fill_.Tensor(u.clone(), v), n(2, 6), n()),
    Case(lambda u: A.zero_.default(u.clone()), n(2, 6)),
    Case(lambda u, v: A.index_add.default(u, 1, torch.tensor([0, 3]), v), n(2, 6), n(2, 2)),
    Case(lambda u, v: A.scatter_add.default(u, 1, IDX, v), n(2, 6), n(2, 2)),
]

ELEMENTWISE = [
    *(
        one(name)
        for name in (
            "silu",
            "hardswish",
            "hardsigmoid",
            "hardtanh",
            "elu",
            "mish",
            "sigmoid",
            "tanh",
            "exp",
            "sin",
            "cos",
            "softplus",
        )
    ),
    one("hardswish", arg=n(2, 30, scale=4)),
    one("hardsigmoid", arg=n(2, 30, scale=4)),
    one("gelu"),
    Case(lambda u: A.gelu.default(u, approximate="tanh"), n(2, 6)),
    one("hardtanh", 0.0, 6.0, arg=n(2, 30, scale=8)),
    one("clamp", -1.0, 0.5),
    one("clamp", None, 0.5),
    one("clamp", 0, 6),
    one("clamp", -1.0, 2.0, arg=lambda g: torch.arange(-3.0, 4.0).double()),
    one("clamp_min", -1.0, arg=lambda g: torch.arange(-3.0, 4.0).double()),
    one("clamp_max", 2.0, arg=lambda g: torch.arange(-3.0, 4.0).double()),
    one("hardtanh", -1.0, 2.0, arg=lambda g: torch.arange(-3.0, 4.0).double()),
    one("hardsigmoid", arg=lambda g: torch.arange(-4.0, 5.0).double()),
    one("hardswish", arg=lambda g: torch.arange(-4.0, 5.0).double()),
    one("threshold", 1.0, -1.0, arg=lambda g: torch.arange(-3.0, 4.0).double()),
    Case(A.clamp.Tensor, n(2, 6), n(6, scale=0.1)),
    one("clamp_min", 0),
    one("clamp_min", 0.3),
    one("clamp_max", -0.3),
    Case(A.clamp_min.Tensor, n(2, 6), n(6)),
    one("threshold", 0.3, 0.0),
    one("threshold", 0.3, -1.0),
    one("softplus", 2.0, 1.5),
    one("elu", 0.7, 1.3, 0.5),
    one("log", arg=pos(2, 6)),
    Case(lambda u: A.log_sigmoid_forward.default(u)[0], n(2, 6)),
    *(
        Case(lambda u, op=op: op(u.clone()), n(2, 6), note=f"{op}")
        for op in (
            A.silu_.default,
            A.sigmoid_.default,
            A.tanh_.default,
            A.hardswish_.default,
            A.relu_.default,
            A.gelu_.default,
            A.exp_.default,
            A.hardtanh_.default,
        )
    ),
    one("erf"),
    one("expm1"),
    one("atan"),
    Case(lambda u, v, w: A.addcmul.default(u, v, w, value=0.3), n(2, 6), n(2, 6), n(6)),
    Case(lambda u, v: A.lerp.Scalar(u, v, 0.3), n(2, 6), n(6)),
    Case(A.atan2.default, n(2, 6), pos(2, 6)),
    one("prod", 1, overload="dim_int"),
]

RUNNING = (torch.linspace(-1, 1, 6).double(), torch.linspace(0.5, 2, 6).double())

NORMALISING = [
    Case(
        lambda u, w, b: A.native_batch_norm.default(u, w, b, *RUNNING, False, 0.1, 1e-2)[0],
        n(*S),
        n(6),
        n(6),
        note="eval",
    ),
    Case(
        lambda u: A.native_batch_norm.default(u, None, None, *RUNNING, False, 0.1, 1e-2)[0], n(*S)
    ),
    Case(
        lambda u, w, b: A.native_batch_norm.default(u, w, b, None, None, True, 0.1, 1e-1)[0],
        n(*S),
        n(6),
        n(6),
        note="batch statistics",
    ),
    Case(
        lambda u: A.native_batch_norm.default(u, None, None, None, None, True, 0.1, 1e-1)[0], n(*S)
    ),
    Case(
        lambda u, w, b: A._native_batch_norm_legit.no_stats(u, w, b, True, 0.1, 1e-1)[0],
        n(*S),
        n(6),
        n(6),
        vary=(0,),
    ),
    Case(
        lambda u: A._native_batch_norm_legit_no_training.default(
            u, None, RUNNING[0], *RUNNING, 0.1, 1e-2
        )[0],
        n(*S),
    ),
    Case(
        lambda u: A._batch_norm_no_update.default(u, RUNNING[1], None, *RUNNING, 0.1, 1e-2)[0],
        n(*S),
    ),
    Case(
        lambda u: A._batch_norm_with_update.default(
            u, None, None, RUNNING[0].clone(), RUNNING[1].clone(), 0.1, 1e-2
        )[0],
        n(*S),
    ),
    Case(
        lambda u, w, b: A.native_layer_norm.default(u, [4, 4], w, b, 1e-1)[0],
        n(*S),
        n(4, 4),
        n(4, 4),
    ),
    Case(lambda u: A.native_layer_norm.default(u, [6], None, None, 1e-1)[0], n(2, 6)),
    Case(lambda u, w: A.native_layer_norm.default(u, [6], w, None, 1e-1)[0], n(2, 6), n(6)),
    Case(
        lambda u, w, b: A.native_group_norm.default(u, w, b, 2, 6, 16, 3, 1e-1)[0],
        n(*S),
        n(6),
        n(6),
    ),
    Case(lambda u: A.native_group_norm.default(u, None, None, 2, 6, 16, 1, 1e-1)[0], n(*S)),
    one("_softmax", 1, False),
    one("_softmax", 1, False, arg=lambda g: n(2, 6)(g).masked_fill(MASK, -math.inf)),
    one("_log_softmax", 1, False, arg=lambda g: n(2, 6)(g).masked_fill(MASK, -math.inf)),
    one("_log_softmax", 1, False),
    one("logsumexp", [1]),
    one("logsumexp", [-1, 0], True),
    one("logsumexp", [0, 1]),
    one("logsumexp", [1], arg=lambda g: n(2, 6)(g).masked_fill(MASK, -math.inf)),
    one("_safe_softmax", 1),
]

ALL = [*LINEAR, *HOMOGENEOUS, *AFFINE, *ELEMENTWISE, *NORMALISING]
