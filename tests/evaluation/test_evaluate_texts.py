"""Token tests of texts: removing and masking tokens, most and least relevant first."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

from fullgrad.cli.main import main
from fullgrad.errors import MethodError, ModelLoadError
from fullgrad.evaluation import bench
from fullgrad.evaluation.sources import DataError
from fullgrad.evaluation.tests.evaluate.measures import chosen_tests
from fullgrad.evaluation.tests.evaluate.measures.token_gain import TokenGain
from fullgrad.evaluation.tests.evaluate.run_texts import EvaluateTexts
from fullgrad.evaluation.tests.evaluate.text_subject import open_texts
from fullgrad.evaluation.tests.evaluate.token_methods import choice_of
from fullgrad.evaluation.tests.evaluate.words import cautions
from fullgrad.maps.tokens import attribute_tokens, token_saliency

NETS = """
import torch
from torch import nn
from fullgrad.maps.tokens import TextModel

CLS, SEP, MASK = 0, 1, 2
SEEN = []

class Letters:
    cls_token_id, sep_token_id, mask_token_id, model_max_length = CLS, SEP, MASK, 14
    def __call__(self, text):
        return {"input_ids": [CLS, *(ord(letter) - 94 for letter in text), SEP]}
    def convert_ids_to_tokens(self, ids):
        return ["w" * (i % 5) for i in ids]

class Bare(Letters):
    cls_token_id = sep_token_id = mask_token_id = None
    def __call__(self, text):
        return {"input_ids": [ord(letter) - 94 for letter in text]}

class Net(nn.Module):
    def __init__(self, mixed, classes=2):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(29, 6)
        self.mix = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True) if mixed else nn.Identity()
        self.head = nn.Linear(6, classes, bias=False)
    def forward(self, ids):
        SEEN.append(ids.tolist())
        return self.head(self.mix(self.embed(ids)).sum(1))

def bag():
    return TextModel(Net(False), Letters())

def bare():
    return TextModel(Net(False), Bare())

def pairs():
    return TextModel(Net(True, 4), Letters(), vector=lambda output: output)

def plain():
    return Net(False)
