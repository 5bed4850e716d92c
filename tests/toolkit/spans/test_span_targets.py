"""Real sets of spans with the defaults: the F1 that is to be reached, and the time it may take on one core."""

import os
import time
from pathlib import Path

import pytest
import torch

from manyhot.toolkit.config import make_config
from manyhot.toolkit.spans.train import train_spans

# Of each: the rows to measure on, the micro-F1 to be reached, in per cent, and the processor seconds it may take.
TARGETS = {
    "conll04": ("test", 75.0, 60),
    "wnut17": ("test", 0.0, 3 * 60),
    "cluener2020": ("dev", 66.0, 15 * 60),
    "germeval2014": ("test", 60.0, 20 * 60),
}


@pytest.mark.spans
@pytest.mark.data
@pytest.mark.parametrize("name", TARGETS)
def test_a_real_set(name: str, data_root: Path, tmp_path: Path) -> None:
    part, least, most = TARGETS[name]
    files = {"data": data_root / name / "train.spans.jsonl.gz", "test": data_root / name / f"{part}.spans.jsonl.gz"}
    options = {key: str(path) for key, path in files.items()}
    torch.set_num_threads(1)
    began = time.process_time()
    trained = train_spans(make_config(None, [], options | {"task": "spans", "out": str(tmp_path / "run")}))
    seconds = time.process_time() - began
    assert trained is not None
    f1 = 100 * trained.metrics["test"]["micro_f1"]
    print(f"\n{name}: micro-F1 {f1:.1f} (at least {least:.0f}), {trained.run.info['epochs']} epochs, {seconds:.0f} s "
          f"(at most {most}), load {os.getloadavg()[0]:.1f}")  # fmt: skip
    assert f1 >= least
    # Beside other processes a core does less in a second.
    assert seconds <= most * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@pytest.mark.spans
@pytest.mark.data
def test_triples_of_a_real_set(data_root: Path, tmp_path: Path) -> None:
    parts = {"data": "train", "test": "test"}
    files = {key: str(data_root / "conll04" / f"conll04_{part}.json.gz") for key, part in parts.items()}
    torch.set_num_threads(1)
    trained = train_spans(make_config(None, [], files | {"task": "relations", "out": str(tmp_path / "run")}))
    assert trained is not None
    entities, triples = (100 * trained.metrics["test"][key] for key in ("micro_f1", "triple_micro_f1"))
    print(f"\nconll04: entities {entities:.1f} (at least 75), strict triples {triples:.1f} (at least 45)")
    assert entities >= 75
    assert triples >= 45
