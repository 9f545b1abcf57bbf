"""Token attributions of text models, exact: with the biases' share they sum to the output."""

from fullgrad.tokens.attribution import TokenScores, attribute_tokens, token_saliency

__all__ = ["TokenScores", "attribute_tokens", "token_saliency"]
