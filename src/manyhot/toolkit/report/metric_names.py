"""What metrics are called where people read them, and how their numbers are written."""

from collections.abc import Iterable, Mapping
from typing import Any

# The first screen: what catches "all zeros" comes first.
TITLES = {
    "accuracy": "accuracy",
    "micro_precision": "precision",
    "micro_recall": "recall",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "samples_f1": "samples-F1",
    "rare_f1": "rare-F1 (1-8 rows)",
    "medium_f1": "medium-F1 (9-34)",
    "head_f1": "head-F1 (35+)",
    "labels_per_row_predicted": "labels a row, predicted",
    "labels_per_row_true": "labels a row, true",
    "empty_rows": "rows left empty",
    "exact_match": "exact match",
    "hamming_loss": "Hamming loss",
    "accuracy_at_3": "accuracy, best 3",
    "lrap": "LRAP",
    "precision_at_1": "P@1",
    "precision_at_3": "P@3",
    "precision_at_5": "P@5",
    "ndcg_at_1": "nDCG@1",
    "ndcg_at_3": "nDCG@3",
    "ndcg_at_5": "nDCG@5",
    "psp_at_1": "PSP@1",
    "psp_at_3": "PSP@3",
    "psp_at_5": "PSP@5",
    "ece": "calibration error (ECE)",
    "ece_uncalibrated": "ECE, uncalibrated",
    "brier": "Brier score",
    "log_loss": "log-loss",
    "rows": "rows",
    "labels": "labels",
    "classes": "classes",
}

# Metrics of spans.
SPAN_TITLES = {
    "micro_f1": "micro-F1",
    "micro_precision": "precision",
    "micro_recall": "recall",
    "macro_f1": "macro-F1",
    "rare_f1": "rare-F1 (1-8 spans)",
    "medium_f1": "medium-F1 (9-34)",
    "head_f1": "head-F1 (35+)",
    "boundary_f1": "F1 of borders alone",
    "nested_recall": "recall of nested spans",
    "spans_per_row_predicted": "spans a row, predicted",
    "spans_per_row_true": "spans a row, true",
    "exact_match": "rows all right",
    "empty_rows": "rows left empty",
    "rows": "rows",
    "spans": "spans",
    "types": "types",
}

# Metrics of relations: triples first, then the entities that they are made of.
RELATION_TITLES = {
    "triple_micro_f1": "triples: micro-F1",
    "triple_micro_precision": "triples: precision",
    "triple_micro_recall": "triples: recall",
    "triple_macro_f1": "triples: macro-F1",
    "triple_rare_f1": "triples: rare-F1 (1-8)",
    "triple_medium_f1": "triples: medium-F1 (9-34)",
    "triple_head_f1": "triples: head-F1 (35+)",
    "triple_boundary_f1": "triples: F1 of borders alone",
    "triple_pair_overlap_recall": "recall, both entities shared",
    "triple_entity_overlap_recall": "recall, one entity shared",
    "triple_triples_per_row_predicted": "triples a row, predicted",
    "triple_triples_per_row_true": "triples a row, true",
    "triple_exact_match": "rows with all triples right",
    "triple_empty_rows": "rows without a triple",
    **{key: f"entities: {title}" for key, title in SPAN_TITLES.items() if key not in ("rows", "spans", "types")},
    "rows": "rows",
    "triples": "triples",
    "relations": "relations",
    "spans": "entities",
    "types": "types",
}


def titles_of(columns: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the titles of what was measured: of triples, of spans, or of label sets."""
    keys = {key for metrics in columns for key in metrics}
    return RELATION_TITLES if "triples" in keys else SPAN_TITLES if "spans" in keys else TITLES


# No fractions: so many digits.
PLAIN = {
    **dict.fromkeys(("labels_per_row_predicted", "labels_per_row_true"), 2),
    **dict.fromkeys(("spans_per_row_predicted", "spans_per_row_true"), 2),
    **dict.fromkeys(("triple_triples_per_row_predicted", "triple_triples_per_row_true"), 2),
    "log_loss": 4,
}


def written(key: str, value: float | int | None) -> str:
    """Write a metric: counts as they are, fractions as per cent."""
    if isinstance(value, int):
        return f"{value:,}"
    if key in PLAIN and value is not None:
        return f"{value:.{PLAIN[key]}f}"
    return percent(value)


def written_penalty(C: float | None) -> str:
    """Write C; a dash for a model without a penalty."""
    return "-" if C is None else f"{C:g}"


def percent(value: float | None) -> str:
    """Write a fraction as per cent; a dash for an empty group."""
    return "-" if value is None else f"{100 * value:.1f}"


# What was measured on, by the names of parts.
MEASURED_ON = {
    "test": "test rows",
    "valid": "validation rows",
    "cross_fitted": "training rows, held out",
    "held_out": "training rows, held out",
    "train": "training rows",
}
# Said wherever a predicted label is shown with a probability below 50 %.
BELOW_HALF = (
    "A predicted label may have a probability below 50 %: label sets are chosen for the best F1 of all rows, and a row "
    "that must have a label has its best one."
)

BELOW_HALF_OF_CLASSES = "A class with a probability below 50 % is still the most probable one of its row."


def below_half(*, multiclass: bool) -> str:
    """Return what is said wherever what is predicted is shown with a probability below 50 %."""
    return BELOW_HALF_OF_CLASSES if multiclass else BELOW_HALF


# Where a method stands beside another, by the interval of the difference. "Win" and "loss" read as something else here.
AHEAD, BEHIND, EVEN = "ahead", "behind", "no clear difference"
# Rounding of a mean: an interval that begins so near 0 begins at 0.
ROUNDING = 1e-9


def in_words(interval: tuple[float, float] | list[float]) -> str:
    """Say where a method stands: a difference whose interval holds 0 may be chance."""
    low, high = interval
    return AHEAD if low > ROUNDING else BEHIND if high < -ROUNDING else EVEN


def points(difference: float) -> str:
    """Write a difference of fractions in percentage points, with its sign."""
    written = f"{100 * difference:+.1f}".replace("-", "−")
    return "0.0" if written[1:] == "0.0" else written


def signed_interval(value: float, interval: tuple[float, float] | list[float]) -> str:
    """Write a difference of fractions and its interval, in percentage points.

    Example:
        >>> signed_interval(0.009, (-0.003, 0.021))
        '+0.9 [−0.3, +2.1]'
    """
    low, high = interval
    return f"{points(value)} [{points(low)}, {points(high)}]"
