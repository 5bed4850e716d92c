"""The formulas of the specification in float64, with loops, one row after the other.

Shares no code with the package: plain Python numbers and NumPy arrays in, the same out. Every loss returns its value
and its gradient with respect to the logits (of the sum of the values where nothing is reduced).
"""

import math
from itertools import product
from typing import Any, NamedTuple

import mpmath
import numpy as np

INF = math.inf


class Result(NamedTuple):
    value: np.ndarray
    gradient: np.ndarray


class Side(NamedTuple):
    """One of the two sums: its logarithm, its derivative with respect to each logit of the row, and its terms."""

    value: float
    gradient: np.ndarray
    exponents: dict[int, float]


# --- sums ------------------------------------------------------------------------------------------------------------


def lse(terms: list[float]) -> float:
    """log(sum(exp(term))), exactly summed."""
    peak = max(terms, default=-INF)
    if math.isinf(peak):
        return peak
    return peak + math.log(math.fsum(math.exp(term - peak) for term in terms))


def exact_lse(terms: list[float], digits: int = 40) -> float:
    """Compute the same with `digits` digits throughout."""
    with mpmath.workdps(digits):
        return float(mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(term)) for term in terms)))


def softplus(x: float) -> float:
    return x if x > 700 else math.log1p(math.exp(x))


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def logit(p: float) -> float:
    return math.log(p) - math.log1p(-p)


def softmax(exponents: dict[int, float], other: float = -INF) -> dict[int, float]:
    """Return the share of each term in the sum of all, `other` included; nothing where the sum is 0 or infinite."""
    peak = max([*exponents.values(), other])
    if math.isinf(peak):
        return {}
    # Shares of the largest term, not of the logarithm of the sum: that swallows log 2 once the terms are large.
    total = math.fsum(math.exp(x - peak) for x in [*exponents.values(), other])
    return {i: math.exp(x - peak) / total for i, x in exponents.items()}


def side(exponents: dict[int, float], direction: float, num_labels: int) -> Side:
    """Take the log-sum-exp of one side of a row; its derivative is `direction` times the softmax of its terms."""
    gradient = np.zeros(num_labels)
    for i, share in softmax(exponents).items():
        gradient[i] = direction * share
    return Side(lse(list(exponents.values())), gradient, exponents)


def is_known(target: float) -> bool:
    return not math.isnan(target) and target not in (-1.0, -100.0)


def full(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), shape)


def row_sides(
    s: np.ndarray,
    t: np.ndarray,
    known: np.ndarray,
    threshold: np.ndarray,
    weight: np.ndarray,
    scale: float,
    margin: float,
) -> tuple[Side, Side]:
    negatives: dict[int, float] = {}
    positives: dict[int, float] = {}
    for i in range(len(s)):
        if not known[i] or weight[i] == 0:
            continue
        if t[i] < 1:
            exponent = scale * (s[i] - threshold[i] + margin) + math.log1p(-t[i]) + math.log(weight[i])
            negatives[i] = float(exponent)
        if t[i] > 0:
            exponent = -scale * (s[i] - threshold[i] - margin) + math.log(t[i]) + math.log(weight[i])
            positives[i] = float(exponent)
    return side(negatives, scale, len(s)), side(positives, -scale, len(s))


# --- losses ----------------------------------------------------------------------------------------------------------


def zlpr_row(neg: Side, pos: Side) -> tuple[float, np.ndarray]:
    value = softplus(neg.value) + softplus(pos.value)
    return value, sigmoid(neg.value) * neg.gradient + sigmoid(pos.value) * pos.gradient


def pairwise_row(neg: Side, pos: Side) -> tuple[float, np.ndarray]:
    if -INF in (neg.value, pos.value):
        return 0.0, np.zeros_like(neg.gradient)
    both = neg.value + pos.value
    return softplus(both), sigmoid(both) * (neg.gradient + pos.gradient)


