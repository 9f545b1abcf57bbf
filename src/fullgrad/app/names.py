"""The names under which the page shows the methods; identifiers stay those of the interface."""

from __future__ import annotations

_NAMES = {
    "fullgrad": "FullGrad",
    "simple_fullgrad": "Simple FullGrad",
    "smooth_fullgrad": "Smooth FullGrad",
    "complete_fullgrad": "Complete FullGrad",
    "balanced_fullgrad": "Balanced FullGrad",
    "balanced_input": "Balanced input",
    "difference_fullgrad": "Difference FullGrad",
    "path_fullgrad": "Path FullGrad",
    "combined_fullgrad": "Combined FullGrad",
    "fullgrad_plus": "FullGrad+",
    "input_gradient": "Input gradient",
    "input_x_gradient": "Input × gradient",
    "integrated_gradients": "Integrated gradients",
    "smoothgrad": "SmoothGrad",
    "guided_backprop": "Guided backprop",
    "deeplift": "DeepLIFT",
    "occlusion": "Occlusion",
    "grad_cam": "Grad-CAM",
    "layer_cam": "LayerCAM",
    "attention_rollout": "Attention rollout",
    "gradient_x_attention": "Gradient × attention",
    "random": "Random noise",
    "random_blobs": "Random blobs",
    "sobel": "Sobel edges",
    "center": "Center",
    "contrast": "Local contrast",
    "random_phase": "Random phases",
}


def method_title(name: str) -> str:
    """Return the name of a method for people; of a user's own method, its name as it is.

    Args:
        name: the method's identifier.
    """
    return _NAMES.get(name, name)
