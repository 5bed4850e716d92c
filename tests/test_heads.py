"""Heads: rotary positions, the two pointers, the tagger, and that they learn spans inside each other."""

import math

import pytest
import torch
from torch import Tensor

import manyhot
from manyhot import BoundaryTagger, EfficientSpanPointer, SpanPointer, SpanTargets, rotary

Spans = list[list[tuple[int, int, int]]]


def test_rotary_depends_on_the_distance_alone(generator: torch.Generator) -> None:
    q, k = (torch.randn(8, generator=generator).expand(30, 8) for _ in range(2))
    products = rotary(q) @ rotary(k).mT
    for distance in range(-29, 30):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), rtol=1e-5, atol=1e-5)
    assert products[0, 0] != products[0, 9]
    torch.testing.assert_close(rotary(q, start=7) @ rotary(k, start=7).mT, products, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rotary(q, start=7)[:-7], rotary(q)[7:])


def test_rotary_turns_each_pair_by_its_angle(generator: torch.Generator) -> None:
    x = torch.randn(2, 5, 6, generator=generator, dtype=torch.float64)
    got = rotary(x, base=100.0)
    for i in range(5):
        for m in range(3):
            angle = i * 100.0 ** (-2 * m / 6)
            a, b = x[:, i, 2 * m], x[:, i, 2 * m + 1]
            torch.testing.assert_close(got[:, i, 2 * m], a * math.cos(angle) - b * math.sin(angle))
            torch.testing.assert_close(got[:, i, 2 * m + 1], a * math.sin(angle) + b * math.cos(angle))
    torch.testing.assert_close(got.norm(dim=-1), x.norm(dim=-1))


