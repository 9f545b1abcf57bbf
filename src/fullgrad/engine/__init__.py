"""One recorded forward pass and one backward pass: every term of a model's output."""
