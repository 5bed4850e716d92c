"""Spans in texts: named entities and other marked parts, from rows to a run, its report and a comparison."""
