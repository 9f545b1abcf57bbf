"""The two properties of full-gradients, on a network small enough to see."""
