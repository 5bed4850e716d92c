"""Losses by concept: each file holds a formula, its function, its module and their documentation."""
