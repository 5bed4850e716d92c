// A sparse matrix held by rows times a dense one: csr.py says it with scipy.
#pragma once

#include <cstdint>

#include "vector.h"

namespace manyhot {

struct Product {
  int64_t rows, columns;  // of what is written
  const void *starts, *indices;
  bool has_long_indices;  // int64, else int32
  const void* values;     // of the type that is computed in, and so are the two below
  const void* dense;
  int64_t dense_row;
  void* out;
  int64_t out_row;

  // Where a row's non-zeros begin; of the last row + 1, where all end.
  int64_t start(int64_t row) const {
    return has_long_indices ? static_cast<const int64_t*>(starts)[row] : static_cast<const int32_t*>(starts)[row];
  }
};

namespace MANYHOT_ISA {

template <class T>
void write_product(const Product&, int64_t begin, int64_t end);

}  // namespace MANYHOT_ISA
}  // namespace manyhot