def single_log_row(neg: Side, pos: Side) -> tuple[float, np.ndarray]:
    # A label of a soft target has a term on both sides.
    n = len(neg.gradient)
    terms = neg.exponents | {n + i: x for i, x in pos.exponents.items()}
    value = lse([0.0, *terms.values()])
    gradient = np.zeros(2 * n)
    scale = float(np.abs(neg.gradient).sum() or np.abs(pos.gradient).sum())  # each side's softmax sums to it
    for i, share in softmax(terms, other=0.0).items():
        gradient[i] = scale * share if i < n else -scale * share
    return value, gradient[:n] + gradient[n:]


def row_wise(
    of_row: Any,
    logits: Any,
    targets: Any,
    *,
    threshold: Any = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    prior: Any = None,
    tau: float = 1.0,
    label_smoothing: float = 0.0,
    smoothing: str = "mass",
    mask: Any = None,
    label_weight: Any = None,
    sample_weight: Any = None,
    reduction: str = "mean",
) -> Result:
    s = np.asarray(logits, dtype=np.float64)
    shape, lead = s.shape, s.shape[:-1]
    t = np.asarray(targets, dtype=np.float64)
    allowed = np.broadcast_to(np.asarray(True if mask is None else mask), shape)
    known = np.array([is_known(float(x)) for x in t.ravel()], dtype=bool).reshape(shape) & allowed
    if label_smoothing:
        t = smooth_labels(t, label_smoothing, smoothing, allowed)
    if prior is not None:
        # s + tau/(2 scale) logit(prior): the offset is added to the logit.
        s = s + full([tau / (2 * scale) * logit(float(p)) for p in np.asarray(prior).ravel()], shape)
    thresholds, weights = full(threshold, shape), full(1.0 if label_weight is None else label_weight, shape)
    values, gradient = np.zeros(lead), np.zeros(shape)
    for row in np.ndindex(lead):
        neg, pos = row_sides(s[row], t[row], known[row], thresholds[row], weights[row], scale, margin)
        values[row], gradient[row] = of_row(neg, pos)
    return reduce(values, gradient, np.asarray(known.any(-1)), sample_weight, reduction)


def subset(
    logits: Any,
    targets: Any,
    *,
    min_labels: Any = 0,
    max_labels: Any = None,
    threshold: Any = 0.0,
    mask: Any = None,
    sample_weight: Any = None,
    reduction: str = "mean",
) -> Result:
    """Write out all label sets of each row: 2^labels of them."""
    s = np.asarray(logits, dtype=np.float64) - np.asarray(threshold, dtype=np.float64)
    shape, lead = s.shape, s.shape[:-1]
    t = np.asarray(targets, dtype=np.float64)
    allowed = np.broadcast_to(np.asarray(True if mask is None else mask), shape)
    known = np.array([is_known(float(x)) for x in t.ravel()], dtype=bool).reshape(shape) & allowed
    low = np.broadcast_to(np.asarray(min_labels), lead)
    high = np.broadcast_to(np.asarray(shape[-1] if max_labels is None else max_labels), lead)
    values, gradient = np.zeros(lead), np.zeros(shape)
    for row in np.ndindex(lead):
        left = [i for i in range(shape[-1]) if known[row][i]]
        values[row], slopes = subset_row([float(s[row][i]) for i in left], [float(t[row][i]) for i in left],
                                         int(low[row]), int(high[row]))  # fmt: skip
        for i, slope in zip(left, slopes, strict=True):
            gradient[(*row, i)] = slope
    return reduce(values, gradient, np.asarray(known.any(-1)), sample_weight, reduction)


