"""The losses in JAX: the table of cases under jit, in both precisions, the transforms, and the decision."""

# pyright: reportMissingImports=false

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import manyhot
from framework_cases import CASES, FrameworkCase, check
from framework_leaves import in_jax

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

import jax.numpy as jnp  # noqa: E402

import manyhot.jax as leaf  # noqa: E402
from manyhot.boosting import ZLPRObjective  # noqa: E402


@pytest.fixture
def x64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_value_and_gradient(case: FrameworkCase) -> None:
    check(case, *in_jax(case), "float32")


@pytest.mark.parametrize("name", ["hard", "soft", "unknown", "prior", "label weight", "infinite"])
def test_double_precision(name: str, x64: None) -> None:
    case = CASES[name]
    case = case._replace(logits=case.logits.astype(np.float64), labels=case.labels.astype(np.float64))
    check(case, *in_jax(case), "float64")


@pytest.mark.parametrize("loss", ["pairwise", "single_log"])
@pytest.mark.parametrize("name", ["hard", "soft", "unknown", "infinite", "all positive", "all negative", "one label"])
def test_the_siblings(name: str, loss: str, x64: None) -> None:
    case = CASES[name]
    case = case._replace(logits=case.logits.astype(np.float64), labels=case.labels.astype(np.float64))
    check(case, *in_jax(case, loss), "float64", loss)


def test_float64_is_float32_unless_it_is_turned_on() -> None:
    case = CASES["hard"]
    assert leaf.zlpr(case.logits.astype(np.float64), case.labels).dtype == jnp.float32
    half = jax.grad(lambda s: leaf.zlpr(s, case.labels).sum())(jnp.asarray(case.logits, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_transforms(x64: None) -> None:
    case = CASES["soft"]
    s, t = jnp.asarray(case.logits[:3], jnp.float64), jnp.asarray(case.labels[:3], jnp.float64)
    whole = leaf.zlpr(s, t)
    np.testing.assert_allclose(jax.vmap(leaf.zlpr)(s, t), whole, rtol=1e-14)
    value = jax.jit(lambda s, t, scale, margin: leaf.zlpr(s, t, scale=scale, margin=margin))(s, t, 1.0, 0.0)
    np.testing.assert_allclose(value, whole, rtol=1e-14)
    of_rows = lambda s: leaf.zlpr(s, t).sum()  # noqa: E731
    plain, saved = jax.grad(of_rows)(s), jax.grad(jax.checkpoint(of_rows))(s)
    np.testing.assert_allclose(saved, plain, rtol=1e-12)
    hessian = jax.hessian(lambda s: leaf.zlpr(s, t[0]))(s[0])
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-15)
    _, _, diagonal = ZLPRObjective().derivatives(np.asarray(t[:1]), np.asarray(s[:1]))
    np.testing.assert_allclose(np.diag(hessian), diagonal[0], atol=1e-14)


def test_masks_and_weights_are_those_of_torch() -> None:
    case = CASES["soft"]
    chance = np.random.default_rng(0)
    mask, weight = chance.random(case.logits.shape) < 0.7, chance.integers(0, 3, len(case.logits)).astype(np.float32)
    mask[4] = False
    ours = leaf.zlpr(case.logits, case.labels, where=mask, sample_weight=weight)
    right = manyhot.zlpr_loss(
        torch.from_numpy(case.logits), torch.from_numpy(case.labels), mask=torch.from_numpy(mask),
        sample_weight=torch.from_numpy(weight), reduction="none",
    )  # fmt: skip
    np.testing.assert_allclose(ours, right.numpy(), rtol=1e-6)
    infinite = jnp.array([[jnp.inf, 1.0]])
    gradient = jax.grad(lambda s: leaf.zlpr(s, jnp.zeros((1, 2)), sample_weight=0.0).sum())(infinite)
    assert gradient.tolist() == [[0, 0]]


@pytest.mark.parametrize("limits", [(0, None), (1, None), (1, 3), (0, 3), (2, 2), (14, 20)])
@pytest.mark.parametrize("threshold", [0.0, 0.5, "label"])
def test_decisions_are_those_of_decide(limits: tuple[int, int | None], threshold: Any) -> None:
    s = np.round(CASES["hard"].logits, 0)  # ties
    s[0], s[1], s[2, :5], s[3, ::2], s[4] = 0, -np.inf, np.nan, np.inf, np.nan
    threshold = np.linspace(-1, 1, 14, dtype=np.float32) if threshold == "label" else threshold
    options: Any = {"threshold": threshold, "min_labels": limits[0], "max_labels": limits[1]}
    found = leaf.decide(s, **options)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, manyhot.decide(s, **options))
    with jax.debug_nans(False):
        np.testing.assert_array_equal(jax.jit(lambda s: leaf.decide(s, **options))(s), found)


def test_arrays_of_jax_are_decided_and_measured() -> None:
    logits = jnp.array([[2.0, -1.0, 3.0], [-3.0, -1.0, -2.0]])
    assert manyhot.decide(np.asarray(logits), min_labels=1).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_it_trains_with_optax() -> None:
    chance = np.random.default_rng(0)
    X = chance.standard_normal((400, 8)).astype(np.float32)
    Y = (X @ chance.standard_normal((8, 6)) + 0.5 * chance.standard_normal((400, 6)) > 1).astype(np.int32)
    params, optimizer = {"W": jnp.zeros((8, 6)), "b": jnp.zeros(6)}, optax.adam(0.05)
    prior = manyhot.label_prior(Y)

    def loss(params: Any) -> Any:
        return leaf.zlpr(X @ params["W"] + params["b"], Y, prior=prior).mean()

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        value, gradient = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    state, values = optimizer.init(params), []
    for _ in range(100):
        params, state, value = step(params, state)
        values.append(float(value))
    assert values[-1] < values[0] / 2
    logits = np.asarray(X @ params["W"] + params["b"])
    micro: Any = manyhot.multilabel_metrics(manyhot.decide(logits), Y, logits)["micro_f1"]
    assert micro > 0.85


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: leaf.zlpr(jnp.zeros((2, 3)), jnp.zeros((2,))), "one_hot"),
        (lambda: leaf.zlpr(jnp.zeros((2, 3), int), jnp.zeros((2, 3))), "raw scores"),
        (lambda: leaf.zlpr(jnp.zeros((2, 3)), jnp.zeros((2, 3)), scale=0), "scale must be positive"),
        (lambda: leaf.zlpr(jnp.zeros((2, 3)), jnp.zeros((2, 3)), margin=-1.0), "margin must be 0 or more"),
        (lambda: leaf.decide(jnp.zeros((2, 3)), min_labels=2, max_labels=1), "min_labels <= max_labels"),
    ],
)
def test_errors_say_what_to_do(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
