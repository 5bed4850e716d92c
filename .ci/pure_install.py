"""Run by `make pure` in an environment whose manyhot was built without a compiler."""

import re
import warnings
from importlib.resources import files

import pytest
import torch

import manyhot
from manyhot.kernels import native

assert native.MISSING is not None
assert "C++ kernel is not there" in native.MISSING

logits = torch.tensor([[2.0, -1.0, 3.0, -2.0]], requires_grad=True)
targets = torch.tensor([[1, 0, 1, 0]])
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    losses = [manyhot.zlpr_loss(logits, targets) for _ in range(2)]
assert [str(w.message).startswith(native.MISSING) for w in caught] == [True], caught
assert caught[0].filename == __file__
(gradient,) = torch.autograd.grad(losses[0], logits)
(expected,) = torch.autograd.grad(manyhot.zlpr_loss(logits, targets, impl="eager"), logits)
torch.testing.assert_close(gradient, expected)
torch.testing.assert_close(losses[0].item(), 0.5775, rtol=0, atol=5e-5)
with pytest.raises(ValueError, match=re.escape(native.MISSING)):
    manyhot.zlpr_loss(logits, targets, impl="native")
# What reports are made of is no Python, and in the wheel all the same.
for name in ("page.html", "run.html", "comparison.html", "parts.html", "style.css", "script.js"):
    assert (files("manyhot.toolkit.report") / name).is_file(), name
print(f"works without a compiler: {caught[0].message}")
