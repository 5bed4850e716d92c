// A batch as it comes, and one tile of a row made ready: every format of logits, targets, masks, thresholds and weights
// ends here.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "half.h"
#include "vector.h"

namespace manyhot {

enum class Type : int { boolean, uint8, int8, int16, int32, int64, float16, bfloat16, float32, float64 };

// Values that broadcast over the batch: a stride is 0 where they do not move. No data, no values.
struct Grid {
  const void* data;
  int64_t row, label;
};

struct Batch {
  int64_t rows, labels;
  const void* logits;
  Type logits_type;
  int64_t logits_row;
  // Dense targets, or where there are none the ids of the positives: of row r from offsets[r] to offsets[r + 1], or
  // without offsets `width` of them, -1 being padding. `soft` are their targets where these are not 1.
  const void* targets;
  Type targets_type;
  int64_t targets_row;
  const int64_t* ids;
  const int64_t* offsets;
  int64_t width;
  const void* soft;
  Grid mask, threshold, log_weight;  // bytes, and numbers of the type that is computed in
  double scale, margin;
  int64_t mask_every = 1;  // consecutive rows that share a row of the mask
};

namespace MANYHOT_ISA {

constexpr int tile_labels = 1024;

// What a label is to its row, where its target is an integer.
constexpr uint8_t negative = 0, positive = 1, absent = 2, wrong = 4;

template <class T>
struct Scratch {
  static constexpr int size = tile_labels + VectorOf<T>::lanes;
  alignas(64) T z[size], t[size], gradient[size];
  alignas(64) T neg_exponent[size], neg_factor[size], pos_exponent[size], pos_factor[size];
  alignas(64) uint8_t code[size];
};

// `size` labels of a row: z = scale (s - threshold), and the targets as codes, as numbers (NaN: absent), or, where both
// are null, all negative.
template <class T>
struct Tile {
  int64_t begin;
  int size;
  const T* z;
  const uint8_t* code;
  const T* t;
  const T* log_weight;
  int64_t log_weight_stride;
  bool soft;      // numbers other than 0 and 1, where one has looked
  bool readable;  // a whole vector may be read at the last labels
  bool complete;  // none of the codes is `absent`
};

// Where the ids of a row that lie in a segment are, and which tiles of the segment have any.
struct Listed {
  int64_t first = 0, last = 0;
  uint64_t tiles = 0;
};

// Zeros, then ones throughout: read from `lanes - rest` on, it marks the lanes behind the `rest` last labels.
template <class T>
struct Ends {
  static constexpr int lanes = VectorOf<T>::lanes;
  typename Bits<T>::Type words[2 * lanes] = {};
  constexpr Ends() {
    for (int i = lanes; i < 2 * lanes; ++i) words[i] = ~typename Bits<T>::Type(0);
  }
};

template <class T>
MANYHOT_INLINE Words<T> behind(int rest) {
  alignas(64) static constexpr Ends<T> ends;
  return load<Words<T>>(ends.words + Ends<T>::lanes - rest);
}

// The labels of a tile, a vector at a time: visit(i, z, code, t, behind), the last one marking lanes behind the end.
template <class T, class Visit>
MANYHOT_INLINE void each_vector(const Tile<T>& tile, const Visit& visit) {
  constexpr int lanes = VectorOf<T>::lanes;
  const int whole = tile.size / lanes * lanes, rest = tile.size - whole;
  for (int i = 0; i < whole; i += lanes) visit(i, tile.z + i, tile.code + i, tile.t + i, Words<T>{});
  if (rest == 0) return;
  if (tile.readable) {
    visit(whole, tile.z + whole, tile.code + whole, tile.t + whole, behind<T>(rest));
    return;
  }
  alignas(64) T z[lanes] = {}, t[lanes] = {};
  alignas(64) uint8_t code[lanes] = {};
  std::memcpy(z, tile.z + whole, rest * sizeof(T));
  if (tile.t) std::memcpy(t, tile.t + whole, rest * sizeof(T));
  if (tile.code) std::memcpy(code, tile.code + whole, rest);
  visit(whole, z, code, t, behind<T>(rest));
}

// The same with 0/1 targets: visit(i, z, kept, positive), masks of the lanes that are known labels, and of the positive ones
// among them.
template <class T, class Visit>
MANYHOT_INLINE void each_hard_vector(const Tile<T>& tile, const Visit& visit) {
  if (tile.t) {
    each_vector(tile, [&](int i, const T* z, const uint8_t*, const T* from, Words<T> behind) MANYHOT_INLINED {
      const Vector<T> t = from_bits<T>(load<Words<T>>(from) | behind);
      visit(i, load<Vector<T>>(z), t == t, t == 1);
    });
  } else if (tile.code && tile.complete) {
    each_vector(tile, [&](int i, const T* z, const uint8_t* code, const T*, Words<T> behind) MANYHOT_INLINED {
      visit(i, load<Vector<T>>(z), ~behind, 0 - load_bytes<T>(code));
    });
  } else if (tile.code) {
    each_vector(tile, [&](int i, const T* z, const uint8_t* from, const T*, Words<T> behind) MANYHOT_INLINED {
      const Words<T> code = load_bytes<T>(from);
      visit(i, load<Vector<T>>(z), ~behind & ((code >> 1) - 1), 0 - (code & 1));
    });
  } else {
    each_vector(tile, [&](int i, const T* z, const uint8_t*, const T*, Words<T> behind) MANYHOT_INLINED {
      visit(i, load<Vector<T>>(z), ~behind, Words<T>{});
    });
  }
}

template <class T>
class Row {
 public:
  Row(const Batch& batch, Scratch<T>& scratch)
      : batch_(batch),
        scratch_(scratch),
        plain_(batch.targets && (batch.targets_type == Type::boolean || batch.targets_type == own_type) &&
               batch.logits_type == own_type && batch.scale == 1 && !batch.threshold.data && !batch.mask.data &&
               !batch.log_weight.data) {}

