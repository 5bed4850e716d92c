"""Draw what `manyhot demo` prints: its default beside what people do today, on the same test rows.

python benchmarks/demo_picture.py     (trains as the demo does, a minute; --again draws what was measured last)
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "demo.json"
PICTURE = HERE.parent / "docs" / "demo.svg"
SHOWN = {"micro_f1": "micro-F1", "macro_f1": "macro-F1", "rare_f1": "rare-F1"}
COLOURS = ("#0b63c5", "#c9ced6", "#8f99a5")
COMMAND = [sys.executable, "-c", "from manyhot.toolkit.cli.main import main; main()", "demo", "--json"]


def measured() -> dict[str, dict[str, float]]:
    """Run the demo and return its metrics by method."""
    with tempfile.TemporaryDirectory() as folder:
        found = subprocess.run(COMMAND, cwd=folder, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(found)["test"]


def draw(methods: dict[str, dict[str, float]]) -> None:
    """Write the picture; white behind it, for pages that are dark."""
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "manyhot", "font.family": "sans-serif", "font.size": 10}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7, 2.3), facecolor="white")
        axes = figure.add_axes((0.02, 0.13, 0.96, 0.68))
        width = 0.8 / len(methods)
        for i, ((name, metrics), colour) in enumerate(zip(methods.items(), COLOURS, strict=True)):
            places = [j + (i - (len(methods) - 1) / 2) * width for j in range(len(SHOWN))]
            values = [100 * metrics[key] for key in SHOWN]
            bars = axes.bar(places, values, width * 0.94, color=colour, label=name)
            axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=2)
        axes.set_xticks(range(len(SHOWN)), list(SHOWN.values()))
        axes.set(yticks=[], ylim=(0, 62))
        axes.tick_params(length=0)
        for side in ("left", "top", "right"):
            axes.spines[side].set_visible(False)
        figure.legend(loc="upper center", ncols=len(methods), frameon=False, handlelength=1, handleheight=1)
        figure.savefig(PICTURE, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    if "--again" not in sys.argv:
        RESULTS.write_text(json.dumps(measured(), indent=1) + "\n")
    draw(json.loads(RESULTS.read_text()))
    print(f"wrote {RESULTS} and {PICTURE}")
