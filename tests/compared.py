"""A comparison as `manyhot compare` writes it into compare.json: three methods that worked, and one that did not."""

from typing import Any

import numpy as np

LABELS = ["cheese", "مرحبا بالعالم", "质量 <很好>", "price", "parking"]


def _method(name: str, kind: str, micro: float, macro: float, differences: Any, rows: int = 200) -> dict[str, Any]:
    metrics = {
        "micro_f1": micro, "macro_f1": macro, "samples_f1": micro + 0.01, "rare_f1": None, "medium_f1": 0.3,
        "head_f1": 0.9, "exact_match": 0.5, "hamming_loss": 0.1, "lrap": 0.9, "precision_at_1": 0.9,
        "precision_at_3": 0.4, "precision_at_5": 0.2, "ndcg_at_5": 0.9, "labels_per_row_predicted": 1.6,
        "labels_per_row_true": 1.5, "empty_rows": 0.0, "rows": rows, "labels": len(LABELS),
    }  # fmt: skip
    measured = ("micro_f1", "macro_f1", "samples_f1", "exact_match")
    return {
        "name": name, "what": f"what {name} is", "loss": name.split("+")[0], "kind": kind, "error": None,
        "metrics": metrics,
        "intervals": {key: [metrics[key] - 0.02, metrics[key] + 0.02] for key in measured} | {"rare_f1": None},
        "differences": differences,
        "label_f1": [round(macro + 0.1 * np.cos(i), 3) for i in range(len(LABELS))],
        "scores": {"edges": [-1.0, 0.0, 1.0], "positives": [20, 280], "negatives": [600, 100]},
        "reliability": [[700.0, *[20.0] * 9], [20.0, *[0.2 * i for i in range(15, 105, 10)]], [25.0, *range(2, 20, 2)]],
        "cardinality": {"predicted": [0, 110, 70, 20], "true": [0, 120, 60, 20]},
        "chosen": [{"seed": 0, "fold": 1, "C": 3.4, "tau": 1.0, "offset": -0.2, "thresholds": "0"}],
        "seconds": {"search": 1.5, "fit": 0.5, "shared": 0.0}, "predict_seconds": 0.25, "at_limit": 0, "peak_mb": 210,
        "by_seed": [{"seed": 0, "micro_f1": micro, "macro_f1": macro}],
    }  # fmt: skip


def _difference(micro: tuple[float, float, float], macro: tuple[float, float, float]) -> dict[str, Any]:
    return {
        key: {"value": value, "interval": [low, high]}
        for key, (low, value, high) in (("micro_f1", micro), ("macro_f1", macro))
    }


def comparison() -> dict[str, Any]:
    """Return one in which ours wins by micro-F1 and loses by macro-F1."""
    failed = dict.fromkeys(("metrics", "intervals", "differences", "cardinality", "scores", "seconds"))
    failed |= {"predict_seconds": None, "at_limit": None, "peak_mb": None, "label_f1": [], "chosen": [], "by_seed": []}
    return {
        "kind": "comparison", "format": 3, "data": "reviews.csv", "said": ["240 rows, 5 labels, <b>1.5</b> a row"],
        "design": {"kind": "test", "file": "test.csv", "rows": 200},
        "model": "linear", "features": "50 words", "seeds": [0], "resamples": 2000, "level": 0.95,
        "train_counts": [100, 80, 40, 15, 4], "labels": LABELS, "test_counts": [90, 70, 30, 10, 0],
        "methods": [
            _method("zlpr+prior", "ours", 0.91, 0.72, _difference((0.01, 0.03, 0.05), (-0.08, -0.05, -0.02))),
            _method("bce+label-thresholds", "rival", 0.88, 0.77,
                    _difference((-0.05, -0.03, -0.01), (0.02, 0.05, 0.08))),
            _method("focal", "rival", 0.86, 0.60, _difference((-0.07, -0.05, -0.03), (-0.2, -0.12, -0.04))),
            {"name": "asl", "what": "asymmetric", "loss": "asl", "kind": "rival", "error": "it <diverged>"} | failed,
        ],
        "default": "zlpr+prior",
        "best": {
            "micro_f1": {"ours": "zlpr+prior", "rival": "bce+label-thresholds"},
            "macro_f1": {"ours": "zlpr+prior", "rival": "bce+label-thresholds"},
        },
        "warnings": [{"text": "3 rows repeat an earlier training row.", "labels": [], "more": 0}],
        "hard": [
            {"row": 7, "text": "so <b>good</b>, مرحبا", "f1": 0.0,
             "true": [{"name": LABELS[0], "methods": 0}], "others": [{"name": LABELS[4], "methods": 2}]},
        ],
        "command": "manyhot compare reviews.csv --test test.csv", "versions": {"manyhot": "0.1.0", "scipy": None},
        "platform": "Linux", "threads": 2, "seconds": 123.4,
    }  # fmt: skip
