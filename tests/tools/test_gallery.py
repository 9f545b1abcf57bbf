"""The small networks are built, trained, kept and explained."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fullgrad
import gallery
import small_models
import training
from figures import outside
from fullgrad import methods
from fullgrad.errors import MethodError
from fullgrad.vision.images import Preprocessing
from fullgrad.vision.models import LoadedModel
from sheets import explained
from small_models import FAMILIES, build, digest_of, trained
from training import Dataset, MissingDataError, Settings, fit, image_folder, load

ONE = Settings(epochs=1, batch=6)


def colour_data(n: int = 6, seed: int = 0) -> Dataset:
    """Red, green and blue squares with noise: three classes anything can learn."""
    g = torch.Generator().manual_seed(seed)

    def images() -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.arange(3).repeat(n)
        x = torch.randint(0, 60, (3 * n, 3, 32, 32), generator=g, dtype=torch.uint8)
        x[torch.arange(3 * n), labels] += 180
        return x, labels

    return Dataset("", *images(), *images(), ("red", "green", "blue"))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_built_and_has_a_proven_map(name: str) -> None:
    size = FAMILIES[name].settings.size
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    before = torch.get_rng_state()
    model = build(name, 4)
    again = build(name, 4)
    assert torch.equal(torch.get_rng_state(), before)
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    for p in model.parameters():  # some heads start at zero, and have no gradient then
        if not p.any():
            nn.init.normal_(p, std=0.1)
    heat = fullgrad.saliency(model, x, 1)
    assert heat.shape == (1, 1, size, size)
    assert heat.std() > 0
    assert model.eval()(x).shape == (1, 4)


def test_another_seed_makes_other_weights() -> None:
    a, b = build("vgg", 3, seed=0), build("vgg", 3, seed=1)
    assert not torch.equal(a[0][0].weight, b[0][0].weight)


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown family 'rnn'; known: vgg, resnet, "):
        build("rnn")


def test_training_learns_and_repeats_itself_and_leaves_the_random_state_alone() -> None:
    data = colour_data(20)
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        model = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 3))
        before = torch.get_rng_state()
        lines: list[str] = []
        seconds = fit(model, data, Settings(epochs=5, batch=12, rate=1e-2), lines.append)
        assert torch.equal(torch.get_rng_state(), before)
        assert seconds > 0
        assert len(lines) == 5
        assert "epoch 5/5" in lines[-1]
        assert not model.training
        assert all(p.grad is None for p in model.parameters())
        weights.append(model[2].weight.detach().clone())
    assert torch.equal(*weights)
    assert training.accuracy(model, data.test, data.test_labels, 64) == 1.0
    wrong = (data.test_labels + 1) % 3
    assert training.accuracy(model, data.test, wrong, 64) == 0.0


def test_a_finished_network_is_not_trained_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, lines = colour_data(), []
    model, record = trained("vgg", data, tmp_path, ONE, lines.append)
    assert any("epoch 1/1" in line for line in lines)
    assert record.classes == ("red", "green", "blue")
    assert record.torch == torch.__version__
    assert (record.epochs, record.seed) == (1, 0)
    assert record.digest == digest_of("vgg", data, ONE)
    assert record.parameters == sum(p.numel() for p in model.parameters())
    assert record.accuracy == training.accuracy(model, data.test, data.test_labels, 64)
    monkeypatch.setattr(small_models, "fit", lambda *_: pytest.fail("trained again"))
    again, same = trained("vgg", data, tmp_path, ONE, lines.append)
    assert same == record
    assert not again.training
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model(x))


def test_a_damaged_checkpoint_is_trained_again_and_said_so(tmp_path: Path) -> None:
    data, lines = colour_data(), []
    _, record = trained("vgg", data, tmp_path, ONE, lines.append)
    (checkpoint,) = tmp_path.glob("*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-9])
    lines.clear()
    _, again = trained("vgg", data, tmp_path, ONE, lines.append)
    assert "missing or damaged; training again" in lines[0]
    assert again.digest == record.digest
    assert gallery.models.sha256_of(checkpoint) == again.sha256


def test_an_interrupted_training_leaves_nothing_and_starts_anew(tmp_path: Path) -> None:
    data = colour_data()

    def stop(line: str) -> None:
        if "epoch" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained("vgg", data, tmp_path, ONE, stop)
    assert list(tmp_path.iterdir()) == []
    _, record = trained("vgg", data, tmp_path, ONE, lambda _: None)
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".pt"]
    (note,) = tmp_path.glob("*.json")
    assert json.loads(note.read_text())["sha256"] == record.sha256


def test_the_digest_covers_settings_architecture_and_images() -> None:
    data = colour_data()
    digests = {
        digest_of("vgg", data, ONE),
        digest_of("vgg", data, Settings(epochs=1, batch=6, seed=1)),
        digest_of("vgg", colour_data(seed=1), ONE),
        digest_of(
            "vgg",
            Dataset(
                "", data.train, data.train_labels, data.test, data.test_labels, ("a", "b", "c")
            ),
            ONE,
        ),
        digest_of("vit", data, ONE),
        digest_of("vit_registers", data, ONE),
    }
    assert len(digests) == 6
    assert digest_of("vgg", colour_data(), ONE) in digests


def write_images(folder: Path, size: int = 32) -> Path:
    for split in ("train", "test"):
        for number, name in enumerate(("a", "b")):
            place = folder / split / name
            place.mkdir(parents=True)
            for file in ("0.png", "1.png"):
                Image.new("RGB", (size, size), (number * 200, 10, 10)).save(place / file)
    return folder


def test_an_image_folder_is_read(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images")
    data = load(image_folder(folder, tmp_path), ("a", "b"))
    assert data.train.shape == (4, 3, 32, 32)
    assert data.train[::2, :, 3, 4].tolist() == [[0, 10, 10], [200, 10, 10]]
    assert data.test_labels.tolist() == [0, 0, 1, 1]
    assert data.classes == ("a", "b")


def test_data_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        MissingDataError, match="has no folder 'train': --data needs an image folder"
    ):
        image_folder(tmp_path / "nothing", tmp_path)
    with pytest.raises(MissingDataError, match=r"class c of .* has 0 training images"):
        load(write_images(tmp_path / "two"), ("a", "b", "c"))
    with pytest.raises(
        MissingDataError, match=r"have the shape \(3, .*\), not \(3, 32, 32\) as CIFAR's"
    ):
        load(write_images(tmp_path / "large", 40), ("a", "b"))


SCRIPT = """
import sys
from pathlib import Path
out = Path(sys.argv[1]) / "train" / "a"
out.mkdir(parents=True)
{end}
"""


def test_the_mosaics_are_unpacked_once_and_never_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FULLGRAD_SHARED", str(tmp_path / "shared"))
    script = tmp_path / "shared" / "data" / "unpack_cifar100.py"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.format(end="sys.exit('no such codec')"))
    cache = tmp_path / "cache"
    with pytest.raises(MissingDataError, match=r"unpack_cifar100\.py failed: no such codec"):
        image_folder(None, cache)
    assert list(cache.iterdir()) == []
    script.write_text(SCRIPT.format(end=""))
    assert image_folder(None, cache) == cache / "cifar100"
    script.unlink()
    assert image_folder(None, cache) == cache / "cifar100"
    assert [p.name for p in cache.iterdir()] == ["cifar100"]


@pytest.mark.parametrize("tool", [gallery, small_models])
def test_missing_data_ends_with_2_and_says_what_to_do(
    tool: object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FULLGRAD_SHARED", str(tmp_path / "absent"))
    threads = torch.get_num_threads()
    try:
        assert tool.main(["--cache", str(tmp_path / "cache")]) == 2  # type: ignore[attr-defined]
    finally:
        torch.set_num_threads(threads)
    said = capsys.readouterr().err
    assert "CIFAR-100 is needed" in said
    assert "--data" in said
    assert "FULLGRAD_SHARED" in said
    assert ("--pretrained-only" in said) == (tool is gallery)
    assert list(tmp_path.iterdir()) == []


def test_the_pretrained_model_alone_needs_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FULLGRAD_SHARED", str(tmp_path / "absent"))
    out, threads = tmp_path / "out", torch.get_num_threads()
    try:
        assert gallery.main(["--pretrained-only", "--no-methods", "--out", str(out)]) == 0
    finally:
        torch.set_num_threads(threads)
    names = sorted(p.name for p in out.iterdir())
    assert names == ["gallery-efficientnet_lite0.png", "gallery-families.png", "gallery.json"]
    record = json.loads((out / "gallery.json").read_text())
    assert record["models"][0]["prediction"] == "missile"
    assert record["versions"]["torch"] == torch.__version__
    assert "| EfficientNet-Lite0 |" in gallery.tables(record)


class Blue(nn.Module):
    """Says the colour channel that is brightest."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.square().mean((2, 3)) * x.mean((2, 3)).sign()


