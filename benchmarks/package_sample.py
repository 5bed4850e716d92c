"""Draw the package titles and tags of `manyhot demo` from debtags: python benchmarks/package_sample.py"""

import gzip
import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MANYHOT_DATA", ROOT.parent / "shared" / "data")) / "debtags"
SAMPLE = ROOT / "src" / "manyhot" / "toolkit" / "demo" / "sample" / "debtags.jsonl.gz"
# As many as the demo learns in 40 seconds on two cores. Long descriptions stand under the licences of their packages.
ROWS = {"train": 3000, "test": 1000}


# A tag of fewer training rows is left out: what a method does with it says little, and its time is that of any other.
LEAST = 5


def main() -> None:
    chance = random.Random(2012)
    drawn: dict[str, list[dict[str, Any]]] = {}
    seen: set[str] = set()
    kept: set[str] = set()
    for part, number in ROWS.items():
        with gzip.open(DATA / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        chance.shuffle(rows)
        if part == "train":
            counts = Counter(tag for row in rows[:number] for tag in row["tags"])
            kept = {tag for tag, count in counts.items() if count >= LEAST}
        drawn[part] = []
        for row in rows:
            tags = [tag for tag in row["tags"] if tag in kept]
            title = row["title"].lower()
            if tags and title not in seen and len(drawn[part]) < number:  # no title stands in both parts
                seen.add(title)
                drawn[part].append({"part": part, "title": row["title"], "tags": tags})
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for rows in drawn.values() for row in rows]
    SAMPLE.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    print(f"wrote {SAMPLE}: {len(lines):,} titles, {SAMPLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
