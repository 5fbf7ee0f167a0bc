"""Export of M3 checkpoints to ONNX bundles; runs from a checkout as ``python -m onnx_export CHECKPOINT OUT``."""
