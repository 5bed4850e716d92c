// The signed log-sum-exp of mathematics.md section 1 on the CPU: sums over the negatives and the positives of each row.
//
//   neg = log sum_i w_i (1-t_i) e^{ scale (s_i - threshold + margin)}
//   pos = log sum_i w_i   t_i   e^{-scale (s_i - threshold - margin)}
//
// A row is read in tiles that stay in the first-level cache: one pass finds the largest exponent of either side, one adds
// up. With 0/1 targets a label is on one side, so it costs one exp. Backward computes the exponentials again from what
// forward kept of the row, and writes the gradient once. Lanes are summed in the type of the logits, tiles and all that is
// done once a row in double.
//
// Plain C++17, no Python and no torch: pointers, and strides in elements.
#pragma once

#include "link.h"
#include "tile.h"

namespace manyhot {

// Rows are cut into segments, so that few long rows keep all threads busy, and a sum is the same for any number of
// threads.
constexpr int64_t segment_labels = 65536;

// Rows that are finished together; their sums stay on the stack.
constexpr int block_rows = 64;
// And their labels: where forward writes the gradient too, logits and targets are still in the second-level cache.
constexpr int64_t block_labels = 32768;

// The terms of one side of a row, or of a part of it: their sum is total e^largest.
struct Sum {
  double largest = -INFINITY, total = 0;

  MANYHOT_INLINE void add(const Sum& other) {
    if (other.largest == largest) {
      total += other.total;
    } else if (largest == -INFINITY || std::isnan(other.largest)) {
      *this = other;
    } else if (other.largest > largest) {
      total = other.total + (other.largest < INFINITY ? total * std::exp(largest - other.largest) : 0);
      largest = other.largest;
    } else if (largest < INFINITY) {
      total += other.total * std::exp(other.largest - largest);
    }
  }
};

struct Sums {
  Sum neg, pos;
  bool known = false;
};

// What backward needs of a row. Two numbers a side: at exponents of 1e30 one alone would lose the logarithm of the total.
struct Saved {
  double neg_largest, neg_total, pos_largest, pos_total;
};

// What forward writes of each row; null where it is not asked for.
struct Forward {
  Saved* saved;
  void* loss;     // of the type that is computed in
  void *neg, *pos;
  uint8_t* known;
  void* total;     // one number: factor times the sum of the losses
  double factor;
  void* gradient;  // that of `total`, while the rows are in the cache
  Type gradient_type;
  int64_t unknown_rows = 0;  // without any known label
  bool is_wrong = false;     // a target outside [0, 1] or an id that is no label
};

// What backward is given: the derivative of the result by each row's loss, factor * loss[row * stride], or for
// Link::none by its neg and pos; and where the gradient goes.
struct Backward {
  const Saved* saved;
  const void *loss, *neg, *pos;
  int64_t stride;
  double factor;
  void* gradient;
  Type type;
};

namespace MANYHOT_ISA {

// The largest exponents of either side, and where a logit is NaN.
template <class T>
struct Largest {
  Vector<T> neg = splat<T>(-INFINITY), pos = splat<T>(-INFINITY);
  Words<T> neg_nan{}, pos_nan{};

