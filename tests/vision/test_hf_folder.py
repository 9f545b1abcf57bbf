"""Image classifiers of transformers by the folder that ``save_pretrained`` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fullgrad.errors import ModelLoadError
from fullgrad.vision._hf_folder import from_folder
from fullgrad.vision.images import preprocess
from fullgrad.vision.models import load_model

tf: Any = pytest.importorskip("transformers")


def config() -> Any:
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {0: "cat", 1: "dog", 2: "neither"}
    return tf.ViTConfig(image_size=32, patch_size=8, intermediate_size=24, id2label=labels, **small)


def folder(path: Path, kind: Any = None, **processor: Any) -> Path:
    torch.manual_seed(0)
    (kind or tf.ViTForImageClassification)(config()).save_pretrained(path)
    values = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": 32, "width": 32},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.4, 0.5, 0.6],
        "image_std": [0.2, 0.3, 0.25],
        **processor,
    }
    (path / "preprocessor_config.json").write_text(json.dumps(values))
    return path


def photograph() -> Image.Image:
    smooth = np.random.default_rng(0).random((6, 8, 3)) * 255
    return Image.fromarray(smooth.astype(np.uint8)).resize((80, 60), Image.Resampling.BICUBIC)


def test_a_saved_model_is_loaded_with_its_classes_and_preprocessing(tmp_path: Path) -> None:
    path = folder(tmp_path)
    found = load_model(f"hf:{path}")
    assert found.class_names == ("cat", "dog", "neither") and found.trained
    assert found.checkpoint == path / "model.safetensors" and found.sha256
    image = photograph()
    mine = preprocess(image, found.preprocessing)[None]
    theirs = tf.AutoImageProcessor.from_pretrained(path)(image, return_tensors="pt")
    # Both resize by Pillow or torchvision, which round otherwise.
    assert float((mine - theirs["pixel_values"]).abs().max()) < 0.05
    own = tf.AutoModelForImageClassification.from_pretrained(path).eval()
    with torch.no_grad():
        assert torch.equal(found.module(mine).logits, own(mine).logits)


def test_a_cropped_photograph(tmp_path: Path) -> None:
    shorter = {"size": {"shortest_edge": 40}, "do_center_crop": True}
    path = folder(
        tmp_path,
        **shorter,
        crop_size={"height": 32, "width": 32},
        image_processor_type="CLIPImageProcessor",
    )
    found = from_folder(str(path)).preprocessing
    assert (found.resize, found.crop, found.interpolation) == (40, (32, 32), "bicubic")
    theirs = tf.AutoImageProcessor.from_pretrained(path)(photograph(), return_tensors="pt")
    assert float((preprocess(photograph(), found) - theirs["pixel_values"][0]).abs().max()) < 0.05


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(
        ModelLoadError,
        match=r"hf:nobody/nothing cannot be loaded .*give a folder that model.save_pretrained",
    ):
        load_model("hf:nobody/nothing")
    path = folder(tmp_path / "a")
    with pytest.raises(ModelLoadError, match="has its own weights and classes: leave weights out"):
        from_folder(str(path), "none")
    with pytest.raises(ModelLoadError, match="leave a number of classes out"):
        from_folder(str(path), None, 5)
    with pytest.raises(
        ModelLoadError, match=r"lacks weights, classifier.bias, .*save the whole model"
    ):
        from_folder(str(folder(tmp_path / "b", tf.ViTModel)))
    (tmp_path / "c").mkdir()
    tf.BertConfig(num_hidden_layers=1).save_pretrained(tmp_path / "c")
    with pytest.raises(ModelLoadError, match="is a BertConfig, which classifies no images"):
        from_folder(str(tmp_path / "c"))
    (path / "preprocessor_config.json").unlink()
    with pytest.raises(ModelLoadError, match=r"processor.save_pretrained wrote"):
        from_folder(str(path))


@pytest.mark.parametrize(
    ("processor", "says"),
    [
        (
            {"do_resize": False},
            "has no resizing, which is not supported; make the model in a Python file",
        ),
        ({"do_rescale": False}, "has other rescaling"),
        ({"size": {"longest_edge": 40}}, "has the size"),
        (
            {"image_std": [0.0, 0.3, 0.25]},
            "the preprocessing of hf:.* is not supported: mean and std",
        ),
    ],
    ids=["size", "rescaling", "edge", "std"],
)
def test_a_preprocessing_that_cannot_be_followed(tmp_path: Path, processor: Any, says: str) -> None:
    with pytest.raises(ModelLoadError, match=says):
        from_folder(str(folder(tmp_path, **processor)))
