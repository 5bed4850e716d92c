"""Faster ways to compute what the eager formulas say. No choice between them is made here."""
