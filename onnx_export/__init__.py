"""M3 checkpoints → ONNX bundles, without torch: ``m3-vdb export CHECKPOINT OUT`` (extra ``export``)."""
