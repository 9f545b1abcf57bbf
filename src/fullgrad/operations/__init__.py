"""Implicit bias of every operation, one file per algebraic class.

The bias of y = op(u1, ..., uk) is b = y - sum_i J_i u_i over the arguments that depend on the
input (Srinivas & Fleuret 2019, section 3, extended to every differentiable operation).
"""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.operations import affine, attention, elementwise, homogeneous
from fullgrad.operations import linear as structural
from fullgrad.operations import normalization as normalisation
from fullgrad.operations.registry import Bias, Call, Kind, Rule, register, rule_for

__all__ = ["Bias", "Call", "Kind", "Rule", "register", "rule_for"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)

for _family in (structural, homogeneous, affine, elementwise, normalisation, attention):
    _family.install()
