"""Imports follow the data, in one direction: architecture.md, "Data flow"."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "manyhot"

# Which of manyhot's modules each module outside of the toolkit may import. A new file needs a line here.
ALLOWED = {
    "tracing": set(),
    "targets": {"tracing"},
    "checks": {"tracing", "targets"},
    "label_smoothing": {"targets"},
    "batch": {"tracing", "targets", "checks"},
    "reduction": {"checks"},
    "kernels": set(),
    "kernels.layout": {"targets", "batch"},
    "kernels.blocked": {"targets", "batch", "kernels.layout"},
    "kernels.native": {"targets", "batch", "reduction", "kernels.layout", "kernels._native"},
    "kernels.subsets": {"tracing", "kernels.layout", "kernels.native"},
    "parallel": set(),
    "kernels.label_chunks": {"targets", "parallel"},
    "linear_layer": {"tracing", "targets", "checks", "parallel", "kernels.label_chunks", "losses.zlpr"},
    "linear_loss": {
        *("checks", "reduction", "parallel", "kernels.label_chunks"),
        *("linear_layer", "losses.hyperparameters", "losses.row_wise", "losses.zlpr"),
    },
    "updates": {"losses.hyperparameters"},
    "rankings": {"targets", "labels"},
    "logsumexp": {"tracing", "targets", "batch", "kernels.blocked", "kernels.native"},
    "symmetric": {"tracing", "targets", "checks", "kernels.native", "kernels.subsets", "logsumexp"},
    "matmulexp": {"tracing", "logsumexp"},
    "csr": {"kernels.native"},
    "nearest": {"csr", "kernels.native"},
    "largest": {"tracing"},
    "losses": set(),
    "losses.hyperparameters": set(),
    # The one loss file that sees a kernel: it hands whole losses to it, so that one node of the graph is enough.
    "losses.row_wise": {"batch", "logsumexp", "reduction", "kernels.native"},
    "losses.zlpr": {
        *("tracing", "checks", "label_smoothing", "batch"),
        *("reduction", "logsumexp", "losses.hyperparameters", "losses.row_wise"),
    },
    "losses.subset": {
        *("tracing", "targets", "checks", "reduction"),
        *("symmetric", "losses.hyperparameters", "decisions"),
    },
    "losses.divergence": {"checks", "batch", "reduction", "logsumexp"},
    "losses.label_wise": {"tracing", "targets", "checks", "batch", "reduction"},
    "losses.one_class": {"tracing", "targets", "checks", "logsumexp", "losses.zlpr"},
    "losses.margin": {"tracing", "checks", "reduction", "losses.hyperparameters", "losses.one_class"},
    "losses.perturbed": {"largest", "reduction", "losses.hyperparameters", "losses.one_class"},
    "losses.smooth": {
        "parallel",
        "reduction",
        "losses.hyperparameters",
        "losses.label_wise",
        "losses.one_class",
    },
    "losses.baselines": {"checks", "reduction", "losses.hyperparameters", "losses.zlpr", "losses.label_wise"},
    "losses.two_way": {
        *("batch", "logsumexp", "reduction", "losses.hyperparameters", "losses.label_wise", "losses.zlpr"),
    },
    "losses.span": {
        *("tracing", "checks", "reduction", "logsumexp"),
        *("losses.hyperparameters", "losses.zlpr", "spans", "span_scores"),
    },
    "losses.multiway": {
        *("tracing", "targets", "checks", "reduction"),
        *("parallel", "logsumexp", "matmulexp", "losses.hyperparameters"),
    },
    "spans": {"tracing", "targets"},
    "span_scores": {"tracing", "logsumexp", "matmulexp"},
    "span_decisions": {"spans", "span_scores"},
    "validation": {"targets", "checks", "spans", "span_scores"},
    "heads": set(),
    "heads.rotary": set(),
    "heads.span_pointer": {"span_scores", "heads.rotary"},
    "heads.boundary_tagger": {"heads.span_pointer"},
    "heads.cascade_tagger": {"heads.boundary_tagger"},
    "heads.relation_pointer": {"span_scores", "heads.span_pointer"},
    "triples": {"spans", "span_scores"},
    "labels": {"targets"},
    "split": {"labels"},
    "collation": {"targets"},
    "decisions": {"tracing", "targets"},
    "newton": set(),
    "calibration": {"targets", "checks", "labels", "newton"},
    "promises": {"calibration", "decisions"},
    "offset": {"targets", "labels", "decisions", "calibration", "promises"},
    "metrics_of_probs": {"calibration"},
    "metrics": {"targets", "labels"},
    "metrics_of_spans": {"labels"},
    "metrics_of_triples": {"metrics_of_spans"},
    "entropy_invariant": set(),
    "heads.reachable": {"targets"},
    "halfspaces": set(),
    "reach": {"targets", "halfspaces"},
    # Leaves, one a framework, which LEAVES names: nothing imports them.
    "boosting": {"decisions", "labels"},
    "sklearn": {
        *("calibration", "decisions", "labels", "losses.baselines", "losses.zlpr", "metrics", "split"),
        *("toolkit.choose.cross_fit", "toolkit.models.linear"),
    },
    "transformers": {"decisions", "losses.zlpr", "metrics", "targets"},
    "jax": {"targets"},
    "keras": {"targets"},
    "skorch": {"decisions", "losses.zlpr"},
    "lightning": {"decisions", "losses.zlpr", "metrics", "parallel", "targets"},
    "onnx": {
        *("", "calibration", "decisions", "toolkit.disk.run_folder", "toolkit.errors", "toolkit.models.meaning"),
        *("toolkit.models.pretrained", "toolkit.read.examples"),
        *("toolkit.runs.network", "toolkit.runs.predict", "toolkit.runs.saved_run"),
    },
}
# The frameworks that a leaf may import, beside torch and NumPy.
LEAVES = {
    "boosting": {"sklearn"},
    "sklearn": {"sklearn", "scipy"},
    "transformers": {"transformers"},
    "jax": {"jax"},
    "keras": {"keras"},
    "skorch": {"skorch"},
    "lightning": {"lightning"},
    "onnx": {"onnx", "onnxscript", "onnxruntime"},
}
# The rooms of the toolkit, in the order of the data, and the files of each in the same order: a module imports earlier
# ones. A room without files is a file itself. The command line is last and sees all.
ROOMS = {
    "errors": (),
    "parse": (),
    "plain_files": (),
    "config": (),
    "objectives": (),
    "disk": ("schema", "fits", "run_folder", "text_numbers", "checkpoint"),
    "read": (
        *("formats.files", "formats.label_lists", "formats.delimited", "formats.jsonl", "formats.matrix"),
        *(
            "formats.marked",
            "formats.links",
            "formats.tagged",
            "formats.span_jsonl",
            "formats.label_studio",
            "formats.arff",
        ),
        *("formats.svmlight", "data", "formats.parquet", "batches", "cells", "indicators", "literals"),
        *("separators", "label_cells", "vectors", "uses", "kinds", "label_columns", "columns", "attributes"),
        *("examples", "inputs", "spans"),
    ),
    "models": (
        *(
            "hub",
            "pooling",
            "pretrained",
            "meaning",
            "term_counts",
            "term_blocks",
            "blocks",
            "kernel",
            "features",
            "model",
            "processes",
            "ranked",
            "adamw",
            "early_stopping",
            "products",
        ),
        *("line_search", "lbfgs", "linear", "working_rows", "label_blocks", "listed", "neighbours"),
        *("mlp", "encoder", "kinds"),
    ),
    "choose": (
        *("calibrate", "cross_fit", "offsets", "blend", "label_errors", "promised", "ranked_rows", "by_blocks"),
    ),
    "runs": (
        "evaluate",
        "given",
        "trained_rows",
        "explain",
        "drift",
        "predict",
        "predictions",
        "review",
        "schema",
        "saved_run",
        "continued",
        "network",
    ),
    "report": (
        *(
            "metric_names",
            "answer",
            "scorer",
            "top_words",
            "overview",
            "out_of_reach",
            "cautions",
            "findings",
            "hard_rows",
            "suspects",
            "plots",
        ),
        *("span_page", "card", "render", "write"),
    ),
    "listener": (),
    "plan": (),
    "fit": (),
    "train": (),
    "audit": (),
    "compare": ("methods", "bootstrap", "standings", "tally", "trial", "compare"),
    "spans": (
        *("tokens", "sentences", "inputs", "features", "network", "relation_network", "pieces", "offset", "fit"),
        *(
            "predict",
            "relation_run",
            "relation_write",
            "write",
            "findings",
            "saved_run",
            "train",
            "methods",
            "standings",
            "compare",
        ),
    ),
    "folders": (),
    "demo": ("job", "packages", "digits", "today", "run", "spans"),
    "cli": (
        *("terminal", "result", "failing", "stdin", "options"),
        *("train", "compare", "evaluate", "predict", "explain", "export", "report", "audit", "demo", "main"),
    ),
}
TOOLKIT = [f"{room}.{file}" if files else room for room, files in ROOMS.items() for file in files or ("",)]
# What a function imports when it is called: metrics has scikit-learn's where that has the metric, reach needs a solver.
OUTSIDE = {"torch", "numpy"}
LAZY = {"metrics": {"sklearn"}, "halfspaces": {"scipy"}}
PACKAGES = ("toolkit", "read.formats", *(room for room, files in ROOMS.items() if files))
NAMES_OF_NOTHING = ("utils", "util", "common", "base", "core", "manager", "helper", "helpers", "misc")


def module_name(path: Path, root: Path = ROOT) -> str:
    """Return `losses.zlpr` for losses/zlpr.py, `losses` for losses/__init__.py and `` for the package itself."""
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str, module: str) -> Iterator[tuple[str, bool]]:
    """Yield (what is imported, whether on import of the module) for each import; `manyhot.x` also of relative ones."""
    tree = ast.parse(source)
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        eager = node not in inside
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, eager
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["manyhot", *module.split(".")][: -node.level]
                base = ".".join([*package, base]).rstrip(".")
            packages = ("losses", "heads", "kernels", "toolkit", *(f"toolkit.{package}" for package in PACKAGES))
            if base in ("manyhot", *(f"manyhot.{package}" for package in packages)):
                for alias in node.names:
                    yield f"{base}.{alias.name}", eager
            else:
                yield base, eager


def wrong_imports(source: str, module: str) -> list[str]:
    """Return a line for each import that goes against the direction."""
    problems = []
    in_toolkit = module == "toolkit" or module.startswith("toolkit.")
    own = module.removeprefix("toolkit.")
    if in_toolkit and own not in (*TOOLKIT, *PACKAGES):
        return [f"{module} has no place in ROOMS yet: put it where its data come from"]
    if not in_toolkit and module not in ALLOWED:
        return [f"{module} has no line in ALLOWED yet: say what it may import"]
    for name, eager in imports(source, module):
        package, _, inner = name.partition(".")
        if package == "manyhot":
            if inner.partition(".")[0] in LEAVES and (own, inner) != ("cli.export", "onnx"):
                problems.append(f"{module} imports {name}, a leaf: nothing imports those")
            elif in_toolkit:
                later = inner.removeprefix("toolkit.")
                of_toolkit = inner.startswith("toolkit.")
                if inner == "toolkit" or (of_toolkit and later in PACKAGES) or own in PACKAGES:
                    problems.append(f"{module} imports {name}: name the module, the package itself is empty")
                elif of_toolkit and later not in TOOLKIT[: TOOLKIT.index(own)]:
                    problems.append(f"{module} imports {name}, which comes after it")
            elif inner not in ALLOWED[module]:
                problems.append(f"{module} imports {name}")
        elif not in_toolkit and package not in OUTSIDE and package not in sys.stdlib_module_names:
            if package in LEAVES.get(module, set()):
                continue
            if package not in LAZY.get(module, set()):
                problems.append(f"{module} imports {name}: the base needs torch and numpy alone")
            elif eager:
                problems.append(f"{module} imports {name} at its top: import it inside the function that uses it")
    return problems


FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_follow_the_data(path: Path) -> None:
    assert wrong_imports(path.read_text(encoding="utf-8"), module_name(path)) == []


def test_the_package_imports_nothing_but_lazily() -> None:
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    eager = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = [alias.name for node in eager if isinstance(node, ast.Import) for alias in node.names]
    modules += [str(node.module) for node in eager if isinstance(node, ast.ImportFrom)]
    assert modules
    assert {module.partition(".")[0] for module in modules} <= set(sys.stdlib_module_names)


def test_files_are_named_after_what_is_in_them() -> None:
    assert [path.name for path in FILES if path.stem in NAMES_OF_NOTHING] == []
    assert [path.name for path in ROOT.rglob("*") if path.is_dir() and path.name in NAMES_OF_NOTHING] == []


def test_the_rooms_are_those_of_the_toolkit() -> None:
    found = {module_name(path).removeprefix("toolkit.") for path in (ROOT / "toolkit").rglob("*.py")}
    assert found - {"toolkit", *PACKAGES} == set(TOOLKIT)
    assert len(list((ROOT / "toolkit").glob("*.py"))) <= 12


def test_all_of_the_base_is_looked_at() -> None:
    found = {module_name(path) for path in FILES}
    assert {"targets", "batch", "logsumexp", "losses.zlpr", "labels", "split", "decisions"} <= found


@pytest.mark.parametrize(
    ("module", "source", "problem"),
    [
        ("losses.zlpr", "from manyhot.toolkit.read.data import read", "losses.zlpr imports manyhot.toolkit.read.data"),
        ("losses.zlpr", "def f():\n    import manyhot.toolkit", "losses.zlpr imports manyhot.toolkit"),
        ("losses.zlpr", "from manyhot.labels import label_prior", "losses.zlpr imports manyhot.labels"),
        ("losses.zlpr", "from ..decisions import decide", "losses.zlpr imports manyhot.decisions"),
        ("losses.zlpr", "from manyhot import decide", "losses.zlpr imports manyhot.decide"),
        ("logsumexp", "from manyhot.losses.zlpr import zlpr_loss", "logsumexp imports manyhot.losses.zlpr"),
        ("targets", "from manyhot import losses", "targets imports manyhot.losses"),
        ("targets", "from . import logsumexp", "targets imports manyhot.logsumexp"),
        ("labels", "import pandas as pd", "labels imports pandas: the base needs torch and numpy alone"),
        ("split", "def f():\n    from scipy import x", "split imports scipy: the base needs torch and numpy alone"),
        ("metrics", "from sklearn.metrics import f1_score", "metrics imports sklearn.metrics at its top: import it "
         "inside the function that uses it"),
        ("metrics", "from manyhot.toolkit import demo", "metrics imports manyhot.toolkit.demo"),
        ("toolkit.read.data", "from manyhot.toolkit.read.columns import x", "toolkit.read.data imports "
         "manyhot.toolkit.read.columns, which comes after it"),
        ("toolkit.runs.predict", "def f():\n    from manyhot.toolkit import train", "toolkit.runs.predict imports "
         "manyhot.toolkit.train, which comes after it"),
        ("toolkit.models.model", "from ..choose.cross_fit import x", "toolkit.models.model imports "
         "manyhot.toolkit.choose.cross_fit, which comes after it"),
        ("metrics", "from manyhot.sklearn import f1_score", "metrics imports manyhot.sklearn, a leaf: nothing imports "
         "those"),
        ("toolkit.train", "from manyhot import sklearn", "toolkit.train imports manyhot.sklearn, a leaf: nothing "
         "imports those"),
        ("boosting", "import xgboost", "boosting imports xgboost: the base needs torch and numpy alone"),
        ("toolkit.stuff", "", "toolkit.stuff has no place in ROOMS yet: put it where its data come from"),
        ("stuff", "", "stuff has no line in ALLOWED yet: say what it may import"),
    ],
)  # fmt: skip
def test_a_wrong_import_is_caught(module: str, source: str, problem: str) -> None:
    assert wrong_imports(source, module) == [problem]


def test_right_imports_are_let_through() -> None:
    right = {
        "losses.zlpr": "import math\nimport torch.nn.functional as F\nfrom manyhot.checks import check_finite\n"
        "from ..reduction import reduce\nfrom manyhot.losses.hyperparameters import keep",
        "metrics": "import numpy as np\ndef f():\n    from sklearn.metrics import f1_score",
        "toolkit.train": "import polars\nfrom manyhot.toolkit.read.data import read\nfrom manyhot import zlpr_loss",
        "sklearn": "from sklearn.base import BaseEstimator\nimport scipy.sparse",
        "toolkit.cli.main": "import typer\ndef f():\n    from manyhot.toolkit import folders, train",
    }
    for module, source in right.items():
        assert wrong_imports(source, module) == []
