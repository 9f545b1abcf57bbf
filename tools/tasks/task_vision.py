"""Tasks on images, videos and volumes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from task import Case, Task, library, noise, seeded

IMAGE = {"x": "BCHW"}


class OfImages(nn.Module):
    """A detector of torchvision, called with a batch instead of a list."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, x: Tensor) -> Any:
        return self.detector(list(x))


def best_score(output: Any) -> Tensor:
    """The score of the first box, the surest one."""
    score: Tensor = output[0]["scores"][:1]
    return score


def detector(name: str, **options: Any) -> Case:
    detection = library("torchvision.models.detection")

    def make() -> nn.Module:
        return OfImages(
            getattr(detection, name)(weights=None, weights_backbone=None, num_classes=3, **options)
        )

    return Case(seeded(make), {"x": noise(1, 3, 64, 64)}, best_score, ["x"], IMAGE)


def one_stage() -> Case:
    case = detector("ssdlite320_mobilenet_v3_large")
    case.model.get_submodule("detector.transform").fixed_size = (64, 64)  # type: ignore[assignment]
    return case


def two_stages() -> Case:
    case = detector(
        "fasterrcnn_mobilenet_v3_large_320_fpn", min_size=64, max_size=64, box_score_thresh=0.0
    )
    stated = {"detector.roi_heads": "(B K) C"}
    options = {"detached": "constant", "activation_layouts": stated}
    return Case(case.model, case.batch, case.target, case.explained, IMAGE, options=options)


def detr() -> Case:
    tf = library("transformers")

    backbone = tf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], out_features=["stage2"]
    )
    config = tf.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        num_queries=4,
        num_labels=3,
    )
    model = seeded(lambda: tf.DetrForObjectDetection(config))
    pixels = {"pixel_values": noise(1, 3, 64, 64)}
    return Case(model, pixels, lambda o: o.logits[:, 2, 1], [*pixels], {"pixel_values": "BCHW"})


def segmentation() -> Case:
    lraspp = library("torchvision.models.segmentation").lraspp_mobilenet_v3_large

    model = seeded(lambda: lraspp(weights=None, weights_backbone=None, num_classes=3))
    x = {"input": noise(1, 3, 64, 64)}
    where = {"input": "BCHW"}
    return Case(model, x, lambda o: o["out"][:, 1, 20:30, 20:40].sum((1, 2)), [*x], where)


def unet() -> Case:
    smp = library("segmentation_models_pytorch")

    model = seeded(lambda: smp.Unet("mobilenet_v2", encoder_weights=None, classes=2))
    return Case(model, {"x": noise(1, 3, 64, 64)}, lambda o: o[:, 1, 20, 30], ["x"], IMAGE)


def segformer() -> Case:
    tf = library("transformers")

    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
    config = tf.SegformerConfig(decoder_hidden_size=16, num_labels=3, **sizes)
    model = seeded(lambda: tf.SegformerForSemanticSegmentation(config))
    pixels = {"pixel_values": noise(1, 3, 64, 64)}
    return Case(model, pixels, lambda o: o.logits[:, 1, 5, 6], [*pixels], {"pixel_values": "BCHW"})


def depth() -> Case:
    tf = library("transformers")

    sizes = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
    model = seeded(lambda: tf.GLPNForDepthEstimation(tf.GLPNConfig(decoder_hidden_size=8, **sizes)))
    pixels = {"pixel_values": noise(1, 3, 64, 64)}
    where = {"pixel_values": "BCHW"}
    return Case(model, pixels, lambda o: o.predicted_depth[:, 20, 30], [*pixels], where)


def classes() -> Case:
    timm = library("timm")

    model = seeded(lambda: timm.create_model("test_vit", num_classes=3))
    return Case(model, {"x": noise(1, 3, 160, 160)}, lambda o: o[:, 1], ["x"], IMAGE)


def number() -> Case:
    timm = library("timm")

    model = seeded(lambda: timm.create_model("test_efficientnet", num_classes=1))
    return Case(model, {"x": noise(2, 3, 64, 64)}, lambda o: o[:, 0], ["x"], IMAGE)


def video() -> Case:
    mc3_18 = library("torchvision.models.video").mc3_18

    model = seeded(lambda: mc3_18(num_classes=3))
    return Case(model, {"x": noise(1, 3, 3, 24, 24)}, lambda o: o[:, 1], ["x"], {"x": "BCTHW"})


def volume() -> Case:
    unet3d = library("monai.networks.nets").UNet

    model = seeded(lambda: unet3d(3, 1, 2, (4, 8, 8), (2, 2)))
    x = {"x": noise(1, 1, 16, 16, 16)}
    return Case(model, x, lambda o: o[:, 1, 3, 4, 5], ["x"], {"x": "BCDHW"})


class Windows(nn.Module):
    """A network over a volume, window by window, weighted towards each window's middle."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        infer = library("monai.inferers").sliding_window_inference
        found: Tensor = infer(x, (8, 8, 8), 2, self.network, overlap=0.25, mode="gaussian")
        return found


def windows() -> Case:
    unet3d = library("monai.networks.nets").UNet

    model = seeded(lambda: Windows(unet3d(3, 1, 2, (4, 8), (2,))))
    x = {"x": noise(1, 1, 20, 12, 8)}
    return Case(model, x, lambda o: o[:, 1, 3, 7, 4], ["x"], {"x": "BCDHW"})


TASKS = (
    Task("detection, one stage", "torchvision", "SSDLite", "score of the surest box", one_stage),
    Task(
        "detection, two stages",
        "torchvision",
        "Faster R-CNN",
        "score of the surest box",
        two_stages,
        note="`detached='constant'`: proposals are computed without gradients, and count as "
        "constants; `activation_layouts={'detector.roi_heads': '(B K) C'}`: what is computed box "
        "by box has no position",
        refused="leave the autograd graph in 'detector.rpn'",
    ),
    Task("detection, set prediction", "transformers", "DETR", "class of box 2", detr),
    Task("segmentation, region", "torchvision", "LR-ASPP", "class 1 in a rectangle", segmentation),
    Task("segmentation, pixel", "segmentation-models-pytorch", "U-Net", "class 1 of a pixel", unet),
    Task("segmentation, transformer", "transformers", "SegFormer", "class 1 of a cell", segformer),
    Task("depth", "transformers", "GLPN", "depth of a pixel", depth),
    Task("classification", "timm", "ViT", "logit of class 1", classes),
    Task("regression", "timm", "EfficientNet", "the number", number),
    Task("video", "torchvision", "MC3-18", "logit of class 1", video),
    Task("volume, segmentation", "monai", "3-D U-Net", "class 1 of a voxel", volume),
    Task(
        "volume, sliding windows",
        "monai",
        "`sliding_window_inference`, Gaussian weights",
        "class 1 of a voxel",
        windows,
    ),
)
