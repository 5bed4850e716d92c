"""One kind of model a file, behind the seam in `model`; `kinds` knows them by name."""