  void move_to(int64_t row) { row_ = row, mask_row_ = batch_.mask_every == 1 ? row : row / batch_.mask_every; }

  // Find the ids of a segment of labels. An id that is no label sets `is_wrong`.
  Listed list(int64_t begin, int64_t end, bool& is_wrong) const {
    Listed listed;
    if (batch_.targets) return listed;
    const int64_t from = batch_.offsets ? batch_.offsets[row_] : row_ * batch_.width;
    const int64_t to = batch_.offsets ? batch_.offsets[row_ + 1] : from + batch_.width;
    if (batch_.labels <= tile_labels) return {from, to, 1};  // write_listed() looks at them: of a short row twice is much
    for (int64_t i = from; i < to; ++i) {
      const int64_t id = batch_.ids[i];
      if (id >= begin && id < end) {
        if (listed.tiles == 0) listed.first = i;
        listed.last = i + 1;
        listed.tiles |= uint64_t(1) << ((id - begin) / tile_labels);
      } else if (id < -1 || id >= batch_.labels) {
        is_wrong = true;
      }
    }
    return listed;
  }

  // Make `size` labels from `begin` ready. `known` is set where a label is known, `is_wrong` by a target outside [0, 1]; of
  // numbers that is seen later.
  MANYHOT_INLINE Tile<T> tile(int64_t begin, int size, const Listed& listed, int place, bool& known, bool& is_wrong) {
    Tile<T> tile{begin, size, nullptr, nullptr, nullptr, nullptr, batch_.log_weight.label, false, true, true};
    // Of a short row all that can be left out counts: here also the search for tiles without a positive.
    if (plain_ && size <= short_row) {
      const int64_t from = row_ * batch_.logits_row + begin, targets_from = row_ * batch_.targets_row + begin;
      tile.z = static_cast<const T*>(batch_.logits) + from;
      tile.readable = readable(from, size, batch_.logits_row) && readable(targets_from, size, batch_.targets_row);
      if (batch_.targets_type == Type::boolean) {
        tile.code = static_cast<const uint8_t*>(batch_.targets) + targets_from;
        known = true;
      } else {
        tile.t = static_cast<const T*>(batch_.targets) + targets_from;
      }
      return tile;
    }
    read_logits(tile);
    bool any_known = true;
    if (batch_.targets && batch_.targets_type <= Type::uint8 && !batch_.mask.data) {
      const int64_t offset = row_ * batch_.targets_row + begin;
      const uint8_t* code = static_cast<const uint8_t*>(batch_.targets) + offset;
      const uint8_t all = any_bits(code, size);
      if (all == 1) tile.code = code, tile.readable &= readable(offset, size, batch_.targets_row);
      if (all > 1) read_targets(tile, is_wrong, any_known);
    } else if (batch_.targets) {
      read_targets(tile, is_wrong, any_known);
    } else if (listed.tiles >> place & 1) {
      write_listed(tile, listed, is_wrong, any_known);
    } else if (batch_.mask.data) {
      clear_codes(size);
      mask_codes(tile, is_wrong, any_known);
    }
    known |= any_known;
    if (batch_.log_weight.data) tile.log_weight = at<T>(batch_.log_weight, begin);
    return tile;
  }

