"""The seam in `model`, and one kind of model a file behind it; `kinds` knows them by name."""
