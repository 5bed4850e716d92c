// The lines in (neg, pos) that make a loss of a row: losses/zlpr.py says them in PyTorch. Many rows at once, in double.
#pragma once

#include <cmath>

#include "vector.h"

namespace manyhot {

// The line in (neg, pos) that makes a loss of a row; `none` leaves the two as they are.
enum class Link : int { none, zlpr, pairwise, single_log };

namespace MANYHOT_ISA {

using Doubles = Vector<double>;
constexpr int row_lanes = VectorOf<double>::lanes;

MANYHOT_INLINE Doubles softplus(Doubles x) { return (x < 0.0 ? Doubles{} : x) + log1p(exp<double>(-magnitude<double>(x))); }

MANYHOT_INLINE Doubles sigmoid(Doubles x) {
  const Doubles e = exp<double>(-magnitude<double>(x));
  return x != x ? x : (x < 0.0 ? e : splat(1.0)) / (1 + e);
}

// An empty side stays empty, also beside an infinite one: -inf + inf is no number.
MANYHOT_INLINE Doubles both(Doubles neg, Doubles pos) {
  const Doubles nothing = splat<double>(-INFINITY);
  const auto empty = ((neg == nothing) & (pos == pos)) | ((pos == nothing) & (neg == neg));
  return empty ? nothing : neg + pos;
}

MANYHOT_INLINE Doubles either(Doubles neg, Doubles pos) {
  const Doubles most = neg > pos ? neg : pos, gap = magnitude<double>(neg - pos);
  // Two infinite sides have no gap.
  return gap != gap ? neg + pos : most + log1p(exp<double>(-gap));
}

// The same lines in n = e^neg and p = e^pos, for rows whose sums need no logarithm to be kept: half of the work.
MANYHOT_INLINE Doubles loss_of_sums(Link link, Doubles n, Doubles p) {
  if (link == Link::pairwise) return log_of_one_plus(n * p);
  if (link == Link::single_log) return log_of_one_plus(n + p);
  return log_of_one_plus(n) + log_of_one_plus(p);
}

// The derivatives of a row's loss by n and by p.
MANYHOT_INLINE void derivatives_by_sums(Link link, Doubles n, Doubles p, Doubles& by_n, Doubles& by_p) {
  if (link == Link::pairwise) {
    const Doubles all = 1 / (1 + n * p);
    by_n = p * all, by_p = n * all;
  } else if (link == Link::single_log) {
    by_n = by_p = 1 / (1 + n + p);
  } else {
    by_n = 1 / (1 + n), by_p = 1 / (1 + p);
  }
}

MANYHOT_INLINE Doubles loss_of(Link link, Doubles neg, Doubles pos) {
  switch (link) {
    case Link::zlpr:
      return softplus(neg) + softplus(pos);
    case Link::pairwise:
      return softplus(both(neg, pos));
    case Link::single_log:
      return softplus(either(neg, pos));
    case Link::none:
      break;
  }
  return Doubles{};
}

// The derivatives of a row's loss by neg and by pos.
MANYHOT_INLINE void derivatives(Link link, Doubles neg, Doubles pos, Doubles& by_neg, Doubles& by_pos) {
  if (link == Link::zlpr) {
    by_neg = sigmoid(neg), by_pos = sigmoid(pos);
  } else if (link == Link::pairwise) {
    by_neg = by_pos = sigmoid(both(neg, pos));
  } else if (link == Link::single_log) {
    // The shares of the two from their difference: of their sum at 1e30 nothing is left of it.
    const Doubles all = sigmoid(either(neg, pos));
    by_neg = all * sigmoid(neg - pos), by_pos = all * sigmoid(pos - neg);
  }
}

}  // namespace MANYHOT_ISA
}  // namespace manyhot
