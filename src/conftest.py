"""Doctests of the package: leaves whose framework is not installed are left out, and the header says so."""

from importlib.util import find_spec

# What a leaf needs to be imported and its examples to run.
NEEDED = {
    "boosting": ("sklearn", "xgboost", "lightgbm"),
    "jax": ("jax",),
    "keras": ("keras",),
    "lightning": ("lightning",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "sklearn": ("sklearn",),
    "skorch": ("skorch",),
    "transformers": ("transformers", "accelerate"),
}
ABSENT = {leaf: [name for name in needed if find_spec(name) is None] for leaf, needed in NEEDED.items()}
collect_ignore = [f"manyhot/{leaf}.py" for leaf, absent in ABSENT.items() if absent]


def pytest_report_header() -> list[str]:
    """Name the leaves that are left out."""
    left = [f"manyhot.{leaf} ({', '.join(absent)} not installed)" for leaf, absent in ABSENT.items() if absent]
    return [f"not collected, make frameworks has them: {'; '.join(left)}"] if left else []
