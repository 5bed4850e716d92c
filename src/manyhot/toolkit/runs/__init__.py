"""A fitted run in use: as files and back, label sets of new rows, numbers for labelled ones."""
