"""Run every leaf with a loss through the cases of tests/framework_cases.py and write the largest errors.

    make frameworks      (its last part, 2 minutes)

Keras chooses its backend once a process, so each leaf has a process of its own.
"""

import json
import os
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "frameworks.md"
sys.path.insert(0, str(ROOT / "tests"))

# The name of a leaf, its function in tests/framework_leaves.py, what runs it, and the cases that it has no option for.
LEAVES = {
    "manyhot, eager": ("eager", "torch", ()),
    "boosting": ("boosting", "numpy", ("threshold",)),
    "transformers": ("transformers", "transformers", ()),
    "jax": ("in_jax", "jax", ()),
    "keras, torch": ("in_keras", "keras", ("label weight",)),
    "keras, jax": ("in_keras", "keras", ("label weight",)),
    "keras, tensorflow": ("in_keras", "keras", ("label weight",)),
    "skorch": ("in_skorch", "skorch", ()),
    "lightning": ("in_lightning", "lightning", ()),
}


def measure(leaf: str) -> dict[str, tuple[float, float]]:
    """Return the errors of value and gradient of each case."""
    import framework_leaves
    from framework_cases import CASES, errors

    function, _, without = LEAVES[leaf]
    found = {}
    for name, case in CASES.items():
        if name not in without:
            off = errors(case, *getattr(framework_leaves, function)(case))
            found[name] = (off.value, off.gradient)
    return found


def main() -> None:
    """Measure all and write the table."""
    from framework_cases import CASES

    table = {}
    for leaf in LEAVES:
        backend = {"KERAS_BACKEND": leaf.partition(", ")[2]} if leaf.startswith("keras") else {}
        command = [sys.executable, __file__, leaf]
        done = subprocess.run(command, env=os.environ | backend, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{leaf}: {done.stderr[-2000:]}")
        table[leaf] = json.loads(done.stdout.splitlines()[-1])
        print(leaf, "done", flush=True)
    versions = [f"{name} {version(name)}" for name in dict.fromkeys(of for _, of, _ in LEAVES.values())]
    versions.append(f"tensorflow {version('tensorflow-cpu')}")
    lines = [
        f"{datetime.now(UTC):%Y-%m-%d}: {', '.join(versions)}. The larger of the errors of value (in parts of it, or "
        "of 1 where it is less) and gradient; boosting computes in float64, others in float32. A gradient of float16 "
        "comes back in float16. `-`: the leaf has no such option.",
        "",
        f"| | {' | '.join(CASES)} |",
        f"|---|{'---|' * len(CASES)}",
    ]
    for leaf, found in table.items():
        cells = [f"{max(found[name]):.0e}" if name in found else "-" for name in CASES]
        lines.append(f"| {leaf} | {' | '.join(cells)} |")
    RESULTS.write_text("\n".join(lines) + "\n")
    print(f"wrote {RESULTS}")


if __name__ == "__main__":
    if sys.argv[1:]:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(sys.argv[1])))
    else:
        main()
