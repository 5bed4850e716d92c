"""The command: one table in, label sets out."""
