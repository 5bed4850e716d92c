"""Modules that end a network: from features to logits, or from the vectors of tokens to scores of spans."""
