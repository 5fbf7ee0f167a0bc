"""Training of M3-Embedding models in PyTorch; runs from a checkout as ``python -m train``, never part of the wheel."""
