"""One reader a format; `data` chooses among them by a file's name."""
