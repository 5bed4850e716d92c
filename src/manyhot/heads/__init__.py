"""Heads: from the vectors of tokens to scores of spans."""
