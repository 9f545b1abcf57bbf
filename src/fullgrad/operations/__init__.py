"""Every operation in one entry: its implicit bias, its axes, what it reads and writes.

The bias of y = op(u1, ..., uk) is b = y - sum_i J_i u_i over the arguments that depend on the
input (Srinivas & Fleuret 2019, section 3, extended to every differentiable operation). One file
holds the operations of one algebraic class; importing it enters them into the table.
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.operations import (  # noqa: F401
    _boxes,
    affine,
    attention,
    elementwise,
    homogeneous,
    linear,
    moving,
    normalization,
    products,
    propagation,
    recurrent,
    windows,
)
from fullgrad.operations.call import Bias, BiasRule, Call, Kind, no_bias, scaled_output
from fullgrad.operations.linearization import Linearization, Rule
from fullgrad.operations.propagation import AxesRule, Propagation
from fullgrad.operations.registry import Operation, register

__all__ = [
    "AxesRule",
    "Bias",
    "BiasRule",
    "Call",
    "Kind",
    "Linearization",
    "Operation",
    "Propagation",
    "Rule",
    "no_bias",
    "propagation",
    "register",
    "scaled_output",
]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
