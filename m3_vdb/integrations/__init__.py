"""Adapters for other frameworks, one module per framework; docs/integrations.md shows them."""
