"""A run whose labels and texts are hostile or in other scripts, for the tests of its report."""

import json
import random

from manyhot.toolkit.config import Config
from manyhot.toolkit.train import train

SCRIPT = "</script><script>window.hacked=1</script>"
IMAGE = '<img src="https://example.org/x.png" onerror="window.hacked=2">'
BIDI = "\u202etxt.exe\u2066"
LONG = "x" * 10_000
NAMES = [SCRIPT, IMAGE, BIDI, LONG, "مرحبا بالعالم", "质量很好", "'\"&<>`", "{{ 7 * 7 }} {% raw %}", r"$\alpha$ % #"]
SAID = "amber birch cedar delta ember fjord grove heath inlet".split()


def train_hostile(folder):
    """Train on rows that say what they are labelled, mostly; return the run's folder."""
    chance = random.Random(0)

    def rows(number):
        for _ in range(number):
            labels = chance.sample(range(len(NAMES)), chance.randint(1, 3))
            words = [SAID[i if chance.random() < 0.8 else chance.randrange(len(NAMES))] for i in labels]
            text = f"{' '.join(words)} {chance.choice([SCRIPT, IMAGE, BIDI, LONG, 'مرحبا', '质量', '<b>', ''])}"
            yield {"text": text, "labels": [NAMES[i] for i in labels]}

    for name, number in (("<i>.jsonl", 120), ("t&t.jsonl", 60)):
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows(number)))
    out = folder / "hostile"
    train(Config(data=str(folder / "<i>.jsonl"), test=str(folder / "t&t.jsonl"), out=str(out), neighbours="off"))
    return out
