"""Which words and which parts of an image make them alike? CLIP, here small and random.

    python examples/clip.py

A trained model is loaded with ``CLIPModel.from_pretrained`` and ``CLIPProcessor.from_pretrained``;
nothing else changes.
"""

import torch
import transformers

from fullgrad.interop import hugging_face

torch.manual_seed(0)
small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
texts = {**small, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1}
images = {"image_size": 32, "patch_size": 8, **small}
config = transformers.CLIPConfig(text_config=texts, vision_config=images, projection_dim=16)
model = transformers.CLIPModel(config).double()

# What a processor returns: two captions, and an image for each.
batch = transformers.BatchFeature(
    {
        "input_ids": torch.tensor([[1, 11, 12, 13, 2], [1, 14, 15, 2, 2]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]),
        "pixel_values": torch.randn(2, 3, 32, 32),
    }
)

# CLIP scales both vectors to length 1; docs/text.md says what that does to the Jacobian's terms.
found = hugging_face.explain(model, batch, hugging_face.pairs, linearization="balanced")
for i in range(2):
    part = {name: numbers[i].sum().item() for name, numbers in found.map.items()}
    print(
        f"pair {i}: {found.found.output[i].item():+.3f} = text {part['input_ids']:+.3f} "
        f"+ image {part['pixel_values']:+.3f} + elsewhere {found.found.elsewhere[i].item():+.3f}"
    )
print("maps:", ", ".join(f"{n} {tuple(m.shape)}" for n, m in found.map.items()))
