"""Generated images, the network that learns them, and the test with masks of what counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from PIL import Image
from torch import Tensor, nn

from evaluating import explained, pixels, small_net, subject_of, values_of, write_images
from fullgrad import methods
from fullgrad.errors import ModelLoadError
from fullgrad.evaluation import bench
from fullgrad.evaluation.sources import DataError, open_source
from fullgrad.evaluation.tests.evaluate import generated_model
from fullgrad.evaluation.tests.evaluate.generated_images import CLASSES, KINDS, SIDE, scene
from fullgrad.evaluation.tests.evaluate.measures.ground_truth import GroundTruth, masks_of, ranked
from fullgrad.evaluation.tests.evaluate.subject import Subject
from fullgrad.evaluation.training.loop import Trained

Maker = Callable[[str, Any], None]


@pytest.fixture
def own() -> Iterator[Maker]:
    """Registers methods for one test."""
    names = []

    def register(name: str, function: Any) -> None:
        methods.register(name, function)
        names.append(name)

    yield register
    for name in names:
        methods.unregister(name)


@pytest.fixture(scope="module")
def small() -> dict[str, Trained]:
    """Both networks, trained less than usual."""
    torch.set_num_threads(1)
    return {kind: generated_model.trained(kind, images=1200, epochs=4) for kind in KINDS}


@pytest.fixture
def cached(small: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache; the list holds the kinds that are trained for it."""
    asked: list[str] = []

    def trained(kind: str) -> Trained:
        asked.append(kind)
        return small[kind]

    monkeypatch.setenv("FULLGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(generated_model, "trained", trained)
    return asked


# -- images -----------------------------------------------------------------------------------


def test_shapes_of_the_class_are_what_counts() -> None:
    counts = set()
    for number in range(60):
        drawn = scene("shapes", number)
        assert drawn.label == number % 4
        assert drawn.image.shape == (SIDE, SIDE, 3)
        assert drawn.image.dtype == np.uint8
        parts = drawn.mask.sum() / 13**2  # boxes of 11 pixels with a margin
        assert parts in (1, 2, 3)
        counts.add(int(parts))
    assert counts == {1, 2, 3}
    assert np.array_equal(scene("shapes", 5).image, scene("shapes", 5).image)
    assert not np.array_equal(scene("shapes", 5).image, scene("shapes", 9).image)
    assert not np.array_equal(scene("shapes", 5).image, scene("shapes", 5, train=True).image)
    with pytest.raises(ValueError, match="unknown kind of generated images 'x'; known: shapes, sh"):
        scene("x", 0)


def test_the_shortcut_is_the_background() -> None:
    colors: dict[int, list[Any]] = {}
    for number in range(80):
        drawn = scene("shortcut", number)
        assert 0.7 < drawn.mask.mean() < 1
        colors.setdefault(drawn.label, []).append(drawn.image[drawn.mask].mean(0))
        inside = drawn.image[~drawn.mask].astype(int)
        assert ((inside < 85).all(1) | (inside > 170).all(1)).all()  # dark or light, of no hue
    middles = {k: np.mean(v, 0) for k, v in colors.items()}
    for label, own_colors in colors.items():  # the color alone tells the class
        for color in own_colors:
            away = {k: np.abs(color - m).sum() for k, m in middles.items()}
            assert min(away, key=away.get) == label  # type: ignore[arg-type]


def test_generated_images_as_a_source(tmp_path: Path) -> None:
    source = open_source("generated:shapes", 10)
    assert len(source.items) == 10
    assert source.items[1].name == "shapes/0030"
    drawn = scene("shapes", 30)
    item = source.items[1]
    assert item.label == drawn.label
    assert item.mask is not None
    assert np.array_equal(np.asarray(item.read()[0]), drawn.image)
    assert np.array_equal(np.asarray(item.mask()[0]), drawn.mask[..., None].repeat(3, 2) * 255)
    assert source.content == open_source("generated:shapes", 10).content
    assert source.content != open_source("generated:shortcut", 10).content
    with pytest.raises(DataError, match="no images generated:x; give generated:shapes or generat"):
        open_source("generated:x")


def test_masks_of_a_table(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 3)
    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[2:6, 3:9] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    Image.fromarray(mask[:9]).save(tmp_path / "short.png")
    rows = "photos/000.png,mask.png\nphotos/001.png,\nphotos/002.png,short.png\n"
    (tmp_path / "list.csv").write_text("file,mask\n" + rows)
    source = open_source(str(tmp_path / "list.csv"))
    assert source.excluded == (("photos/002.png", "the mask is 16 x 9 pixels, the image 16 x 16"),)
    subject = Subject("net", subject_of(small_net(), pixels(1)).model, source)
    assert np.array_equal(masks_of(subject, [0])[0, 0].numpy(), mask > 0)
    assert GroundTruth().cases(subject) == 1  # no label, so the mask alone says it
    found = list(GroundTruth().scores(explained(subject, "sobel")))
    assert {s.number for s in found} == {0}
    assert found[0].more == {"area": mask.mean() / 255}
    Image.fromarray(255 - mask).save(tmp_path / "mask.png")
    assert open_source(str(tmp_path / "list.csv")).content != source.content
    for flat in (0, 255):  # nothing can be told
        Image.fromarray(np.full((16, 16), flat, np.uint8)).save(tmp_path / "mask.png")
        assert GroundTruth().cases(subject) == 0
        assert list(GroundTruth().scores(explained(subject, "sobel"))) == []


# -- the network ------------------------------------------------------------------------------


def test_the_network_is_trained_once_and_learns(cached: list[str], small: Any) -> None:
    for kind in KINDS:
        assert small[kind].accuracy > 0.85
        loaded = generated_model.load(f"generated:{kind}", None, "cpu")
        assert loaded.class_names == CLASSES
        assert loaded.trained
        again = generated_model.load(f"generated:{kind}", None, "cpu")
        assert again.sha256 == loaded.sha256
        subject = Subject("net", loaded, open_source(f"generated:{kind}", 100))
        labels = torch.tensor([i.label for i in subject.source.items])
        share = float((subject.predicted == labels).double().mean())
        assert share == pytest.approx(small[kind].accuracy, abs=0.1)
        assert GroundTruth().cases(subject) == int((subject.predicted == labels).sum())
    assert cached == list(KINDS)
    assert len(list(generated_model.cache().iterdir())) == 2


def test_what_counts_is_what_the_networks_look_at(cached: list[str]) -> None:
    """Without what counts little is classified right, without the rest most."""
    for kind in KINDS:
        loaded = generated_model.load(f"generated:{kind}", None, "cpu")
        subject = Subject("net", loaded, open_source(f"generated:{kind}", 100))
        numbers = range(100)
        x, masks = subject.inputs(numbers), masks_of(subject, numbers)
        labels = torch.tensor([i.label for i in subject.source.items])
        right = []
        for gone in (masks, ~masks):
            found = subject.outputs(torch.where(gone, 0, x)).argmax(1)  # gray
            right.append(float((found == labels).double().mean()))
        assert right[0] < 0.5
        assert right[1] > 0.75


def test_equal_seeds_give_equal_networks() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    a, b, c = (generated_model.trained("shapes", 64, 1, seed=s).state for s in (0, 0, 1))
    assert torch.equal(torch.rand(2), expected)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not torch.equal(a["0.weight"], c["0.weight"])


def test_models_that_are_not_there(cached: list[str], tmp_path: Path) -> None:
    for spec, weights, device, message in (
        ("generated:x", None, "cpu", "no model 'generated:x'; known: generated:shapes, generated:"),
        ("generated:shapes", "none", "cpu", "generated:shapes is trained here and takes no weigh"),
        ("generated:shapes", None, "cuda:99", "the device 'cuda:99' cannot be used"),
        ("magic", None, "cpu", "magic"),
    ):
        with pytest.raises(ModelLoadError, match=message):
            generated_model.load(spec, weights, device)
    assert isinstance(generated_model.load("generated:shapes", None, "cpu").module, nn.Module)


# -- the measure ------------------------------------------------------------------------------


def test_ranks_are_those_of_mann_and_whitney() -> None:
    maps = torch.randn(3, 50).double()
    maps[0] = maps[0].round()  # ties
    maps[1] = 4
    masks = torch.rand(3, 50) < 0.3
    found = ranked(maps, masks)
    for i in range(3):
        inside, outside = maps[i][masks[i]].numpy(), maps[i][~masks[i]].numpy()
        above = scipy.stats.mannwhitneyu(inside, outside).statistic
        assert float(found[i]) == pytest.approx(above / len(inside) / len(outside))
    assert float(found[1]) == 0.5


def test_images_without_masks_and_those_that_are_classified_wrong(cached: list[str]) -> None:
    plain = subject_of(small_net(), pixels(3))
    assert GroundTruth().cases(plain) == 0
    with pytest.raises(DataError, match=r"give --images generated:shapes or .* column 'mask'"):
        list(GroundTruth().scores(explained(plain, "sobel")))
    loaded = generated_model.load("generated:shapes", None, "cpu")
    loaded = replace(loaded, module=generated_model.network(0).eval())  # not trained
    subject = Subject("net", loaded, open_source("generated:shapes", 60))
    labels = torch.tensor([i.label for i in subject.source.items])
    right = (subject.predicted == labels).nonzero()[:, 0].tolist()
    assert 0 < len(right) < 40
    found = GroundTruth().scores(explained(subject, "sobel"))
    assert sorted({s.number for s in found}) == right


def of_images(kind: str, turn: Callable[[Any], Any]) -> Any:
    """A method that knows the masks of generated images."""
    known = {scene(kind, n).image.tobytes(): scene(kind, n).mask for n in range(300)}

    def method(model: nn.Module, inputs: Tensor, target: Any) -> Tensor:
        shown = ((inputs / 2 + 0.5) * 255).round().byte().permute(0, 2, 3, 1)
        masks = [turn(known[image.numpy().tobytes()]) for image in shown.contiguous()]
        return torch.from_numpy(np.stack(masks))[:, None].to(inputs)

    return method


@pytest.mark.parametrize("kind", KINDS)
def test_a_true_mask_is_first_and_its_reverse_last(
    kind: str, own: Maker, cached: list[str], tmp_path: Path
) -> None:
    own("truth", of_images(kind, lambda mask: mask))
    own("reverse", of_images(kind, lambda mask: ~mask))
    own("flat", of_images(kind, lambda mask: np.ones_like(mask)))
    chosen = ("reverse", "input_x_gradient:signed=True", "truth", "random", "flat", "grad_cam")
    result = bench.bench(
        "evaluate",
        tmp_path / "out",
        model=(f"generated:{kind}",),
        images=f"generated:{kind}",
        limit=40,
        methods=chosen,
        tests=("ground-truth",),
        say=lambda line: None,
    )
    table = result.tables["ranking"]
    for setting in ("mass", "rank"):
        part = table[table["setting"] == setting]
        assert part["method"].iloc[0] == "truth"
        assert part["method"].iloc[-1] == "reverse"
        means = part.set_index("method")["mean"]
        assert means["truth"] == 1
        assert means["reverse"] == 0
        assert part["verdict"].tolist().count("first") == 1
    rows = result.rows
    flat = rows[(rows["method"] == "flat") & (rows["setting"] == "mass")]
    np.testing.assert_allclose(flat["value"], flat["area"])
    assert set(rows.loc[rows["setting"] == "rank"].query("method == 'flat'")["value"]) == {0.5}
    assert abs(means["random"] - 0.5) < 0.03
    assert means["input_x_gradient:signed=True"] != 0.5
    values = values_of(
        GroundTruth().scores(explained(Subject("n", *_loaded(kind)), "truth")), "mass"
    )
    assert set(values.tolist()) == {1.0}


def _loaded(kind: str) -> tuple[Any, Any]:
    loaded = generated_model.load(f"generated:{kind}", None, "cpu")
    return loaded, open_source(f"generated:{kind}", 20)
