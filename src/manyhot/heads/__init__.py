"""Modules that end a network: from features to logits."""