def subset_row(s: list[float], t: list[float], low: int, high: int) -> tuple[float, list[float]]:
    """Take the negative log-likelihood of one row; a label at +inf is in every set, one at -inf in none."""
    if any(math.isnan(x) for x in s):
        return math.nan, [math.nan] * len(s)
    if any((x == INF and y != 1) or (x == -INF and y != 0) for x, y in zip(s, t, strict=True)):
        value = INF
    else:
        value = 0.0
    if len(s) > 10:
        # Sets of any size factorise, and these are too many to write out.
        assert low == 0
        assert high >= len(s)
        inside = [sigmoid(x) - y if y < 1 else -sigmoid(-x) for x, y in zip(s, t, strict=True)]
        return math.fsum(softplus(x) - y * x for x, y in zip(s, t, strict=True)), inside
    certain = [i for i, x in enumerate(s) if x == INF]
    free = [i for i, x in enumerate(s) if not math.isinf(x)]
    exponents: dict[int, float] = {}
    for bits in range(1 << len(free)):
        size = bits.bit_count() + len(certain)
        if low <= size <= high:
            # Measured from the targets' own set, so that large logits keep their digits.
            exponents[bits] = math.fsum((float(bits >> j & 1) - t[i]) * s[i] for j, i in enumerate(free))
    shares = softmax(exponents)
    slopes = [0.0] * len(s)
    for j, i in enumerate(free):
        inside = math.fsum(share for bits, share in shares.items() if bits >> j & 1)
        outside = math.fsum(share for bits, share in shares.items() if not bits >> j & 1)
        slopes[i] = inside - t[i] if t[i] < 1 else -outside
    return value + lse(list(exponents.values())), slopes


def reduce(values: np.ndarray, gradient: np.ndarray, counts: np.ndarray, sample_weight: Any, reduction: str) -> Result:
    weight = full(1.0 if sample_weight is None else sample_weight, values.shape).copy()
    total, denominator = 0.0, 0.0
    weighted = np.zeros_like(values)
    gradient = gradient.copy()
    for row in np.ndindex(values.shape):
        if not counts[row]:
            weight[row] = 0.0
        weighted[row] = values[row] * weight[row] if weight[row] else 0.0
        gradient[row] *= weight[row]
        total += weighted[row]
        denominator += weight[row]
    if reduction == "none":
        return Result(weighted, gradient)
    if reduction == "sum":
        return Result(np.asarray(total), gradient)
    denominator = denominator or 1.0
    return Result(np.asarray(total / denominator), gradient / denominator)


def zlpr(logits: Any, targets: Any, **options: Any) -> Result:
    return row_wise(zlpr_row, logits, targets, **options)


def pairwise(logits: Any, targets: Any, **options: Any) -> Result:
    return row_wise(pairwise_row, logits, targets, **options)


def single_log(logits: Any, targets: Any, **options: Any) -> Result:
    return row_wise(single_log_row, logits, targets, **options)


