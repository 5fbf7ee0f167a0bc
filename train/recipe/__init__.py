"""Recipes: one file with all steps of a model, run by one command that can be repeated until everything is done."""