"""
WORDS = ("cat", "dot", "elephant", "giraffe", "hen", "iguana", "jackal", "dog")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    Path("nets.py").write_text(NETS)
    Path("words.txt").write_text("\n".join(WORDS) + "\n\n")
    rows = [f"{a},{b}" for a, b in zip(WORDS, reversed(WORDS), strict=True)]
    Path("pairs.csv").write_text("\n".join(["text,other", *rows, ",empty"]))
    yield tmp_path


def prepared(model: str = "bag", texts: str = "words.txt", **options: object) -> EvaluateTexts:
    found = bench.prepared("evaluate-texts", model=f"nets.py:{model}", texts=texts, **options)
    assert isinstance(found, EvaluateTexts)
    return found


def weights(test: EvaluateTexts, ids: Tensor, n: int) -> Tensor:
    """What each token adds to the logit that is predicted, of a bag of words."""
    (subject,) = test.subjects
    net = subject.text_model.model
    return (net.embed(ids) @ net.head.weight[int(subject.predicted[n])]).detach().double()


def test_the_gain_of_a_bag_of_words_in_closed_form() -> None:
    test = prepared(methods=("leave_one_out",))
    explained = test.explained(0, 0, (2,))  # elephant
    w = weights(test, explained.ids[0, 1:-1], 2)
    torch.testing.assert_close(explained.maps[0, 0], w, rtol=1e-5, atol=1e-6)
    fractions = (0.25, 0.5)
    ordered = w.sort(descending=True).values
    mask = float(weights(test, torch.tensor(2), 2))
    for replacement, put in (("removed", 0.0), ("mask", mask)):
        measure = TokenGain(replacements=(replacement,), fractions=fractions)
        (score,) = measure.scores(explained)
        low, high = (
            [float((part[:k] - put).sum()) for k in (2, 4)] for part in (ordered.flip(0), ordered)
        )
        expected = sum(h - l for h, l in zip(high, low, strict=True)) / 2
        assert score.value == pytest.approx(expected, rel=1e-5)
        assert score.scale == pytest.approx(abs(float((w - put).sum())), rel=1e-4)
        assert score.more == pytest.approx({"least": sum(low) / 2, "most": sum(high) / 2}, rel=1e-4)
        assert score.setting == replacement


@pytest.mark.parametrize("method", ["input_x_gradient:signed=True", "balanced_input"])
def test_methods_find_the_weights_of_a_bag_of_words(method: str) -> None:
    test = prepared(methods=(method, "leave_one_out"))
    a, b = (test.explained(0, c, (3,)).maps for c in (0, 1))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_relevances_are_those_of_the_token_functions() -> None:
    test = prepared("pairs", "pairs.csv", methods=("fullgrad", "complete_fullgrad"))
    (subject,) = test.subjects
    maps, complete = (test.explained(0, c, (0, 1)) for c in (0, 1))
    call = {"additional_forward_args": subject.extra((0, 1))}
    model, ids = subject.text_model, maps.ids
    expected = token_saliency(model, ids, 0, embedding=model.embedding, **call)
    torch.testing.assert_close(maps.maps[:, 0], expected[:, 1:-1], rtol=1e-4, atol=1e-5)
    scores = attribute_tokens(model, ids, 0, embedding=model.embedding, **call)
    torch.testing.assert_close(maps.before, scores.output.double())
    assert complete.maps.shape == (2, 1, 3)


def test_removed_tokens_are_gone_and_special_ones_stay() -> None:
    explained = prepared(methods=("random",)).explained(0, 0, (0, 1))
    chosen = torch.tensor([[0], [2]])
    cat, dot = ([0, *(ord(c) - 94 for c in word), 1] for word in ("cat", "dot"))
    assert explained.ids.tolist() == [cat, dot]
    removed = explained.without(chosen, "removed")
    assert removed.tolist() == [[0, *cat[2:]], [*dot[:3], 1]]
    masked = explained.without(chosen, "mask")
    assert masked.tolist() == [[0, 2, *cat[2:]], [*dot[:3], 2, 1]]
    everything = torch.tensor([[0, 1, 2]] * 2)
    assert explained.without(everything, "removed").tolist() == [[0, 1]] * 2


def test_the_true_order_is_first_and_noise_is_nothing() -> None:
    words = ["abcdefghij"[i:] + "xyz"[: i % 4] for i in range(7)]
    Path("words.txt").write_text("\n".join(words * 3))
    methods = ("leave_one_out", "random", "token_length", "token_rarity")
    found = bench.bench(
        "evaluate-texts",
        "out",
        model="nets.py:bag",
        texts="words.txt",
        methods=methods,
        random_orders=40,
        replacements=("removed",),
        batch_size=4,
    )
    table = found.tables["ranking"].set_index("method")
    assert table.index[0] == "leave_one_out"
    assert abs(table["mean"]["random"]) < 0.1 * table["mean"]["leave_one_out"]
    assert set(table["images"]) == {21}


def test_controls_know_the_texts_alone() -> None:
    test = prepared("pairs", "pairs.csv", methods=("token_length", "token_rarity", "token_overlap"))
    length, rarity, overlap = (test.explained(0, c, (0,)).maps[0, 0].tolist() for c in range(3))
    assert length == [(ord(c) - 94) % 5 for c in "cat"]
    texts = [*WORDS, *WORDS]
    assert rarity == [-sum(c in text for text in texts) for c in "cat"]
    assert overlap == [0, 0, 0]  # cat and dog
    overlap = test.explained(0, 2, (2,)).maps[0, 0].tolist()  # elephant and iguana: a, n
    assert [c for c, value in zip("elephant", overlap, strict=True) if value] == ["a", "n"]
    assert overlap[5] != overlap[6]


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["bench", "evaluate-texts", "--model", "nets.py:pairs", "--texts", "pairs.csv"]
    line += ["--methods", "balanced_input", "integrated_gradients:n_steps=5,signed=True"]
    line += ["leave_one_out", "token_overlap", "guided_backprop", "random", "--out"]
    assert main([*line, "out"]) == 0
    said = capsys.readouterr()
    assert "excluded: text 9: it is empty" in said.out
    assert "guided_backprop does not apply to nets.py:pairs: " in said.out
    assert "token gain (mask): higher is better, chance gives 0; 8 " in said.out
    assert "fewer than 30" in said.out or "below about 30" in said.out
    assert main([*line, "out"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert main([*line, "other", "--batch-size", "1"]) == 0
    a, b = (pd.read_csv(f"{folder}/results.csv") for folder in ("out", "other"))
    keys = ["method", "setting", "case"]
    a, b = (t[t["method"] != "random"].sort_values(keys)["value"].to_numpy() for t in (a, b))
    assert a == pytest.approx(b, abs=1e-5)
    record = json.loads(Path("out/record.json").read_text())
    assert record["plan"]["number"] == "cosine"
    assert record["excluded"] == [{"text": "text 9", "why": "it is empty"}]
    assert [d["method"] for d in record["does_not_apply"]] == ["guided_backprop"]
    part = next(Path("out/stages").glob("*.stage"))
    whole = Path("out/results.csv").read_bytes()
    part.unlink()
    assert main([*line, "out"]) == 0
    assert Path("out/results.csv").read_bytes() == whole


def test_another_model_is_another_run() -> None:
    before = prepared().units()
    Path("nets.py").write_text(NETS.replace("manual_seed(0)", "manual_seed(1)"))
    assert not {*before} & {*prepared().units()}
    assert len(prepared(limit=3).subjects[0]) == 3


def test_texts_that_cannot_be_used() -> None:
    for name, text, why in (
        ("none.txt", None, "none.txt cannot be read"),
        ("empty.txt", "\n \n", "empty.txt holds no texts"),
        ("words.csv", "word\ncat\n", r"has no column 'text' \(it has: word\)"),
    ):
        if text is not None:
            Path(name).write_text(text)
        with pytest.raises(DataError, match=why):
            open_texts(name)
    with pytest.raises(ValueError, match="at least one text is needed, not 0"):
        open_texts("words.txt", 0)
    Path("long.txt").write_text("cat\nhippopotamuses\n")
    with pytest.raises(DataError, match="text 2 has 16 tokens, and the model takes 14; cut it"):
        prepared(texts="long.txt")
    Path("short.txt").write_text("cat\na\n")
    with pytest.raises(DataError, match="text 2 has fewer than two tokens; leave it out"):
        prepared(texts="short.txt")
    with pytest.raises(DataError, match="text 1 has no other text to compare with: give a CSV"):
        prepared("pairs")


def test_models_and_methods_that_do_not_fit() -> None:
    with pytest.raises(ModelLoadError, match=r"gives Net, not a fullgrad\.maps\.tokens\.TextModel"):
        prepared("plain")
    explained = prepared("bare", methods=("random",)).explained(0, 0, (0,))
    everything = torch.tensor([[0, 1, 2]])
    with pytest.raises(MethodError, match="no mask token; use --replacements removed"):
        explained.without(everything, "mask")
    with pytest.raises(MethodError, match=r"no special tokens .* use --replacements mask"):
        explained.without(everything, "removed")
    with pytest.raises(ValueError, match="replacement must be 'removed' or 'mask', not 'masked'"):
        explained.without(everything, "masked")
    explained = prepared(methods=("token_overlap",)).explained(0, 0, (0,))
    with pytest.raises(MethodError, match="token_overlap needs pairs of texts: give TextModel a"):
        _ = explained.maps
    test = prepared(methods=("token_length",))
    del type(test.subjects[0].text_model.tokenizer).convert_ids_to_tokens
    with pytest.raises(MethodError, match="token_length needs a tokenizer with convert_ids_to"):
        _ = test.explained(0, 0, (0,)).maps
    with pytest.raises(ValueError, match="leave_one_out has no options, but 'leave_one_out:a=1'"):
        choice_of("leave_one_out:a=1")
    with pytest.raises(ValueError, match=r"known: .*; for texts also: leave_one_out, mask_one_out"):
        choice_of("leave_two_out")
    with pytest.raises(ValueError, match="psi"):
        choice_of("fullgrad:psi=7")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="token gain needs fractions below 1"):
        TokenGain(fractions=(0.5, 1.0))
    for wrong in (("pad",), ()):
        with pytest.raises(ValueError, match=r"unknown replacement .*; known: removed, mask"):
            TokenGain(replacements=wrong)
    with pytest.raises(ValueError, match="unknown test 'token-gain'; known: relevance-gain"):
        chosen_tests(["token-gain"], "images", {})
    with pytest.raises(ValueError, match="unknown test 'relevance-gain'; known: token-gain"):
        chosen_tests(["relevance-gain"], "texts", {})


def test_cautions_about_classifiers_of_two_classes() -> None:
    def said(classes: int, accuracy: float, probability: float) -> list[str]:
        known = {"classes": classes, "accuracy": accuracy, "probability": probability}
        return cautions([], {"net": known})

    assert said(2, 0.84, 0.91) == []
    right, sure = said(2, 0.74, 0.7)
    assert right.startswith("net is right on 74.0% of the images, and guessing on 50.0%: a map of")
    assert sure.startswith("net gives its predicted class a probability of 70.0% on average, and")
    assert said(1000, 0.003, 0.003) == []
    assert len(said(1000, 0.001, 0.001)) == 2
