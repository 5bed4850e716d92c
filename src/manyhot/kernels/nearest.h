// The rows of a sparse matrix that have the largest products with a row: nearest.py specifies it.
#pragma once

#include <cstdint>

namespace manyhot {

// A sparse matrix by its rows.
struct Sparse {
  const int64_t* starts;
  const int32_t* indices;
  const float* values;
};

// What is searched. `postings` are its columns, of which those of frequent features are not read.
struct Searched {
  int64_t rows, features;
  Sparse by_row, postings;
  const uint8_t* is_frequent;  // of each feature
  const float* frequent;       // of each row, the length of its frequent part, rounded up; 0 of a row without one
  double longest;              // of all rows
};

// Write the `most` best of each row asked, the best first and of equal ones the earlier.
void write_nearest(const Searched&, const Sparse& asked, int64_t count, int64_t most, int threads,
                   float* product, int64_t* row);

}  // namespace manyhot
