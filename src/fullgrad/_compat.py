"""The only module that touches private parts of PyTorch."""
