"""Distillation: a model learns another's vectors, on plain text and with 4-bit weights if need be."""
