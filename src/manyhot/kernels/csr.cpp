// The product of csr.h, for one instruction set as instruction_set.cpp, but compiled with -ffp-contract=off: an element is
// the sum of its terms in the order of the row, each rounded, so that no instruction set and no number of threads changes a
// bit. Multiply-adds in one instruction gain no time here, since rows of the dense matrix come from beyond the first cache.
#include "csr.h"

#include <algorithm>

namespace manyhot::MANYHOT_ISA {
namespace {

// As many as a tile of 96 columns takes, and not more than there are registers for.
constexpr int tile_vectors = MANYHOT_VECTOR_BYTES == 64 ? 6 : 12;
// Non-zeros between the one that is added and the one whose row is fetched; 8 and 24 take as long. Up to two lines of the
// cache a row, fetching takes longer than it saves.
constexpr int ahead = 16;
constexpr int line = 64;

template <class T, int width>
struct Some {
  typedef T Type __attribute__((vector_size(width * sizeof(T))));
};
template <class T>
struct Some<T, 1> {
  using Type = T;
};

// Columns `first` to `last` + width: vectors side by side, but for the last, which may lie over the one before.
template <class T, class Index, int width, int vectors>
void write_tile(const Product& p, int64_t begin, int64_t end, int64_t first, int64_t last) {
  using V = typename Some<T, width>::Type;
  const Index *starts = static_cast<const Index*>(p.starts), *indices = static_cast<const Index*>(p.indices);
  const T *values = static_cast<const T*>(p.values), *dense = static_cast<const T*>(p.dense) + first;
  const int64_t dense_row = p.dense_row, stop = starts[end], rest = last - first;
  for (int64_t row = begin; row < end; ++row) {
    V sums[vectors] = {};
    const int64_t row_stop = starts[row + 1];
    for (int64_t i = starts[row]; i < row_stop; ++i) {
      if constexpr (vectors * sizeof(V) > 2 * line) {
        if (i + ahead < stop) {
          const T* next = dense + indices[i + ahead] * dense_row;
          for (int64_t j = 0; j < vectors * width; j += line / sizeof(T)) __builtin_prefetch(next + j);
        }
      }
      const T* from = dense + indices[i] * dense_row;
      const T x = values[i];
      for (int j = 0; j < vectors - 1; ++j) sums[j] += x * load<V>(from + j * width);
      sums[vectors - 1] += x * load<V>(from + rest);
    }
    T* to = static_cast<T*>(p.out) + row * p.out_row + first;
    for (int j = 0; j < vectors - 1; ++j) store(to + j * width, sums[j]);
    store(to + rest, sums[vectors - 1]);
  }
}

template <class T, class Index, int width, int vectors = tile_vectors>
void write_tile_of(int64_t count, const Product& p, int64_t begin, int64_t end, int64_t first, int64_t last) {
  if (count >= vectors) return write_tile<T, Index, width, vectors>(p, begin, end, first, last);
  if constexpr (vectors > 1) write_tile_of<T, Index, width, vectors - 1>(count, p, begin, end, first, last);
}

// Tile after tile, each over all rows: what is read of the dense matrix is then a strip that a cache holds sooner.
template <class T, class Index, int width>
void write_tiles(const Product& p, int64_t begin, int64_t end) {
  if constexpr (width > 1)
    if (p.columns < width) return write_tiles<T, Index, width / 2>(p, begin, end);
  for (int64_t first = 0; first < p.columns; first += tile_vectors * width) {
    const int64_t count = std::min<int64_t>(tile_vectors, (p.columns - first + width - 1) / width);
    const int64_t last = std::min<int64_t>(first + (count - 1) * width, p.columns - width);
    write_tile_of<T, Index, width>(count, p, begin, end, first, last);
  }
}

}  // namespace

template <class T>
void write_product(const Product& p, int64_t begin, int64_t end) {
  constexpr int width = VectorOf<T>::lanes;
  if (p.has_long_indices) write_tiles<T, int64_t, width>(p, begin, end);
  else write_tiles<T, int32_t, width>(p, begin, end);
}

template void write_product<float>(const Product&, int64_t, int64_t);
template void write_product<double>(const Product&, int64_t, int64_t);

}  // namespace manyhot::MANYHOT_ISA
