"""The linear model: its product and gradient against dense torch, its optimum against scikit-learn and SciPy."""

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from manyhot import zlpr_loss
from manyhot.toolkit.disk.fits import UNSAVED
from manyhot.toolkit.errors import InputError
from manyhot.toolkit.models import linear as module
from manyhot.toolkit.models.linear import Linear, LinearLearner, fit_linear
from manyhot.toolkit.models.model import Memory, gigabytes, unheard
from manyhot.toolkit.models.products import Product, transposed
from manyhot.toolkit.objectives import FORMULAS, route_of


def bce(logits, targets):
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")


def zlpr(logits, targets):
    return zlpr_loss(logits, targets, reduction="sum")


def example(rows=80, features=6, labels=3, seed=0):
    """Draw numbers, their sparse form, and targets that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)) * (rng.random((rows, features)) < 0.6)
    targets = X @ rng.normal(size=(features, labels)) + rng.normal(size=(rows, labels)) - 1 > 0
    assert targets.any(0).all()
    return X.astype(np.float32), torch.from_numpy(targets)


def objective(model, X, targets, loss, C):
    """Sum of losses + |W|^2/(2C), in float64."""
    logits = torch.from_numpy(X.astype(np.float64)) @ model.weight.double() + model.bias.double()
    return (loss(logits, targets) + model.weight.double().square().sum() / (2 * C)).item()


@pytest.fixture(autouse=True)
def one_thread():
    """Keep torch's threads off each other's cores: on tensors this small they only wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tight(monkeypatch):
    """Let L-BFGS run until float32 allows no more."""
    monkeypatch.setattr(module, "TOLERANCE", 0.0)


# The product


def large(rows=3000, columns=400, seed=0):
    """Enough non-zeros for several threads, with rows of very different lengths."""
    rng = np.random.default_rng(seed)
    dense = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < rng.random((rows, 1)) ** 3)
    X = sp.csr_array(dense.astype(np.float32))
    assert X.nnz > 100_000
    return X


