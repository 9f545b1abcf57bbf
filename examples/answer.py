"""Where does each word of an answer come from? A vision-language model, here small and random.

    python examples/answer.py

A trained model is loaded with ``from_pretrained``, and its processor makes the batch.
"""

import torch
import transformers

from fullgrad.interop import hugging_face

torch.manual_seed(0)
small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
IMAGE = 49  # the token that stands for a patch of the image
config = transformers.LlavaConfig(
    vision_config=transformers.CLIPVisionConfig(image_size=16, patch_size=8, **small),
    text_config=transformers.LlamaConfig(vocab_size=50, **small),
    image_token_index=IMAGE,
)
model = transformers.LlavaForConditionalGeneration(config)

prompt = torch.tensor([[1, IMAGE, IMAGE, IMAGE, IMAGE, 11, 12, 13]])
batch = transformers.BatchFeature(
    {
        "input_ids": prompt,
        "attention_mask": torch.ones_like(prompt),
        "pixel_values": torch.randn(1, 3, 16, 16),
    }
)
written = model.generate(**batch, max_new_tokens=4, do_sample=False, pad_token_id=0)
answer = written[:, prompt.shape[1] :]

found = hugging_face.explain_answer(model, batch, answer)
for i, name in enumerate(found.targets):
    text, image = (found.map[n][0, i] for n in ("input_ids", "pixel_values"))
    asked, before = text[: prompt.shape[1]].sum().item(), text[prompt.shape[1] :].sum().item()
    print(
        f"{name}: {found.found.output[0, i].item():+.3f} = prompt {asked:+.3f} + image "
        f"{image.sum().item():+.3f} + answer so far {before:+.3f} "
        f"+ elsewhere {found.found.elsewhere[0, i].item():+.3f}"
    )
