"""Draw the sentences of `manyhot demo --task spans` from germeval2014: python benchmarks/span_sample.py"""

import gzip
import json
import os
import random
from pathlib import Path

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("MANYHOT_DATA", ROOT.parent / "shared" / "data")) / "germeval2014"
SAMPLE = ROOT / "src" / "manyhot" / "toolkit" / "demo" / "germeval2014" / "sentences.jsonl.gz"
# As many as the demo learns in 90 seconds of one core.
ROWS = {"train": 1200, "test": 500}


def main() -> None:
    chance = random.Random(2014)
    lines = []
    for part, number in ROWS.items():
        with gzip.open(DATA / f"{part}.spans.jsonl.gz", "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        for i in sorted(chance.sample(range(len(rows)), number)):
            row = {"part": part, "tokens": rows[i]["tokens"], "entities": rows[i]["entities"]}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    SAMPLE.write_bytes(gzip.compress("".join(lines).encode(), mtime=0))
    print(f"wrote {SAMPLE}: {len(lines):,} sentences, {SAMPLE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