  // Look at targets that are numbers, which most tiles do without: whether any is between 0 and 1, and make NaN of what says
  // that a label is unknown otherwise, in the scratch. True where there was any such.
  bool look_at_numbers(Tile<T>& tile, bool& is_wrong, bool& known) {
    Words<T> other{}, between{}, some{};
    each_vector(tile, [&](int, const T*, const uint8_t*, const T* from, Words<T> behind) MANYHOT_INLINED {
      const Vector<T> t = from_bits<T>(load<Words<T>>(from) | behind);
      const Words<T> hard = (t == 0) | (t == 1), inside = (t > 0) & (t < 1);
      some |= hard | inside;
      other |= ~(hard | inside) & (t == t);
      between |= inside;
    });
    tile.soft = any<T>(between);
    known |= any<T>(some);
    if (!any<T>(other)) return false;
    for (int i = 0; i < tile.size; ++i) {
      const T x = tile.t[i];
      const bool inside = x >= 0 && x <= 1;
      is_wrong |= !inside && !(x != x || x == -1 || x == -100);
      scratch_.t[i] = inside ? x : T(NAN);
    }
    tile.t = scratch_.t;
    return true;
  }

  // Write each side's terms of a tile as factor e^exponent with factor in [1, 2): the power of two of 1-t and of t goes
  // into the exponent, so that no logarithm is needed and nothing is lost of targets next to 0 or 1.
  void both_sides(const Tile<T>& tile) {
    constexpr int lanes = VectorOf<T>::lanes;
    const Vector<T> nothing = splat<T>(-INFINITY);
    for (int i = 0; i < tile.size; ++i)
      scratch_.gradient[i] = tile.log_weight ? tile.log_weight[i * tile.log_weight_stride] : T(0);
    each_vector(tile, [&](int i, const T* z, const uint8_t* code, const T* from, Words<T> behind) MANYHOT_INLINED {
      const Words<T> kept = ~behind;
      const Vector<T> x = load<Vector<T>>(z), log_weight = load<Vector<T>>(scratch_.gradient + i);
      Vector<T> t{};
      Words<T> here = kept & (log_weight != -INFINITY);
      if (tile.t) {
        t = load<Vector<T>>(from);
        here &= t == t;
      } else if (tile.code) {
        const Words<T> codes = load_bytes<T>(code);
        t = codes == positive ? splat<T>(1) : Vector<T>{};
        here &= codes != absent;
      }
      Vector<T> power, factor;
      split(1 - t, factor, power);
      store(scratch_.neg_exponent + i, (here & (t < 1)) ? x + log_weight + power : nothing);
      store(scratch_.neg_factor + i, factor);
      split(t, factor, power);
      store(scratch_.pos_exponent + i, (here & (t > 0)) ? log_weight + power - x : nothing);
      store(scratch_.pos_factor + i, factor);
    });
    static_assert(Scratch<T>::size >= tile_labels + lanes);
  }

 private:
  static constexpr Type own_type = sizeof(T) == 8 ? Type::float64 : Type::float32;
  static constexpr int short_row = 256;

  const Batch& batch_;
  Scratch<T>& scratch_;
  const bool plain_;
  int64_t row_ = 0, mask_row_ = 0;

  template <class V>
  const V* at(const Grid& grid, int64_t label) const {
    return static_cast<const V*>(grid.data) + row_ * grid.row + label * grid.label;
  }

  const uint8_t* mask_at(int64_t label) const {
    return static_cast<const uint8_t*>(batch_.mask.data) + mask_row_ * batch_.mask.row + label * batch_.mask.label;
  }

