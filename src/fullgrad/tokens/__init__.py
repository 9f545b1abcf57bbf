"""Token attributions of text models, exact: with the biases' share they sum to the output."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.tokens.attribution import TokenScores, attribute_tokens, token_saliency

__all__ = ["TokenScores", "attribute_tokens", "token_saliency"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