def signed_logsumexp(
    logits: Any,
    targets: Any,
    *,
    threshold: Any = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    mask: Any = None,
    label_weight: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values of both sums, a row each."""
    found: list[float] = []

    def keep(neg: Side, pos: Side) -> tuple[float, np.ndarray]:
        found.extend((neg.value, pos.value))
        return 0.0, np.zeros_like(neg.gradient)

    options = {"threshold": threshold, "scale": scale, "margin": margin, "mask": mask, "label_weight": label_weight}
    row_wise(keep, logits, targets, **options)
    lead = np.shape(logits)[:-1]
    return np.reshape(found[0::2], lead), np.reshape(found[1::2], lead)


def binary_cross_entropy(logits: Any, targets: Any) -> np.ndarray:
    """Sum over the labels of each row; 0/1 targets."""
    rows = zip(np.asarray(logits, np.float64), np.asarray(targets, np.float64), strict=True)
    return np.array([math.fsum(softplus(-x if y else x) for x, y in zip(s, t, strict=True)) for s, t in rows])


def multiway(
    logits: Any, targets: Any, *, form: str = "pairwise", over: Any = None, mask: Any = None, reduction: str = "mean"
) -> Result:
    """Add up the tasks of each row inside the logarithms; the tasks are the axes `over`, all but the last for None."""
    s, t = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    lead, m = s.shape[:-1], s.shape[-1]
    axes = tuple(range(len(lead))) if over is None else tuple(np.atleast_1d(np.asarray(over, dtype=int)) % s.ndim)
    shares, known = np.zeros(s.shape), np.array(np.broadcast_to(np.asarray(True if mask is None else mask), lead))
    for task in np.ndindex(lead):
        if t.ndim == len(lead):
            known[task] &= t[task] not in (-1, -100)
            if known[task]:
                shares[(*task, int(t[task]))] = 1.0
        else:
            known[task] &= any(is_known(float(x)) for x in t[task])
            shares[task] = t[task] if known[task] else 0.0
    ends = tuple(range(len(lead) - len(axes), len(lead)))
    s, shares, known = np.moveaxis(s, axes, ends), np.moveaxis(shares, axes, ends), np.moveaxis(known, axes, ends)
    rows = s.shape[: len(lead) - len(axes)]
    values, gradient, counts = np.zeros(rows), np.zeros(s.shape), np.zeros(rows, dtype=int)
    for row in np.ndindex(rows):
        of_row = gradient[row]
        for terms in multiway_logs(s[row].reshape(-1, m), shares[row].reshape(-1, m), form):
            exponents = {position: exponent for position, (exponent, _) in enumerate(terms)}
            values[row] += softplus(lse(list(exponents.values())))
            for position, share in softmax(exponents, other=0.0).items():
                for (i, k), slope in terms[position][1].items():
                    of_row.reshape(-1, m)[i, k] += share * slope
        counts[row] = known[row].sum()
    result = reduce(values, gradient, counts, None, reduction)
    return Result(result.value, np.moveaxis(result.gradient, ends, axes))


def multiway_logs(s: np.ndarray, t: np.ndarray, form: str) -> list[list[tuple[float, dict[tuple[int, int], float]]]]:
    """List the logarithms, each as its terms: the exponent, and its derivative by logits (task, class)."""
    n, m = s.shape
    logs = []
    for j in range(m):
        of_class = []
        for k in range(m):
            if k == j and form != "mean_centred":
                continue
            if form == "mean_centred" and k > 0:
                continue
            terms = []
            for i in range(n):
                if t[i, j] == 0:
                    continue
                if form == "mean_centred":
                    exponent = mean_gap(s[i], j)
                    slope = {(i, c): 1 / m - (c == j) for c in range(m)}
                else:
                    exponent = -INF if s[i, k] == s[i, j] and math.isinf(s[i, j]) else float(s[i, k] - s[i, j])
                    slope = {(i, k): 1.0, (i, j): -1.0}
                terms.append((math.log(t[i, j]) + exponent, slope))
            of_class.append(terms)
        logs += of_class if form == "pairwise" else [[term for terms in of_class for term in terms]]
    return logs


def mean_gap(s: np.ndarray, j: int) -> float:
    """mean_k s_k - s_j, in the limit where some are infinite; -inf where all are equal infinities."""
    if s[j] == INF or (s == -INF).all():
        return -INF
    if s[j] == -INF or (s == INF).any():
        return INF
    return float(np.mean(s) - s[j])


# --- spans: (start, end, type), end exclusive -------------------------------------------------------------------------


def span(
    scores: Any,
    spans: Any,
    *,
    lengths: Any = None,
    max_width: int | None = None,
    threshold: Any = 0.0,
    scale: float = 1.0,
    margin: float = 0.0,
    type_weight: Any = None,
    sample_weight: Any = None,
    triangle: bool = True,
    reduction: str = "mean",
) -> Result:
    """Walk over every cell of (rows, types, length, length); without the triangle spans are pairs of tokens."""
    s = np.asarray(scores, dtype=np.float64)
    rows, types, length, _ = s.shape
    thresholds = full(threshold, (types,))
    values, gradient = np.zeros((rows, types)), np.zeros(s.shape)
    known = np.zeros((rows, types), dtype=bool)
    for b, t in np.ndindex(rows, types):
        gold = {(i, j - triangle) for i, j, kind in spans[b] if kind == t}
        tokens = length if lengths is None else int(lengths[b])
        sides: tuple[dict[int, float], dict[int, float]] = ({}, {})
        for i, j in product(range(tokens), repeat=2):
            if triangle and (i > j or (max_width is not None and j - i + 1 > max_width)):
                continue
            gap, sign = s[b, t, i, j] - thresholds[t], -1 if (i, j) in gold else 1
            sides[sign < 0][i * length + j] = float(sign * scale * (gap + sign * margin))
        neg, pos = (side(x, direction, length**2) for x, direction in zip(sides, (scale, -scale), strict=True))
        values[b, t], slope = zlpr_row(neg, pos)
        gradient[b, t] = slope.reshape(length, length)
        known[b, t] = tokens > 0
    weight = full(1.0 if type_weight is None else type_weight, (rows, types))
    if sample_weight is not None:
        given = np.asarray(sample_weight, dtype=np.float64)
        weight = weight * (given[:, None] if given.ndim == 1 else given)
    return reduce(values, gradient, known, weight, reduction)


def decide_spans(
    scores: Any, tokens: int, *, flat: bool = False, threshold: Any = 0.0, min_spans: int = 0,
    max_spans: int | None = None, max_width: int | None = None,
) -> list[tuple[int, int, int]]:  # fmt: skip
    """Choose from (types, length, length) of one row, one cell after the other."""
    s = np.asarray(scores, dtype=np.float64)
    types = s.shape[0]
    level = full(threshold, (types,))
    cells = []
    for t, i, j in np.ndindex(types, tokens, tokens):
        gap = float(s[t, i, j] - level[t])
        if i <= j and not math.isnan(gap) and gap != -INF and (max_width is None or j - i < max_width):
            cells.append((-gap, i, j + 1, t))
    chosen: list[tuple[int, int, int]] = []
    for gap, i, end, t in sorted(cells):
        if gap >= 0 and len(chosen) >= min_spans:
            break
        if max_spans is not None and len(chosen) == max_spans:
            break
        if not flat or all(set(range(i, end)).isdisjoint(range(*other[:2])) for other in chosen):
            chosen.append((i, end, t))
    return chosen


def decide_boundaries(starts: Any, ends: Any, tokens: int) -> set[tuple[int, int, int]]:
    """Walk from each start of (types, length) to the right until an end or the next start."""
    found = set()
    for t in range(len(starts)):
        for i in range(tokens):
            if starts[t][i] <= 0:
                continue
            for j in range(i, tokens):
                if j > i and starts[t][j] > 0:
                    break
                if ends[t][j] > 0:
                    found.add((i, j + 1, t))
                    break
    return found


def span_f1(preds: Any, targets: Any, keep: Any = lambda span: True) -> tuple[float, float, float]:
    """Return precision, recall and F1 of the spans that `keep` keeps, by sets of (row, start, end, type)."""
    p, t = ({(r, *s[:3]) for r, row in enumerate(x) for s in row if keep(s)} for x in (preds, targets))
    right = len(p & t)
    return right / len(p) if p else 0.0, right / len(t) if t else 0.0, 2 * right / (len(p) + len(t)) if p or t else 0.0


def decide_triples(spans: Any, head: Any, tail: Any, threshold: Any = 0.0) -> dict[tuple[Any, int, Any], float]:
    """Return the triples of a row whose two scores are above the threshold of their relation, with the lower one."""
    found = {}
    for s in spans:
        for r in range(len(head)):
            level = float(threshold[r]) if hasattr(threshold, "__len__") else threshold
            for o in spans:
                score = min(head[r][s[0]][o[0]], tail[r][s[1] - 1][o[1] - 1])
                if score > level:
                    found[tuple(s[:3]), r, tuple(o[:3])] = score
    return found


def triple_numbers(preds: Any, targets: Any, relations: int) -> dict[str, float | None]:
    """Return numbers of triples by sets of (row, subject, relation, object)."""

    def f1(p: set, t: set) -> float:
        return 2 * len(p & t) / (len(p) + len(t)) if p or t else 0.0

    p, t = ({(r, *triple[:3]) for r, row in enumerate(x) for triple in row} for x in (preds, targets))
    each = {k: f1({x for x in p if x[2] == k}, {x for x in t if x[2] == k}) for k in range(relations)}
    there = {x[2] for x in t}
    borders = [{(r, s[:2], k, o[:2]) for r, s, k, o in x} for x in (p, t)]
    pair, entity = [], []
    for r, s, k, o in t:
        others = [x for x in t if x[0] == r and x != (r, s, k, o)]
        if any({x[1], x[3]} == {s, o} for x in others):
            pair.append((r, s, k, o) in p)
        elif any({x[1], x[3]} & {s, o} for x in others):
            entity.append((r, s, k, o) in p)
    rows = len(preds)
    same = sum({x for x in p if x[0] == r} == {x for x in t if x[0] == r} for r in range(rows))
    return {
        "micro_precision": len(p & t) / len(p) if p else 0.0,
        "micro_recall": len(p & t) / len(t) if t else 0.0,
        "micro_f1": f1(p, t),
        "macro_f1": sum(each[k] for k in there) / len(there) if there else 0.0,
        "rare_f1": each[0] if 0 in there else None,
        "medium_f1": each[1] if 1 in there else None,
        "head_f1": each[2] if 2 in there else None,
        "boundary_f1": f1(*borders),
        "pair_overlap_recall": sum(pair) / len(pair) if pair else None,
        "entity_overlap_recall": sum(entity) / len(entity) if entity else None,
        "exact_match": same / rows,
        "triples_per_row_predicted": len(p) / rows,
        "triples_per_row_true": len(t) / rows,
        "empty_rows": sum(not any(x[0] == r for x in p) for r in range(rows)) / rows,
    }


# --- losses that are a sum over labels, and the rivals ---------------------------------------------------------------


def log_sigmoid(x: float) -> float:
    return -softplus(-x)


def power(base_log: float, exponent: float) -> float:
    """e^(exponent * base_log), 1 for the exponent 0."""
    return math.exp(exponent * base_log) if exponent else 1.0


def focal_side(s: float, gamma: float) -> tuple[float, float]:
    """-(1-p)^gamma log p and its derivative, p = sigmoid(s)."""
    if math.isinf(s):
        return (0.0 if s > 0 else INF), 0.0
    factor = power(log_sigmoid(-s), gamma)
    loss = -log_sigmoid(s)
    # d(1-p)^gamma = -gamma p (1-p)^gamma and d log p = 1-p
    return factor * loss, -gamma * sigmoid(s) * factor * loss - factor * sigmoid(-s)


def clipped_side(s: float, gamma: float, clip: float) -> tuple[float, float]:
    """-q^gamma log(1-q) and its derivative, q = max(p - clip, 0), with forty digits: p - clip loses its own."""
    with mpmath.workdps(40):
        x, m = mpmath.mpf(s), mpmath.mpf(clip)
        p = 1 / (1 + mpmath.exp(-x)) if x != -INF else mpmath.mpf(0)
        q = p - m
        if q <= 0:
            return 0.0, 0.0
        loss = -(q**gamma) * mpmath.log(1 - q)
        if math.isinf(s):
            return float(loss), 0.0
        slope = (-gamma * q ** (gamma - 1) * mpmath.log(1 - q) + q**gamma / (1 - q)) * p * (1 - p)
        return float(loss), float(slope)


def label_wise(
    positive: Any,
    negative: Any,
    logits: Any,
    targets: Any,
    *,
    mask: Any = None,
    label_weight: Any = None,
    sample_weight: Any = None,
    reduction: str = "mean",
    over_weight: bool = False,
) -> Result:
    """Sum w (t positive + (1-t) negative) over a row, each a function (s, label) -> (value, derivative)."""
    s, t = np.asarray(logits, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    allowed = np.broadcast_to(np.asarray(True if mask is None else mask), s.shape)
    weights = full(1.0 if label_weight is None else label_weight, s.shape)
    values, gradient, counts = np.zeros(s.shape[:-1]), np.zeros(s.shape), np.zeros(s.shape[:-1], dtype=bool)
    for row in np.ndindex(s.shape[:-1]):
        total = 0.0
        for i in range(s.shape[-1]):
            if not allowed[row][i] or not is_known(float(t[row][i])):
                continue
            counts[row] = True
            if not weights[row][i]:
                continue
            total += weights[row][i]
            for share, term in ((t[row][i], positive), (1 - t[row][i], negative)):
                if share:
                    value, slope = term(float(s[row][i]), i)
                    values[row] += weights[row][i] * share * value
                    gradient[(*row, i)] += weights[row][i] * share * slope
        if over_weight and total:
            values[row] /= total
            gradient[row] /= total
    return reduce(values, gradient, counts, sample_weight, reduction)


def bce(
    logits: Any, targets: Any, *, pos_weight: Any = 1.0, prior: Any = None, tau: float = 1.0, **options: Any
) -> Result:
    s = np.asarray(logits, dtype=np.float64)
    if prior is not None:
        s = s + full([tau * logit(float(p)) for p in np.asarray(prior).ravel()], s.shape)
    c = full(pos_weight, s.shape[-1:])

    def positive(x: float, i: int) -> tuple[float, float]:
        value, slope = focal_side(x, 0.0)
        return (c[i] * value, c[i] * slope) if c[i] else (0.0, 0.0)

    return label_wise(positive, lambda x, i: mirrored(focal_side(-x, 0.0)), s, targets, **options)


def mirrored(side: tuple[float, float]) -> tuple[float, float]:
    return side[0], -side[1]


def focal(logits: Any, targets: Any, *, gamma: float = 2.0, alpha: float | None = None, **options: Any) -> Result:
    a, b = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)

    def positive(x: float, i: int) -> tuple[float, float]:
        value, slope = focal_side(x, gamma)
        return a * value, a * slope

    def negative(x: float, i: int) -> tuple[float, float]:
        value, slope = focal_side(-x, gamma)
        return b * value, -b * slope

    return label_wise(positive, negative, logits, targets, **options)


def asymmetric(
    logits: Any,
    targets: Any,
    *,
    gamma_pos: float = 1.0,
    gamma_neg: float = 4.0,
    clip: float = 0.05,
    **options: Any,
) -> Result:
    def negative(x: float, i: int) -> tuple[float, float]:
        return clipped_side(x, gamma_neg, clip) if clip else mirrored(focal_side(-x, gamma_neg))

    return label_wise(lambda x, i: focal_side(x, gamma_pos), negative, logits, targets, **options)


def smooth_accuracy(logits: Any, targets: Any, **options: Any) -> Result:
    def right(x: float, i: int) -> tuple[float, float]:
        return -sigmoid(x), -sigmoid(x) * sigmoid(-x)

    def wrong(x: float, i: int) -> tuple[float, float]:
        return -sigmoid(-x), sigmoid(x) * sigmoid(-x)

    return label_wise(right, wrong, logits, targets, over_weight=True, **options)


def tversky(
    logits: Any,
    targets: Any,
    *,
    alpha: float = 0.5,
    beta: float = 0.5,
    smooth: float = 1.0,
    mask: Any = None,
    label_weight: Any = None,
    sample_weight: Any = None,
    reduction: str = "mean",
) -> Result:
    s, t = np.asarray(logits, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    allowed = np.broadcast_to(np.asarray(True if mask is None else mask), s.shape)
    weights = full(1.0 if label_weight is None else label_weight, s.shape)
    values, gradient, counts = np.zeros(s.shape[:-1]), np.zeros(s.shape), np.zeros(s.shape[:-1], dtype=bool)
    for row in np.ndindex(s.shape[:-1]):
        known = [i for i in range(s.shape[-1]) if allowed[row][i] and is_known(float(t[row][i]))]
        counts[row] = bool(known)
        used = [i for i in known if weights[row][i]]
        w, p = weights[row], [sigmoid(float(x)) for x in s[row]]
        hits = math.fsum(w[i] * t[row][i] * p[i] for i in used)
        false_positives = math.fsum(w[i] * (1 - t[row][i]) * p[i] for i in used)
        misses = math.fsum(w[i] * t[row][i] * sigmoid(-float(s[row][i])) for i in used)
        total = hits + alpha * false_positives + beta * misses + smooth
        values[row] = 1 - (hits + smooth) / total if total else 1.0
        for i in used:
            slope = w[i] * p[i] * sigmoid(-float(s[row][i]))
            d_hits = t[row][i]
            d_total = t[row][i] + alpha * (1 - t[row][i]) - beta * t[row][i]
            if total:
                gradient[(*row, i)] = -slope * (d_hits * total - (hits + smooth) * d_total) / total**2
    return reduce(values, gradient, counts, sample_weight, reduction)


# --- targets ---------------------------------------------------------------------------------------------------------


def smooth_labels(targets: Any, epsilon: float, smoothing: str = "mass", mask: Any = None) -> np.ndarray:
    t = np.asarray(targets, dtype=np.float64)
    allowed = np.broadcast_to(np.asarray(True if mask is None else mask), t.shape)
    smoothed = np.full(t.shape, math.nan)
    for row in np.ndindex(t.shape[:-1]):
        known = [i for i in range(t.shape[-1]) if allowed[row][i] and is_known(float(t[row][i]))]
        k = sum(t[row][i] for i in known)
        for i in known:
            guess = 0.5 if smoothing == "uniform" else k / len(known)
            smoothed[(*row, i)] = (1 - epsilon) * t[row][i] + epsilon * guess
    return smoothed


# --- decisions -------------------------------------------------------------------------------------------------------


def ranked(scores: list[float]) -> list[int]:
    """Order the labels from the best down, ties by index; NaN and -inf are left out."""
    candidates = [i for i, score in enumerate(scores) if not math.isnan(score) and score != -INF]
    return sorted(candidates, key=lambda i: (-scores[i], i))


def top_k(scores: list[float], k: int) -> list[int]:
    best = set(ranked(scores)[:k])
    return [int(i in best) for i in range(len(scores))]


def decide(
    scores: list[float], threshold: list[float], min_labels: int = 0, max_labels: int | None = None
) -> list[int]:
    """Take the labels above their threshold, then fill up or cut in the order of score - threshold."""
    above = [score - s0 for score, s0 in zip(scores, threshold, strict=True)]
    order = ranked(above)
    count = max(min_labels, sum(above[i] > 0 for i in order))
    if max_labels is not None:
        count = min(max_labels, count)
    chosen = set(order[:count])
    return [int(i in chosen) for i in range(len(scores))]


# --- splits ----------------------------------------------------------------------------------------------------------


def can_cover(targets: np.ndarray, parts: int) -> bool:
    """Say whether any assignment of rows puts every label with enough rows into every part; tries them all."""
    due = [i for i in range(targets.shape[1]) if targets[:, i].sum() >= parts]
    return any(
        all({assignment[r] for r in np.flatnonzero(targets[:, i])} == set(range(parts)) for i in due)
        for assignment in product(range(parts), repeat=targets.shape[0])
    )