  // Whether the vector that begins within `size` elements from `offset` ends within the rows.
  bool readable(int64_t offset, int size, int64_t stride) const {
    return offset + size + VectorOf<T>::lanes <= (batch_.rows - 1) * stride + batch_.labels;
  }

  MANYHOT_INLINE void read_logits(Tile<T>& tile) {
    const int64_t offset = row_ * batch_.logits_row + tile.begin;
    T* to = scratch_.z;
    if (batch_.logits_type == own_type) {
      tile.z = static_cast<const T*>(batch_.logits) + offset;
      tile.readable = readable(offset, tile.size, batch_.logits_row);
    } else {
      const uint16_t* half = static_cast<const uint16_t*>(batch_.logits) + offset;
      if (batch_.logits_type == Type::bfloat16)
        for (int i = 0; i < tile.size; ++i) to[i] = from_bfloat16(half[i]);
      else
        for (int i = 0; i < tile.size; ++i) to[i] = from_float16(half[i]);
      tile.z = to;
    }
    const T scale = static_cast<T>(batch_.scale);
    if (!batch_.threshold.data && scale == 1) return;
    const T* z = tile.z;
    if (!batch_.threshold.data) {
      for (int i = 0; i < tile.size; ++i) to[i] = scale * z[i];
    } else if (const T* threshold = at<T>(batch_.threshold, tile.begin); batch_.threshold.label == 0) {
      const T level = *threshold;
      for (int i = 0; i < tile.size; ++i) to[i] = scale * (z[i] - level);
    } else {
      for (int i = 0; i < tile.size; ++i) to[i] = scale * (z[i] - threshold[i]);
    }
    tile.z = to;
    tile.readable = true;
  }

  void read_targets(Tile<T>& tile, bool& is_wrong, bool& any_known) {
    const int64_t offset = row_ * batch_.targets_row + tile.begin;
    const void* targets = batch_.targets;
    switch (batch_.targets_type) {
      case Type::boolean:
      case Type::uint8:
        write_codes(static_cast<const uint8_t*>(targets) + offset, tile.size);
        break;
      case Type::int8:
        write_codes(static_cast<const int8_t*>(targets) + offset, tile.size);
        break;
      case Type::int16:
        write_codes(static_cast<const int16_t*>(targets) + offset, tile.size);
        break;
      case Type::int32:
        write_codes(static_cast<const int32_t*>(targets) + offset, tile.size);
        break;
      case Type::int64:
        write_codes(static_cast<const int64_t*>(targets) + offset, tile.size);
        break;
      case Type::float16:
        for (int i = 0; i < tile.size; ++i)
          scratch_.t[i] = from_float16(static_cast<const uint16_t*>(targets)[offset + i]);
        tile.t = scratch_.t;
        break;
      case Type::bfloat16:
        for (int i = 0; i < tile.size; ++i)
          scratch_.t[i] = from_bfloat16(static_cast<const uint16_t*>(targets)[offset + i]);
        tile.t = scratch_.t;
        break;
      default:
        if (batch_.targets_type == own_type) {
          tile.t = static_cast<const T*>(targets) + offset;
          tile.readable &= readable(offset, tile.size, batch_.targets_row);
        } else {
          using Other = std::conditional_t<sizeof(T) == 8, float, double>;
          const Other* from = static_cast<const Other*>(targets) + offset;
          for (int i = 0; i < tile.size; ++i) scratch_.t[i] = static_cast<T>(from[i]);
          tile.t = scratch_.t;
        }
    }
    if (tile.t) mask_numbers(tile, any_known);
    else mask_codes(tile, is_wrong, any_known);
  }

  // All bits of the bytes joined; the last eight bytes may be counted twice.
  static MANYHOT_INLINE uint8_t any_bits(const uint8_t* bytes, int size) {
    uint64_t bits = 0, word;
    if (size < 8) {
      for (int i = 0; i < size; ++i) bits |= bytes[i];
      return static_cast<uint8_t>(bits);
    }
    for (int i = 0; i + 8 <= size; i += 8) std::memcpy(&word, bytes + i, 8), bits |= word;
    std::memcpy(&word, bytes + size - 8, 8), bits |= word;
    bits |= bits >> 32, bits |= bits >> 16, bits |= bits >> 8;
    return static_cast<uint8_t>(bits);
  }

