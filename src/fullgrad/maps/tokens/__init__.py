"""Token attributions of text models, exact: with the biases' share they sum to the output."""

from typing import TYPE_CHECKING

from fullgrad._lazy import submodules
from fullgrad.maps.tokens.attribution import attribute_tokens, token_saliency
from fullgrad.maps.tokens.sinks import TokenScores
from fullgrad.maps.tokens.text_model import TextModel

__all__ = ["TextModel", "TokenScores", "attribute_tokens", "token_saliency"]

if not TYPE_CHECKING:
    __getattr__ = submodules(__name__)
