"""all-MiniLM-L6-v2 as it is published; `make encoder-data` brings it, and without it these tests are skipped."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from manyhot.toolkit.models.pretrained import Encoder

FOLDER = Path(__file__).parents[3] / ".venv" / "encoder-data" / "all-MiniLM-L6-v2"

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not here"),
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no encoder: make encoder-data"),
]


def test_the_published_folder_is_read_as_its_authors_say():
    import torch
    from transformers import AutoModel, AutoTokenizer

    encoder = Encoder.read(str(FOLDER), "cpu")
    assert (encoder.width, encoder.tokens.limit) == (384, 256)
    assert encoder.pooling.describe() == "mean, length 1"
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell sharply on Monday."]
    numbers = encoder.transform(texts)
    # The lines of the model card: mean over the mask, then length 1.
    tokenizer, network = AutoTokenizer.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER).eval()
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden, mask = network(**inputs)[0], inputs["attention_mask"].unsqueeze(-1)
    means = (hidden * mask).sum(1) / mask.sum(1)
    np.testing.assert_allclose(numbers, torch.nn.functional.normalize(means), atol=1e-5)
    alike = numbers @ numbers.T
    assert alike[0, 1] > 0.5 > 0.2 > alike[0, 2]