def test_rotary_of_half_types_and_far_positions(generator: torch.Generator) -> None:
    x = torch.randn(4, 8, generator=generator, dtype=torch.float64)
    for dtype, limit in ((torch.float16, 2e-3), (torch.bfloat16, 2e-2), (torch.float32, 1e-6)):
        for start in (0, 100_000):
            got = rotary(x.to(dtype), start=start)
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), rotary(x, start=start), rtol=limit, atol=limit)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                assert torch.equal(rotary(x.to(dtype), start=start), got)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 5), ValueError, r"an even size; got \(3, 5\)"),
        (torch.zeros(4), ValueError, r"got \(4,\)"),
        (torch.zeros(3, 4).int(), TypeError, "floating-point"),
        ([1.0], TypeError, "floating-point"),
    ],
)
def test_rotary_refuses(x: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rotary(x)


def test_shapes_and_devices_of_heads() -> None:
    hidden = torch.randn(2, 5, 12)
    scores = EfficientSpanPointer(12, 3, size=4)(hidden)
    assert [tuple(x.shape) for x in scores] == [(2, 5, 5), (2, 3, 5), (2, 3, 5)]
    assert SpanPointer(12, 3, size=4)(hidden).shape == (2, 3, 5, 5)
    assert [tuple(x.shape) for x in BoundaryTagger(12, 3)(hidden)] == [(2, 3, 5)] * 2
    for head in (EfficientSpanPointer, SpanPointer):
        with pytest.raises(ValueError, match="even with rotary positions; got 5"):
            head(12, 3, size=5)
        head(12, 3, size=5, rotary=False)(hidden)


def test_efficient_pointer_is_a_pointer_of_shared_queries_and_rank_one_parts(generator: torch.Generator) -> None:
    # A query (q sqrt(ratio), a_t, 1) and a key (k, 1, b_t) of two more numbers.
    features, types, size = 6, 3, 4
    hidden = torch.randn(2, 5, features, generator=generator, dtype=torch.float64)
    small = EfficientSpanPointer(features, types, size=size, rotary=False).double()
    large = SpanPointer(features, types, size=size + 2, rotary=False).double()
    ratio = math.sqrt((size + 2) / size)
    with torch.no_grad():
        weight = large.pair.weight.view(types, 2, size + 2, features).zero_()
        bias = large.pair.bias.view(types, 2, size + 2).zero_()
        query, key = small.pair.weight.chunk(2)
        query_bias, key_bias = small.pair.bias.chunk(2)
        weight[:, 0, :size], bias[:, 0, :size] = ratio * query, ratio * query_bias
        weight[:, 1, :size], bias[:, 1, :size] = key, key_bias
        root = math.sqrt(size + 2)
        weight[:, 0, size], bias[:, 1, size] = root * small.start.weight, 1.0
        weight[:, 1, size + 1], bias[:, 0, size + 1] = root * small.end.weight, 1.0
        large.bias.copy_(small.end.bias)
    torch.testing.assert_close(large(hidden), small(hidden).dense())


def test_rotary_is_in_the_pointers(generator: torch.Generator) -> None:
    hidden = torch.randn(1, 5, 6, generator=generator, dtype=torch.float64)
    head = EfficientSpanPointer(6, 2, size=4).double()
    query, key = head.pair(hidden).chunk(2, -1)
    torch.testing.assert_close(head(hidden).pair, rotary(query) @ rotary(key).mT / 2)
    pointer = SpanPointer(6, 2, size=4).double()
    both = pointer.pair(hidden).view(1, 5, 2, 8).transpose(1, 2)
    want = rotary(both[..., :4]) @ rotary(both[..., 4:]).mT / 2 + pointer.bias.view(1, 2, 1, 1)
    torch.testing.assert_close(pointer(hidden), want)


def test_start_at_sets_the_bias_of_each_type() -> None:
    share = torch.tensor([0.5, 0.01, 1e-6])
    half = 0.5 * torch.logit(share.double()).float()
    for head in (EfficientSpanPointer(4, 3), SpanPointer(4, 3)):
        head.start_at(share)
        bias = head.end.bias if isinstance(head, EfficientSpanPointer) else head.bias
        torch.testing.assert_close(bias.detach(), half)
        head.start_at(share, scale=1.0)
        torch.testing.assert_close(bias.detach(), 2 * half)
        for wrong in (share[:2], torch.tensor([0.5, 0.0, 0.1]), torch.tensor([0.5, 1.0, 0.1])):
            with pytest.raises(ValueError, match="share must have one number a type"):
                head.start_at(wrong)
    tagger = BoundaryTagger(4, 3)
    tagger.start_at(share)
    torch.testing.assert_close(tagger.boundaries.bias.detach(), torch.cat((half, half)))
    assert tagger.boundaries.bias.requires_grad


def sentences() -> tuple[Tensor, Tensor, Spans]:
    """Write 20 sentences of words 0 to 29: 1 w 2 is a span of type 0 that holds one of type 1, w; 3 w one of type 2."""
    generator = torch.Generator().manual_seed(0)
    words, lengths = (
        torch.randint(4, 30, (20, 12), generator=generator),
        torch.randint(8, 13, (20,), generator=generator),
    )
    spans: Spans = []
    for row in range(20):
        at = int(torch.randint(0, 3, (), generator=generator))
        words[row, at], words[row, at + 2] = 1, 2
        words[row, at + 4] = 3
        spans.append([(at, at + 3, 0), (at + 1, at + 2, 1), (at + 4, at + 6, 2)])
    return words, lengths, spans


class Tagger(torch.nn.Module):
    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.words, self.head = torch.nn.Embedding(30, 32), head
        self.near = torch.nn.Conv1d(32, 32, 3, padding=1)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        return self.head(x + self.near(x.mT).mT.relu())


@pytest.mark.parametrize("head", [EfficientSpanPointer, SpanPointer, BoundaryTagger])
def test_learns_spans_inside_each_other(head: type[torch.nn.Module]) -> None:
    torch.manual_seed(0)
    words, lengths, spans = sentences()
    targets = SpanTargets(spans)
    model = Tagger(head(32, 3) if head is BoundaryTagger else head(32, 3, size=16))
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    inside = (torch.arange(12) < lengths.unsqueeze(-1)).unsqueeze(1)
    if head is not BoundaryTagger:
        model.head.start_at(manyhot.span_share(targets, lengths, 3))  # pyright: ignore
    for _ in range(60):
        scores = model(words)
        if head is BoundaryTagger:
            loss = manyhot.zlpr_loss(torch.cat(scores, 1), targets.boundaries(3, 12), mask=inside)
        else:
            loss = manyhot.span_loss(scores, targets, lengths=lengths)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        scores = model(words)
    decide = manyhot.decide_boundaries if head is BoundaryTagger else None
    preds = decide(*scores, lengths=lengths) if decide else manyhot.decide_spans(scores, lengths=lengths)
    metrics = manyhot.span_metrics(preds, spans, num_types=3)
    assert metrics["micro_f1"] == 1.0
    assert metrics["nested_recall"] == 1.0


def test_a_boundary_tagger_says_how_many_shares_it_needs() -> None:
    with pytest.raises(ValueError, match=r"one number a type, \(3,\), of tokens that begin a span; got \(2,\)"):
        manyhot.BoundaryTagger(4, 3).start_at(torch.full((2,), 0.1))