  MANYHOT_INLINE void see_neg(Vector<T> x) { neg = larger(x, neg), neg_nan |= x != x; }
  MANYHOT_INLINE void see_pos(Vector<T> x) { pos = larger(x, pos), pos_nan |= x != x; }
};

// Raise what a sum is measured from to the largest exponent of a tile. False: the tile adds nothing to it.
template <class T>
MANYHOT_INLINE bool raise(Sum& sum, Vector<T> exponents, Words<T> nan) {
  const double most = static_cast<double>(largest<T>(exponents));
  if (any<T>(nan)) sum.largest = NAN;
  if (most > sum.largest) {
    if (sum.total > 0) sum.total *= most < INFINITY ? std::exp(sum.largest - most) : 0;
    sum.largest = most;
  }
  return most > -INFINITY && std::isfinite(sum.largest);
}

// Exponents up to this size need no reference: no sum overflows and no term is lost. Nearly all tiles are so, and are read
// once. Soft targets below `small`, which shrink a term further, are looked at with care: over their sum, a gradient would
// overflow.
template <class T>
struct Near;
template <>
struct Near<float> {
  static constexpr float hard = 80, soft = 40, small = 0x1p-32F;
};
template <>
struct Near<double> {
  static constexpr double hard = 600, soft = 300, small = 0x1p-500;
};

// Labels with targets that are numbers, near enough for one pass: visit(i, kept, t, e^x, e^-x), of absent ones t = 0 and
// x = 0. False where one is not, also by its target: next to 0, or none at all.
template <class T, class Visit>
MANYHOT_INLINE bool each_near_soft_vector(const Tile<T>& tile, const Visit& visit) {
  using V = Vector<T>;
  // As integers, whose order is that of positive numbers; of targets one less, so that 0 is the largest.
  Words<T> most{}, most_target{}, least_target = ~Words<T>{};
  each_vector(tile, [&](int i, const T* z, const uint8_t*, const T* from, Words<T> behind) MANYHOT_INLINED {
    const V given = from_bits<T>(load<Words<T>>(from) | behind);
    const Words<T> kept = given == given;
    const V x = where<T>(kept, load<V>(z)), t = where<T>(kept, given);
    most = larger(bits<T>(magnitude<T>(x)), most);
    most_target = larger(bits<T>(t), most_target);
    least_target = smaller(bits<T>(t) - 1, least_target);
    V up, down;
    exp_of_both_signs<T>(x, up, down);
    visit(i, kept, t, up, down);
  });
  return !any<T>((most > bits<T>(splat<T>(Near<T>::soft))) | (most_target > bits<T>(splat<T>(1))) |
                 (least_target < bits<T>(splat<T>(Near<T>::small)) - 1));
}

// Add a tile in one pass, measured from 0; false where that would not be exact.
template <class T>
MANYHOT_INLINE bool add_near_tile(const Tile<T>& tile, Sums& sums) {
  using V = Vector<T>;
  V neg{}, pos{};
  if (tile.log_weight) return false;
  if (tile.t) {
    Words<T> some{};
    const bool near = each_near_soft_vector(tile, [&](int, Words<T> kept, V t, V up, V down) MANYHOT_INLINED {
      some |= kept;
      neg += where<T>(kept, (1 - t) * up);
      pos += t * down;
    });
    if (!near) return false;
    sums.known |= any<T>(some);
  } else {
    Words<T> most{};  // of |x| as an integer, where NaN is above all numbers
    each_hard_vector(tile, [&](int, V z, Words<T> kept, Words<T> is_pos) MANYHOT_INLINED {
      // Whatever is in an absent slot has no effect, not on the last bit.
      const V x = where<T>(kept, z);
      most = larger(bits<T>(magnitude<T>(x)), most);
      const V e = where<T>(kept, exp_near<T>(negative_where<T>(is_pos, x)));
      neg += where<T>(~is_pos, e);
      pos += where<T>(is_pos, e);
    });
    if (any<T>(most > bits<T>(splat<T>(Near<T>::hard)))) return false;
  }
  const double neg_total = sum(neg), pos_total = sum(pos);
  if (neg_total > 0) sums.neg.add({0, neg_total});
  if (pos_total > 0) sums.pos.add({0, pos_total});
  return true;
}

// Add a tile in two passes, measured from the largest exponent of each side.
template <class T>
inline void add_far_tile(Row<T>& row, const Tile<T>& tile, const Scratch<T>& scratch, Sums& sums) {
  using V = Vector<T>;
  Largest<T> most;
  V neg{}, pos{};
  const bool two_terms = tile.soft || tile.log_weight;
  if (two_terms) {
    row.both_sides(tile);
    each_vector(tile, [&](int i, const T*, const uint8_t*, const T*, Words<T>) MANYHOT_INLINED {
      most.see_neg(load<V>(scratch.neg_exponent + i)), most.see_pos(load<V>(scratch.pos_exponent + i));
    });
  } else {
    const V nothing = splat<T>(-INFINITY);
    each_hard_vector(tile, [&](int, V x, Words<T> kept, Words<T> is_pos) MANYHOT_INLINED {
      most.see_neg(where<T>(kept & ~is_pos, x, nothing)), most.see_pos(where<T>(kept & is_pos, -x, nothing));
    });
  }
  const bool has_neg = raise<T>(sums.neg, most.neg, most.neg_nan), has_pos = raise<T>(sums.pos, most.pos, most.pos_nan);
  // From 0 where there is nothing to add: -inf - -inf is no number.
  const T neg_from = has_neg ? T(sums.neg.largest) : T(0), pos_from = has_pos ? T(sums.pos.largest) : T(0);
  if (two_terms) {
    each_vector(tile, [&](int i, const T*, const uint8_t*, const T*, Words<T>) MANYHOT_INLINED {
      neg += load<V>(scratch.neg_factor + i) * exp<T>(load<V>(scratch.neg_exponent + i) - neg_from);
      pos += load<V>(scratch.pos_factor + i) * exp<T>(load<V>(scratch.pos_exponent + i) - pos_from);
    });
  } else {
    each_hard_vector(tile, [&](int, V x, Words<T> kept, Words<T> is_pos) MANYHOT_INLINED {
      const V from = where<T>(is_pos, splat<T>(pos_from), splat<T>(neg_from));
      const V e = where<T>(kept, exp<T>(negative_where<T>(is_pos, x) - from));
      neg += where<T>(~is_pos, e);
      pos += where<T>(is_pos, e);
    });
  }
  if (has_neg) sums.neg.total += sum(neg);
  if (has_pos) sums.pos.total += sum(pos);
}

// Add up the labels of a row from `begin` to `end`, which lie in one segment.
template <class T>
MANYHOT_INLINE void add_segment(Row<T>& of_row, int64_t begin, int64_t end, Scratch<T>& scratch, bool& is_wrong,
                                Sums& sums) {
  const Listed listed = of_row.list(begin, end, is_wrong);
  int place = 0;
  for (int64_t at = begin; at < end; at += tile_labels, ++place) {
    const int size = static_cast<int>(end - at < tile_labels ? end - at : tile_labels);
    Tile<T> tile = of_row.tile(at, size, listed, place, sums.known, is_wrong);
    if (add_near_tile(tile, sums)) continue;
    if (tile.t && of_row.look_at_numbers(tile, is_wrong, sums.known) && add_near_tile(tile, sums)) continue;
    add_far_tile(of_row, tile, scratch, sums);
  }
}

// --- rows: from sums to losses, and from the derivative by a loss to the factors of a gradient ------------------------

// log(total) + largest; the sums of infinite, empty and NaN sides stand in `largest` alone.
MANYHOT_INLINE void set_side(const Sum& sum, double& largest, double& total) {
  largest = sum.largest;
  total = std::isfinite(sum.largest) && sum.total > 0 ? sum.total : 1;
}

// Rows whose sides are empty or measured from 0, and small enough for a product of the two. Each is computed its own way,
// whatever stands beside it, so that no bit of a row depends on the others.
MANYHOT_INLINE Words<double> near_rows(Doubles neg_from, Doubles neg_sum, Doubles pos_from, Doubles pos_sum) {
  const auto near = ((neg_from == 0.0) | (neg_from == -INFINITY)) & ((pos_from == 0.0) | (pos_from == -INFINITY));
  return (Words<double>)(near & (neg_sum <= 1e150) & (pos_sum <= 1e150));
}

MANYHOT_INLINE Doubles near_sum(Doubles from, Doubles total) { return from == 0.0 ? total : Doubles{}; }

template <class T>
inline void finish_rows(const Batch& batch, Link link, const Sums* sums, int64_t begin, int count, Forward& out) {
  const double shift = batch.scale * batch.margin, unit = std::exp(shift);
  for (int first = 0; first < count; first += row_lanes) {
    const int here = count - first < row_lanes ? count - first : row_lanes;
    alignas(64) double neg_largest[row_lanes] = {}, pos_largest[row_lanes] = {};
    alignas(64) double neg_total[row_lanes], pos_total[row_lanes];
    for (int k = 0; k < row_lanes; ++k) neg_total[k] = pos_total[k] = 1;
    for (int k = 0; k < here; ++k) {
      set_side(sums[first + k].neg, neg_largest[k], neg_total[k]);
      set_side(sums[first + k].pos, pos_largest[k], pos_total[k]);
    }
    const Doubles neg_from = load<Doubles>(neg_largest), neg_sum = load<Doubles>(neg_total);
    const Doubles pos_from = load<Doubles>(pos_largest), pos_sum = load<Doubles>(pos_total);
    const Words<double> near = near_rows(neg_from, neg_sum * unit, pos_from, pos_sum * unit);
    Doubles neg{}, pos{}, loss{};
    if (link != Link::none && any<double>(near))
      loss = loss_of_sums(link, near_sum(neg_from, neg_sum * unit), near_sum(pos_from, pos_sum * unit));
    if (link == Link::none || out.neg || out.pos || any<double>(~near)) {
      neg = neg_from + log(neg_sum) + shift;
      pos = pos_from + log(pos_sum) + shift;
      loss = near ? loss : loss_of(link, neg, pos);
    }
    for (int k = 0; k < here; ++k) {
      const int64_t row = begin + first + k;
      if (out.saved) out.saved[row] = {neg_largest[k], neg_total[k], pos_largest[k], pos_total[k]};
      if (out.loss) static_cast<T*>(out.loss)[row] = static_cast<T>(loss[k]);
      if (out.neg) static_cast<T*>(out.neg)[row] = static_cast<T>(neg[k]);
      if (out.pos) static_cast<T*>(out.pos)[row] = static_cast<T>(pos[k]);
      const bool known = sums[first + k].known;
      if (out.known) out.known[row] = known;
      if (!known) ++out.unknown_rows;
    }
  }
}

// In one order whatever the number of threads.
template <class T>
inline void add_rows(const Batch& batch, const Forward& out) {
  const T* loss = static_cast<const T*>(out.loss);
  constexpr int lanes = VectorOf<T>::lanes;
  double total = 0;
  int64_t row = 0;
  for (; row + lanes <= batch.rows; row += lanes) total += sum(load<Vector<T>>(loss + row));
  for (; row < batch.rows; ++row) total += static_cast<double>(loss[row]);
  *static_cast<T*>(out.total) = static_cast<T>(out.factor * total);
}

// What the exponentials of one side of a row are measured from and multiplied with to be its gradient; `near` is the
// factor of those measured from 0.
template <class T>
struct Side {
  T from, factor, near;
};

// An empty or infinite side has no gradient: from +inf every exponential is 0. One with a NaN has NaN factors. A side that
// was measured from 0, or nearly so, is now measured from the power of two in its total: the factor of a large total would
// underflow.
template <class T>
MANYHOT_INLINE void set_sides(Doubles largest, Doubles total, Doubles by_term, int count, Side<T>* sides) {
  typedef T Lanes __attribute__((vector_size(row_lanes * sizeof(T))));
  const auto none = (magnitude<double>(largest) == INFINITY) | (by_term == 0.0);
  const Words<double> exponent = bits<double>(total) >> 52;
  const auto is_near = magnitude<double>(largest) <= double(Near<T>::hard);
  const Doubles power = is_near ? from_bits<double>(exponent << 52) : splat(1.0);
  const Doubles exact = is_near ? largest + (number<double>(exponent) - 1023) * 0.6931471805599453 : largest;
  const Lanes from = __builtin_convertvector(none ? Doubles{} : exact, Lanes);
  const Doubles lost = exact - __builtin_convertvector(from, Doubles);
  // exp makes 0 of a NaN.
  const Doubles factor = by_term * power * (1 - lost + 0.5 * lost * lost) + (largest - largest);
  // A tile that was measured from 0 and has a term on this side has made `largest` 0 or more. Of others the factor, which could
  // be infinite, is 0: it meets targets of 0.
  const Doubles near = largest < 0.0 ? Doubles{} : (by_term + (largest - largest)) * exp<double>(-largest);
  for (int k = 0; k < count; ++k) {
    if (none[k]) sides[k] = {T(INFINITY), T(0), T(0)};
    else sides[k] = {from[k], static_cast<T>(factor[k]), static_cast<T>(near[k])};
  }
}

template <class T>
MANYHOT_INLINE T at_or_zero(const void* values, int64_t at) {
  return values ? static_cast<const T*>(values)[at] : T(0);
}

// The two sides of `count` rows.
template <class T>
MANYHOT_INLINE void sides(const Batch& batch, Link link, const Backward& given, int64_t begin, int count, Side<T>* neg,
                          Side<T>* pos) {
  const double shift = batch.scale * batch.margin, unit = std::exp(shift);
  for (int first = 0; first < count; first += row_lanes) {
    const int here = count - first < row_lanes ? count - first : row_lanes;
    alignas(64) double neg_largest[row_lanes] = {}, pos_largest[row_lanes] = {};
    alignas(64) double neg_total[row_lanes], pos_total[row_lanes];
    alignas(64) double to_neg[row_lanes] = {}, to_pos[row_lanes] = {};
    for (int k = 0; k < row_lanes; ++k) neg_total[k] = pos_total[k] = 1;
    for (int k = 0; k < here; ++k) {
      const int64_t row = begin + first + k;
      const Saved& saved = given.saved[row];
      neg_largest[k] = saved.neg_largest, neg_total[k] = saved.neg_total;
      pos_largest[k] = saved.pos_largest, pos_total[k] = saved.pos_total;
      const bool by_loss = link != Link::none;
      const double outer = given.factor * at_or_zero<T>(given.loss, row * given.stride);
      to_neg[k] = by_loss ? outer : at_or_zero<T>(given.neg, row);
      to_pos[k] = by_loss ? outer : at_or_zero<T>(given.pos, row);
    }
    const Doubles neg_from = load<Doubles>(neg_largest), neg_sum = load<Doubles>(neg_total);
    const Doubles pos_from = load<Doubles>(pos_largest), pos_sum = load<Doubles>(pos_total);
    // By neg and pos over the totals, or by the sums themselves: the factor of a term is the same.
    const Words<double> near = near_rows(neg_from, neg_sum * unit, pos_from, pos_sum * unit);
    Doubles by_neg{}, by_pos{};
    if (link != Link::none && any<double>(near)) {
      derivatives_by_sums(link, near_sum(neg_from, neg_sum * unit), near_sum(pos_from, pos_sum * unit), by_neg, by_pos);
      by_neg *= unit, by_pos *= unit;
    }
    if (link == Link::none || any<double>(~near)) {
      Doubles far_neg = splat(1.0), far_pos = splat(1.0);
      if (link != Link::none)
        derivatives(link, neg_from + log(neg_sum) + shift, pos_from + log(pos_sum) + shift, far_neg, far_pos);
      const Words<double> far = link == Link::none ? ~Words<double>{} : ~near;
      by_neg = far ? far_neg / neg_sum : by_neg;
      by_pos = far ? far_pos / pos_sum : by_pos;
    }
    const Doubles outer_neg = load<Doubles>(to_neg), outer_pos = load<Doubles>(to_pos);
    // A row that does not count has no gradient, whatever its loss is.
    set_sides(neg_from, neg_sum, outer_neg == 0.0 ? Doubles{} : outer_neg * by_neg * batch.scale, here, neg + first);
    set_sides(pos_from, pos_sum, outer_pos == 0.0 ? Doubles{} : -outer_pos * by_pos * batch.scale, here, pos + first);
  }
}

// --- gradient --------------------------------------------------------------------------------------------------------

// Write the gradient of a tile; what lies from the tile's end up to `limit` is written later and may be overwritten.
template <class T>
MANYHOT_INLINE void write_tile(Row<T>& row, Tile<T>& tile, const Scratch<T>& scratch, const Side<T>& neg,
                               const Side<T>& pos, T* to, const T* limit) {
  using V = Vector<T>;
  constexpr int lanes = VectorOf<T>::lanes;
  const auto put = [&](int i, V g) MANYHOT_INLINED {
    if (to + i + lanes <= limit) store(to + i, g);
    else std::memcpy(to + i, &g, (tile.size - i) * sizeof(T));
  };
  const auto is_near = [&] {
    return !tile.log_weight && each_near_soft_vector(tile, [&](int i, Words<T> kept, V t, V up, V down) MANYHOT_INLINED {
      // Of absent labels also where a factor is NaN.
      put(i, where<T>(kept, neg.near * (1 - t) * up + pos.near * t * down));
    });
  };
  if (tile.t) {
    bool ignored = false;  // forward has looked
    if (is_near() || (row.look_at_numbers(tile, ignored, ignored) && is_near())) return;
  }
  if (!tile.soft && !tile.log_weight) {
    each_hard_vector(tile, [&](int i, V x, Words<T> kept, Words<T> is_pos) MANYHOT_INLINED {
      const V from = where<T>(is_pos, splat<T>(pos.from), splat<T>(neg.from));
      const V factor = where<T>(is_pos, splat<T>(pos.factor), splat<T>(neg.factor));
      put(i, where<T>(kept, exp<T>(negative_where<T>(is_pos, x) - from) * factor));
    });
    return;
  }
  row.both_sides(tile);
  each_vector(tile, [&](int i, const T*, const uint8_t*, const T*, Words<T>) MANYHOT_INLINED {
    const V neg_exponent = load<V>(scratch.neg_exponent + i), pos_exponent = load<V>(scratch.pos_exponent + i);
    // A label that is not on a side has no gradient from it, also where the side's factor is NaN.
    const V from_neg = neg.factor * load<V>(scratch.neg_factor + i) * exp<T>(neg_exponent - neg.from);
    const V from_pos = pos.factor * load<V>(scratch.pos_factor + i) * exp<T>(pos_exponent - pos.from);
    put(i, (neg_exponent == -INFINITY ? V{} : from_neg) + (pos_exponent == -INFINITY ? V{} : from_pos));
  });
}

template <class T>
MANYHOT_INLINE void write_segment(const Batch& batch, Row<T>& of_row, const Backward& given, int64_t row, int64_t begin, int64_t end,
                                  const Side<T>& neg, const Side<T>& pos, Scratch<T>& scratch, int64_t last_row) {
  bool ignored = false;  // forward has looked
  const Listed listed = of_row.list(begin, end, ignored);
  const bool direct = given.type >= Type::float32;
  int place = 0;
  for (int64_t at = begin; at < end; at += tile_labels, ++place) {
    const int size = static_cast<int>(end - at < tile_labels ? end - at : tile_labels);
    Tile<T> tile = of_row.tile(at, size, listed, place, ignored, ignored);
    const int64_t offset = row * batch.labels + at;
    T* to = direct ? static_cast<T*>(given.gradient) + offset : scratch.gradient;
    const T* limit = direct ? static_cast<T*>(given.gradient) + last_row * batch.labels + end : to + Scratch<T>::size;
    write_tile(of_row, tile, scratch, neg, pos, to, limit);
    if (direct) continue;
    uint16_t* half = static_cast<uint16_t*>(given.gradient) + offset;
    if (given.type == Type::bfloat16)
      for (int i = 0; i < size; ++i) half[i] = to_bfloat16(static_cast<float>(to[i]));
    else
      for (int i = 0; i < size; ++i) half[i] = to_float16(static_cast<float>(to[i]));
  }
}

// --- blocks: `count` rows from `begin`, one segment of their labels --------------------------------------------------

template <class T>
inline void add_block(const Batch& batch, int64_t begin, int count, int64_t segment, bool& is_wrong, Sums* sums) {
  Scratch<T> scratch;
  const int64_t from = segment * segment_labels;
  const int64_t to = batch.labels - from < segment_labels ? batch.labels : from + segment_labels;
  Row<T> row(batch, scratch);
  for (int i = 0; i < count; ++i) {
    row.move_to(begin + i);
    add_segment(row, from, to, scratch, is_wrong, sums[i]);
  }
}

template <class T>
inline void write_block(const Batch& batch, Link link, const Backward& given, int64_t begin, int count,
                        int64_t segment) {
  Scratch<T> scratch;
  const int64_t from = segment * segment_labels;
  const int64_t to = batch.labels - from < segment_labels ? batch.labels : from + segment_labels;
  Side<T> neg[block_rows], pos[block_rows];
  sides(batch, link, given, begin, count, neg, pos);
  Row<T> row(batch, scratch);
  for (int i = 0; i < count; ++i) {
    row.move_to(begin + i);
    write_segment(batch, row, given, begin + i, from, to, neg[i], pos[i], scratch, begin + count - 1);
  }
}

}  // namespace MANYHOT_ISA

}  // namespace manyhot