  // A memset becomes `rep stos`, which for a short row takes as long as its exponentials.
  MANYHOT_INLINE void clear_codes(int size) {
    using Bytes = typename VectorOf<T>::Bytes;
    for (int i = 0; i < size; i += VectorOf<T>::lanes) store(scratch_.code + i, Bytes{} + negative);
  }

  // Without branches, so that the loop becomes vectors.
  template <class S>
  void write_codes(const S* t, int size) {
    uint8_t* code = scratch_.code;
    for (int i = 0; i < size; ++i) {
      const S x = t[i];
      const uint8_t one = x == S(1), unknown = S(-1) < S(0) ? (x == S(-1)) | (x == S(-100)) : 0, known = (x == S(0)) | one;
      code[i] = static_cast<uint8_t>(one | unknown << 1 | (1 ^ (known | unknown)) << 2);
    }
  }

  // Apply the mask to the codes in the scratch, and look what they are.
  void mask_codes(Tile<T>& tile, bool& is_wrong, bool& any_known) {
    uint8_t* code = scratch_.code;
    // Its own variable: a byte that is written could be one of tile.size, and the loop would not become vectors.
    const int size = tile.size;
    if (batch_.mask.data) {
      const uint8_t* mask = mask_at(tile.begin);
      if (batch_.mask.label == 0) {
        if (!*mask) std::memset(code, absent, size);
      } else {
        for (int i = 0; i < size; ++i) code[i] = mask[i] ? code[i] : absent;
      }
    }
    uint8_t some = 0, all = absent;
    for (int i = 0; i < size; ++i) some |= code[i], all &= code[i];
    is_wrong |= (some & wrong) != 0;
    tile.complete = some <= positive;
    any_known = !(all & absent);
    tile.code = code;
  }

  // Apply the mask to numbers. What is known shows when they are added up.
  void mask_numbers(Tile<T>& tile, bool& any_known) {
    any_known = false;
    if (!batch_.mask.data) return;
    const uint8_t* mask = mask_at(tile.begin);
    const int64_t stride = batch_.mask.label;
    const T* t = tile.t;
    for (int i = 0; i < tile.size; ++i) scratch_.t[i] = mask[i * stride] ? t[i] : T(NAN);
    tile.t = scratch_.t;
  }

  void write_listed(Tile<T>& tile, const Listed& listed, bool& is_wrong, bool& any_known) {
    const T* given = static_cast<const T*>(batch_.soft);
    if (given) for (int i = 0; i < tile.size; ++i) scratch_.t[i] = 0;
    else clear_codes(tile.size);
    for (int64_t i = listed.first; i < listed.last; ++i) {
      const int64_t id = batch_.ids[i];
      // An id far below 0 must not be subtracted from.
      if (id < tile.begin || id - tile.begin >= tile.size) {
        is_wrong |= id < -1 || id >= batch_.labels;
        continue;
      }
      const int64_t label = id - tile.begin;
      if (!given) {
        scratch_.code[label] = positive;
        continue;
      }
      // Of a label listed twice the larger target counts.
      is_wrong |= !(given[i] >= 0 && given[i] <= 1);
      if (given[i] > scratch_.t[label]) scratch_.t[label] = given[i];
    }
    if (!given && !batch_.mask.data) {
      tile.code = scratch_.code;
    } else if (!given) {
      mask_codes(tile, is_wrong, any_known);
    } else {
      tile.t = scratch_.t;
      mask_numbers(tile, any_known);
    }
  }

  // x = factor e^power for x in (0, 1], also a subnormal one.
  static MANYHOT_INLINE void split(Vector<T> x, Vector<T>& factor, Vector<T>& power) {
    using Word = typename Bits<T>::Type;
    constexpr int mantissa = Bits<T>::mantissa, bias = Bits<T>::bias;
    const Words<T> w = bits<T>(x * T(0x1p64));
    factor = from_bits<T>((w & (Words<T>{} + ((Word(1) << mantissa) - 1))) | (Words<T>{} + (Word(bias) << mantissa)));
    power = (number<T>(w >> mantissa) - T(bias + 64)) * T(0.6931471805599453);
  }
};

}  // namespace MANYHOT_ISA
}  // namespace manyhot