@pytest.mark.parametrize("layout", [sp.csr_array, lambda X: X], ids=["sparse", "dense"])
def test_product_and_gradient_equal_dense_torch(layout):
    X, _ = example()
    weight = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upstream = torch.randn(80, 3, generator=torch.Generator().manual_seed(1))
    matrix = layout(X)
    product, back = Product(matrix), Product(transposed(matrix))
    out = module._Multiply.apply(weight, product, back)
    out.backward(upstream)
    expected = weight.detach().clone().requires_grad_()
    dense = torch.from_numpy(X) @ expected
    dense.backward(upstream)
    assert weight.grad is not None
    assert expected.grad is not None
    np.testing.assert_allclose(out.detach().numpy(), dense.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(weight.grad.numpy(), expected.grad.numpy(), atol=1e-5)
    assert out.dtype == weight.grad.dtype == torch.float32


def test_product_takes_gradients_that_are_not_contiguous():
    X, _ = example()
    weight = torch.ones(6, 3, requires_grad=True)
    product, back = Product(sp.csr_array(X)), Product(transposed(sp.csr_array(X)))
    module._Multiply.apply(weight, product, back).sum().backward()  # an expanded scalar
    assert weight.grad is not None
    np.testing.assert_allclose(weight.grad.numpy(), np.repeat(X.sum(0)[:, None], 3, 1), rtol=1e-5)


def test_product_is_bitwise_the_same_with_any_number_of_threads():
    X = large()
    weight = np.random.default_rng(1).normal(size=(400, 5)).astype(np.float32)
    upstream = np.random.default_rng(2).normal(size=(3000, 5)).astype(np.float32)
    results = []
    for threads in (1, 2, 3, 7, 2):
        torch.set_num_threads(threads)
        forward, backward = Product(X), Product(transposed(X))
        results.append((forward(weight), backward(upstream)))
    for forward, backward in results[1:]:
        np.testing.assert_array_equal(forward, results[0][0])
        np.testing.assert_array_equal(backward, results[0][1])
    np.testing.assert_allclose(results[0][0], X.toarray().astype(np.float64) @ weight, atol=1e-3)
    np.testing.assert_allclose(results[0][1], X.toarray().T.astype(np.float64) @ upstream, atol=1e-3)


@pytest.mark.parametrize("columns", [400, 7000], ids=["weights", "rows"])
def test_whole_fit_of_sparse_rows_is_bitwise_the_same_with_any_number_of_threads(columns):
    rows = large()
    X = sp.csr_array((rows.data, rows.indices * (columns // 400), rows.indptr), shape=(3000, columns))
    rng = np.random.default_rng(3)
    targets = torch.from_numpy(X @ rng.normal(size=(columns, 40)) + 3 * rng.normal(size=(3000, 40)) > 2)
    learner = LinearLearner.planned(3000, columns, 40, loss=FORMULAS["zlpr"], route=route_of("zlpr"))
    fits = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        fitted: Any = learner.fit(X, targets, C=0.03, start={}, fits=UNSAVED, name="all", progress=unheard).model
        fits.append((fitted.weight.numpy(), fitted.bias.numpy(), fitted.logits(X)))
    assert np.abs(fits[0][0]).max() > 0.01
    for fit in fits[1:]:
        for one, other in zip(fits[0], fit, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("size", [1, 7, 255, 256, 300])
def test_a_dense_row_has_the_same_bits_whatever_rows_come_with_it(size):
    rng = np.random.default_rng(0)
    model = Linear(torch.from_numpy(rng.normal(size=(57, 20)).astype(np.float32)), torch.zeros(20))
    X = rng.normal(size=(600, 57)).astype(np.float32)
    parts = [model.logits(X[first : first + size]) for first in range(0, 600, size)]
    np.testing.assert_array_equal(np.concatenate(parts), model.logits(X))
    assert model.logits(X[:0]).shape == (0, 20)
    X.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(model.logits(X), np.concatenate(parts))


def test_logits_are_the_product_plus_the_bias():
    X, _ = example()
    model = Linear(torch.randn(6, 3), torch.randn(3))
    expected = X.astype(np.float64) @ model.weight.numpy() + model.bias.numpy()
    for matrix in (X, sp.csr_array(X)):
        logits = model.logits(matrix)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=1e-5)


# The optimum


@pytest.mark.parametrize("C", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("layout", [sp.csr_array, lambda X: X], ids=["sparse", "dense"])
def test_with_cross_entropy_the_weights_are_those_of_scikit_learn(tight, layout, C):
    X, targets = example()
    model = fit_linear(layout(X), targets, loss=bce, C=C, max_iter=2000)
    for i in range(3):
        # The same objective: C sum(loss) + |w|^2/2, a free intercept.
        reference = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(X.astype(np.float64), targets[:, i].numpy())
        np.testing.assert_allclose(model.weight[:, i].numpy(), reference.coef_[0], atol=2e-3)
        np.testing.assert_allclose(model.bias[i].item(), reference.intercept_[0], atol=2e-3)


@pytest.mark.parametrize("C", [0.1, 10.0])
def test_with_zlpr_the_weights_are_those_of_scipy(tight, C):
    X, targets = example()
    model = fit_linear(sp.csr_array(X), targets, loss=zlpr, C=C, max_iter=2000)

    def value(flat):
        parameters = torch.from_numpy(flat).requires_grad_()
        weight, bias = parameters[:18].view(6, 3), parameters[18:]
        total = zlpr(torch.from_numpy(X).double() @ weight + bias, targets) + weight.square().sum() / (2 * C)
        total.backward()
        assert parameters.grad is not None
        return total.item(), parameters.grad.numpy()

    best = scipy.optimize.minimize(value, np.zeros(21), jac=True, method="L-BFGS-B", options={"ftol": 0, "gtol": 1e-8})
    np.testing.assert_allclose(model.weight.numpy().ravel(), best.x[:18], atol=2e-3)
    np.testing.assert_allclose(model.bias.numpy(), best.x[18:], atol=2e-3)
    assert objective(model, X, targets, zlpr, C) == pytest.approx(best.fun, rel=1e-6)


@pytest.mark.parametrize("loss", [bce, zlpr])
def test_default_tolerance_stops_near_the_optimum(monkeypatch, loss):
    X, targets = example(rows=300)
    stopped = fit_linear(X, targets, loss=loss, C=1.0)
    monkeypatch.setattr(module, "TOLERANCE", 0.0)
    best = fit_linear(X, targets, loss=loss, C=1.0, max_iter=2000)
    assert objective(stopped, X, targets, loss, 1.0) <= 1.001 * objective(best, X, targets, loss, 1.0)
    assert objective(stopped, X, targets, loss, 1.0) < 0.9 * objective(
        Linear(torch.zeros(6, 3), torch.zeros(3)), X, targets, loss, 1.0
    )


@pytest.mark.parametrize("solver", ["lbfgs", "adamw"])
def test_bias_is_not_penalised(tight, monkeypatch, solver):
    # With a penalty that leaves no weight, the bias alone fits the frequency of each label.
    monkeypatch.setattr(module, "BATCH_ROWS", 20)
    monkeypatch.setattr(module, "STEPS", 2000)
    X, targets = example()
    model = fit_linear(X, targets, loss=bce, C=1e-6, solver=solver, max_iter=2000)
    # AdamW's steps have about the size of the learning rate, also where the weights should be 0.
    assert model.weight.abs().max() < (1e-3 if solver == "lbfgs" else 0.02)
    frequency = targets.double().mean(0)
    np.testing.assert_allclose(torch.sigmoid(model.bias.double()).numpy(), frequency.numpy(), atol=0.02)


@pytest.mark.parametrize("loss", [bce, zlpr])
@pytest.mark.parametrize("C", [0.3, 10.0])
def test_mini_batches_come_close_to_the_same_objective(monkeypatch, loss, C):
    # As many steps as a data set has that is large enough for this solver.
    monkeypatch.setattr(module, "BATCH_ROWS", 32)
    X, targets = example(rows=2000)
    full = fit_linear(X, targets, loss=loss, C=C)
    batches = fit_linear(sp.csr_array(X), targets, loss=loss, C=C, solver="adamw")
    best = objective(full, X, targets, loss, C)
    start = objective(Linear(torch.zeros(6, 3), torch.zeros(3)), X, targets, loss, C)
    assert best < 0.8 * start
    assert objective(batches, X, targets, loss, C) < best + 0.02 * (start - best)


@pytest.mark.parametrize("solver", ["lbfgs", pytest.param("adamw", marks=pytest.mark.slow)])
def test_same_seed_same_weights_bitwise(solver):
    X, targets = example(rows=1300)
    X = sp.csr_array(X)
    first, second = (fit_linear(X, targets, loss=zlpr, C=1.0, solver=solver, seed=3) for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    other = fit_linear(X, targets, loss=zlpr, C=1.0, solver=solver, seed=4)
    assert torch.equal(first.weight, other.weight) == (solver == "lbfgs")


def test_training_takes_nothing_from_the_global_seed():
    X, targets = example(rows=600)
    state = torch.random.get_rng_state()
    fit_linear(X, targets, loss=bce, C=1.0, solver="adamw")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_start_is_taken_and_left_as_it_is(tight):
    X, targets = example()
    best = fit_linear(X, targets, loss=bce, C=1.0, max_iter=2000)
    kept = best.weight.clone(), best.bias.clone()
    again = fit_linear(X, targets, loss=bce, C=1.0, start=best, max_iter=1)
    np.testing.assert_allclose(again.weight.numpy(), best.weight.numpy(), atol=1e-3)
    assert objective(again, X, targets, bce, 1.0) == pytest.approx(objective(best, X, targets, bce, 1.0), rel=1e-5)
    fit_linear(X, targets, loss=bce, C=100.0, start=best)
    assert torch.equal(best.weight, kept[0])
    assert torch.equal(best.bias, kept[1])


@pytest.mark.parametrize("solver", ["lbfgs", "adamw"])
def test_progress_counts_from_one_and_the_loss_falls(solver):
    X, targets = example()
    heard = []
    fit_linear(X, targets, loss=bce, C=1.0, solver=solver, progress=lambda n, of, v, _: heard.append((n, of, v)))
    assert [n for n, _, _ in heard] == list(range(1, len(heard) + 1))
    assert {n <= of for n, of, _ in heard} == {True}
    assert len({of for _, of, _ in heard}) == 1
    assert heard[-1][2] < heard[0][2]
    if solver == "lbfgs":
        constants = module.best_constants(targets, bce).expand(len(X), -1)
        assert heard[0][2] < bce(constants, targets).item() / len(X)


def test_max_iter_bounds_lbfgs(tight):
    X, targets = example()
    heard = []
    short = fit_linear(X, targets, loss=bce, C=10.0, max_iter=2, progress=lambda n, of, v, _: heard.append(n))
    long = fit_linear(X, targets, loss=bce, C=10.0, max_iter=200)
    assert len(heard) < 30
    assert objective(long, X, targets, bce, 10.0) < objective(short, X, targets, bce, 10.0)


@pytest.mark.parametrize("solver", ["lbfgs", "adamw"])
def test_labels_never_and_always_positive_stay_finite(solver):
    X, targets = example()
    targets[:, 0], targets[:, 1] = False, True
    for loss in (bce, zlpr):
        model = fit_linear(X, targets, loss=loss, C=1.0, solver=solver)
        assert model.weight.isfinite().all()
        assert model.bias.isfinite().all()
        logits = model.logits(X).mean(0)
        assert logits[0] < -0.3
        assert logits[1] > 0.3


# The plan

ROWS, FEATURES, LABELS = 100_000, 50_000, 100


def plan(rows, features, labels, free=None, **options):
    return LinearLearner.planned(rows, features, labels, loss=bce, free=free, **options)


def test_plan_takes_lbfgs_mini_batches_or_refuses_by_free_memory():
    roomy = plan(ROWS, FEATURES, LABELS, free=10**12)
    assert (roomy.solver, roomy.memory.parameters, roomy.memory.free) == ("lbfgs", 50_001 * 100, 10**12)
    # The vectors of L-BFGS and the dense logits each within a quarter: ten steps, ten changes, six more.
    vectors = 4 * FEATURES * LABELS * 26
    assert roomy.memory.bytes >= vectors
    assert plan(ROWS, FEATURES, LABELS, free=4 * vectors).solver == "lbfgs"
    tight = plan(ROWS, FEATURES, LABELS, free=4 * vectors - 4)
    assert tight.solver == "adamw"
    assert tight.memory.bytes < roomy.memory.bytes
    least = plan(ROWS, FEATURES, LABELS, free=tight.memory.bytes)
    assert least.solver == "adamw"
    assert least.memory == Memory(
        "AdamW in mini-batches", roomy.memory.parameters, tight.memory.bytes, tight.memory.bytes
    )
    with pytest.raises(InputError, match=r"^the model needs about .* of memory for 50,000 features x 100 labels and "):
        plan(ROWS, FEATURES, LABELS, free=tight.memory.bytes - 1)
    # At the very least weights, gradient and two moments.
    assert tight.memory.bytes >= 4 * 4 * tight.memory.parameters


def test_plan_counts_the_logits_too():
    # Few weights and many rows: the dense logits decide.
    free = 10**9
    assert plan(1_000, 10, 100, free=free).solver == "lbfgs"
    many = plan(2_000_000, 10, 100, free=free)
    assert many.solver == "adamw"
    with pytest.raises(InputError, match="use fewer text columns or fewer labels, or a machine with more memory"):
        plan(20_000_000, 10, 100, free=free)


def test_plan_works_in_the_space_of_rows_where_that_is_smaller():
    assert plan(999, 2000, 5).by_rows
    assert not plan(1000, 2000, 5).by_rows
    rows = plan(1000, 10**6, 50, free=10**12)
    assert rows.memory.bytes < plan(500_000, 10**6, 50, free=10**12).memory.bytes / 20


def test_plan_goes_by_blocks_of_labels_where_all_together_need_too_much():
    joint = plan(10_000, 100_000, 5000, free=10**12, route="each label, then all", stand_in=True)
    assert joint.route == "each label, then all"
    blocks = plan(10_000, 100_000, 5000, free=10**10, route="each label, then all", stand_in=True)
    assert (blocks.solver, blocks.route) == ("lbfgs", "each label")
    assert blocks.memory.bytes < joint.memory.bytes
    assert "by blocks of labels on BCE" in blocks.memory.describe()
    # Of a loss that was asked for by name nothing stands in.
    named = plan(10_000, 100_000, 5000, free=2 * 10**10, route="each label, then all")
    assert named.solver == "adamw"


def test_plan_says_it_in_words():
    said = plan(ROWS, FEATURES, LABELS, free=64 * 10**9).memory.describe()
    assert said.startswith("5,000,100 weights, full-batch L-BFGS; fitting takes about ")
    assert said.endswith("beside the rows (64.0 GB free)")
    said = plan(ROWS, FEATURES, LABELS, free=10**9).memory.describe()
    assert said.startswith("5,000,100 weights, AdamW in mini-batches; fitting takes about ")
    assert said.endswith("beside the rows (1.0 GB free)")


def test_plan_asks_the_machine(monkeypatch):
    class Memory:
        available = 123_456

    monkeypatch.setattr("psutil.virtual_memory", Memory)
    assert plan(2, 2, 2).memory.free == 123_456
    with pytest.raises(InputError, match="1 MB are free"):
        plan(ROWS, FEATURES, LABELS)


@pytest.mark.parametrize(("size", "text"), [(0, "1 MB"), (12_345_678, "12 MB"), (10**9, "1.0 GB"), (25e9, "25.0 GB")])
def test_gigabytes(size, text):
    assert gigabytes(int(size)) == text


def test_biases_start_at_the_model_without_features():
    _, targets = example(rows=400, labels=12)
    found = module.best_constants(targets, zlpr)
    x = scipy.optimize.minimize(
        lambda b: zlpr(torch.from_numpy(b).expand(400, -1), targets).item() / 400, np.zeros(12), tol=1e-10
    ).x
    np.testing.assert_allclose(found, x, atol=0.02)


def test_few_rounds_find_the_level_that_all_biases_share():
    # Few rows, many labels, as cal500: from zero, 40 iterations left the mean logit far from that of the optimum.
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 30)).astype(np.float32)
    scores = X @ rng.normal(size=(30, 120)) * 0.3 - np.linspace(0.5, 4, 120)
    targets = torch.from_numpy(rng.random((300, 120)) < 1 / (1 + np.exp(-scores)))
    short, long = (fit_linear(X, targets, loss=zlpr, C=0.2, max_iter=n).logits(X) for n in (40, 2000))
    from_zero = Linear(torch.zeros(30, 120), torch.zeros(120))
    level = fit_linear(X, targets, loss=zlpr, C=0.2, start=from_zero, max_iter=40).logits(X).mean()
    assert abs(short.mean() - long.mean()) < 0.5 * abs(level - long.mean())
    assert abs(short.mean() - long.mean()) < 0.1
