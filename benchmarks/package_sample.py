"""Draw the package titles and tags of `manyhot demo` from debtags: python benchmarks/package_sample.py"""

import gzip
import json
import os
import random
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MANYHOT_DATA", ROOT.parent / "shared" / "data")) / "debtags"
SAMPLE = ROOT / "src" / "manyhot" / "toolkit" / "demo" / "sample" / "debtags.jsonl.gz"
# As many as the demo learns in 40 seconds of two cores. Long descriptions stand under the licences of their packages.
ROWS = {"train": 3000, "test": 1000}


def main() -> None:
    chance = random.Random(2012)
    lines: list[str] = []
    seen: set[str] = set()
    for part, number in ROWS.items():
        with gzip.open(DATA / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        chance.shuffle(rows)
        drawn = []
        for row in rows:
            if len(drawn) == number:
                break
            if (title := row["title"].lower()) not in seen:  # none stands in both parts
                seen.add(title)
                drawn.append({"part": part, "title": row["title"], "tags": row["tags"]})
        lines += [json.dumps(row, ensure_ascii=False) + "\n" for row in drawn]
    SAMPLE.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    print(f"wrote {SAMPLE}: {len(lines):,} titles, {SAMPLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