RECORD = small_models.Record(
    "vgg", 0.75, ("red", "green", "blue"), 64, 9, 1, 2.0, 1, "cpu", 0, "t", "t", "d", "s"
)


@pytest.mark.parametrize(("truth", "right"), [("blue", True), ("red", False)])
def test_a_wrong_prediction_is_said_to_be_wrong(truth: str, right: bool) -> None:
    image = Image.effect_noise((50, 40), 60).convert("RGB")
    image = Image.merge("RGB", (*image.split()[:2], image.split()[2].point(lambda v: 255 - v // 8)))
    result = explained.explained_small("vgg", image, truth, Blue(), RECORD)
    assert (result.prediction, result.right) == ("blue", right)
    line = gallery.line_of(result)
    assert line.wrong is not right
    assert ("wrong: says “blue”" in line.label) is not right
    assert "test accuracy 75%" in line.detail
    assert [np.shape(c) for c in line.cells] == [(160, 160, 3)] * 5
    assert len(line.notes) == 5
    assert "outlined" not in "".join(line.notes)
    assert line.outline is None
    facts = {
        "name": "vgg",
        "title": "VGG",
        "prediction": "blue",
        "probability": 0.5,
        "right": right,
        "logit": result.logit,
        "logit_without_object": None,
        "splits": {name: asdict(s) for name, s in result.splits.items()},
        **result.facts,
    }
    text = gallery.tables({"versions": {"torch": "1"}, "photograph": "p", "models": [facts]})
    assert ("wrong; red: " in text) is not right
    assert "| 75.0% |" in text
    assert "| CPU, 1 thread, 2 |" in text
    facts["device"] = "some GPU"
    text = gallery.tables({"versions": {"torch": "1"}, "photograph": "p", "models": [facts]})
    assert "| some GPU, 2 |" in text
    assert "Training of the small networks: torch t, timm t." in text


class Linear(nn.Module):
    """Its complete map is known: the pixels times the weights, and the bias elsewhere."""

    def __init__(self, size: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(2, 3, size, size, generator=g))
        self.bias = nn.Parameter(torch.tensor([0.5, -3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)


def test_the_sums_beside_a_map_are_those_of_its_cells_and_of_the_frame() -> None:
    model, x = Linear(16), torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    frame = (0.25, 0.5, 0.71875, 1.0)  # columns 4 to 11.5, rows 8 to 16
    found = explained.splits(model, x, 1, 4, frame)
    assert list(found) == ["complete_fullgrad", "balanced_fullgrad", "balanced_input"]
    product = (x[0] * model.weight[1]).sum(0).detach().double()
    cells = product.reshape(4, 4, 4, 4).sum((1, 3)).numpy()
    inside = float(product[8:, 4:11].sum() + product[8:, 11].sum() / 2)
    for split in found.values():
        np.testing.assert_allclose(split.cells, cells, rtol=1e-4, atol=1e-5)
        assert split.positive == pytest.approx(cells[cells > 0].sum(), rel=1e-4)
        assert split.negative == pytest.approx(cells[cells < 0].sum(), rel=1e-4)
        assert split.elsewhere == pytest.approx(-3.0, abs=1e-5)
        assert split.inside == pytest.approx(inside, abs=1e-4)
        assert split.largest == pytest.approx(np.abs(cells).max(), rel=1e-4)
        drawn = split.positive + split.negative + split.elsewhere
        assert drawn == pytest.approx(model(x)[0, 1].item(), abs=1e-4)
        assert gallery.note_of(split).count("\n") == 2
    without = explained.split(model, x, 1, 4, None)
    assert without.inside is None
    assert gallery.note_of(without).endswith("elsewhere −3.0")


@pytest.mark.parametrize("name", explained.COMPLETE)
def test_what_is_drawn_is_the_method_of_that_name(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    x = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    split = explained.split(model, x, 1, 1, None, **explained.COMPLETE[name])
    found = methods.attribute(name, model, x, 1, signed=True)
    np.testing.assert_allclose(split.cells, found[0, 0].detach().double().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("value", "text"), [(1.26, "+1.3"), (-0.26, "−0.3"), (0.04, "0.0"), (-0.04, "0.0")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert gallery.number(value) == text


def test_the_frame_is_where_the_object_is_erased() -> None:
    image = Image.new("RGB", (96, 64))
    image.putdata([(2 * x, 100, 0) for y in range(64) for x in range(96)])
    marked = image.copy()
    marked.paste((255, 255, 255), (16 + 28, 18, 16 + 42, 64))
    place = explained.OBJECTS["rocket"]
    smooth = np.asarray(explained.erased_photograph(marked, *place)).astype(int)
    assert np.abs(smooth - np.asarray(image)).max() == 0
    assert explained.area_of(place) == (14 / 32, 9 / 32, 21 / 32, 1.0)
    x0, y0, x1, y1 = explained.area_of(place, 8 / 7)
    assert (x0, x1, y1) == pytest.approx((0.5 - 2 / 28, 0.5 + 5 / 28, 1.0))
    assert y0 == pytest.approx(0.25)


def test_an_erased_object_fades_from_one_side_to_the_other() -> None:
    pixels = torch.arange(6 * 8).reshape(1, 1, 6, 8).to(torch.uint8)
    pixels[..., 2:, 3:5] = 255
    smooth = torch.arange(6 * 8).reshape(1, 1, 6, 8).to(torch.uint8)
    assert torch.equal(explained.erased(pixels, 2, 3, 5), smooth)
    assert int(pixels.max()) == 255


def test_a_photograph_is_reduced_to_the_means_of_its_centre_square() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 100, 3)).astype(np.uint8)
    small = training.reduced(Image.fromarray(pixels))
    centre = pixels[:, 18:82].reshape(32, 2, 32, 2, 3).mean((1, 3))
    assert small.shape == (1, 3, 32, 32)
    assert np.abs(small[0].permute(1, 2, 0).numpy() - centre).max() <= 1  # rounded after each axis
    # What is shown is what the network gets.
    x = training.prepared(small, 32)
    assert np.array_equal(np.asarray(training.visible(x)), small[0].permute(1, 2, 0).numpy())


def test_variations_without_room_to_vary_are_the_images_or_their_mirror_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training, "SHIFT", 0.0)
    data = colour_data(4)
    still = Settings(zoom=1.0, light=0.0)
    x = training.varied(data.train, still, torch.Generator().manual_seed(0))
    plain = training.prepared(data.train, 64)
    same = [torch.allclose(a, b, atol=1e-4) for a, b in zip(x, plain, strict=True)]
    mirrored = [torch.allclose(a, b.flip(-1), atol=1e-4) for a, b in zip(x, plain, strict=True)]
    assert all(a or b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_methods_that_refuse_are_shown_as_not_applicable() -> None:
    def refuses(model: nn.Module, inputs: torch.Tensor, target: object) -> torch.Tensor:
        raise MethodError("needs | bars")

    loaded = LoadedModel(
        Blue(),
        "blue",
        "none",
        Preprocessing(224, (224, 224)),
        ("red", "green", "blue"),
        None,
        None,
        False,
        torch.device("cpu"),
    )
    methods.register("refuses", refuses)
    try:
        names = ["fullgrad", "complete_fullgrad", "refuses", "random"]
        drawn = gallery.all_methods(loaded, ["chelsea", "rocket"], names)
        figure = gallery.methods_sheet(drawn, names, "Title")
        shown = drawn.maps["random"][0]
        once = {**drawn.maps, "refuses": [shown, *drawn.maps["refuses"][1:]]}
        some = gallery.methods_sheet(replace(drawn, maps=once), names, "Title")
    finally:
        methods.unregister("refuses")
    assert outside(figure) == []
    record = drawn.record
    assert record["does_not_apply"] == {"refuses": "needs | bars"}
    assert set(record["seconds"]) == set(names)
    assert list(record["photographs"]) == ["chelsea", "rocket"]
    assert sum(bool(axes.images) for axes in figure.axes) == 2 * 4
    written = [t.get_text() for t in figure.texts]
    assert "refuses" not in written
    assert any(" ".join(t.split()).endswith("to this model: refuses.") for t in written)
    words = [t.get_text() for axes in some.axes for t in axes.texts]
    assert words == ["does not\napply"]
    text = gallery.tables({"versions": {}, "photograph": "p", "models": [], "methods": record})
    assert "needs \\| bars |" in text


def test_fullgrad_comes_first_and_controls_last() -> None:
    names = ["input_gradient", "random", "sobel", "balanced_input", "fullgrad"]
    names += ["smooth_fullgrad", "grad_cam"]
    assert gallery.ordered(names) == [
        "fullgrad",
        "smooth_fullgrad",
        "balanced_input",
        "input_gradient",
        "grad_cam",
        "random",
        "sobel",
    ]


def test_the_page_changes_between_its_markers_only() -> None:
    page = f"before\n{gallery.START}\nold\n{gallery.END}\nafter\n"
    assert gallery.rewritten(page, "new") == page.replace("old", "new")
