// The kernels of one instruction set and one type that is computed in, as a table.
#pragma once

#include "csr.h"
#include "elementary_symmetric.h"
#include "signed_logsumexp.h"

namespace manyhot {

struct Blocks {
  void (*add)(const Batch&, int64_t begin, int count, int64_t segment, bool& is_wrong, Sums*);
  void (*finish)(const Batch&, Link, const Sums*, int64_t begin, int count, Forward&);
  void (*add_rows)(const Batch&, const Forward&);
  void (*write)(const Batch&, Link, const Backward&, int64_t begin, int count, int64_t segment);
  void (*write_sets)(const Sets&, int64_t begin, int64_t end);
  void (*write_product)(const Product&, int64_t begin, int64_t end);
};

}  // namespace manyhot
