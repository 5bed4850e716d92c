// Which kernel a call gets, and how its rows are dealt to threads.
#pragma once

#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "blocks.h"

namespace manyhot {

// Below this many labels a thread, waking the others takes longer than the work. torch has the same grain.
constexpr int64_t labels_a_thread = 32768;
// The same in terms of a sparse product, which take a quarter of the time.
constexpr int64_t terms_a_thread = 131072;
// What a row costs beside its labels, in labels: 50 ns where a label takes 0.4.
constexpr int64_t row_cost = 128;

#define MANYHOT_DECLARE(isa)  \
  namespace isa {             \
  template <class T>          \
  Blocks blocks();            \
  }
#if defined(MANYHOT_X86)
MANYHOT_DECLARE(v4)
MANYHOT_DECLARE(v3)
#endif
MANYHOT_DECLARE(baseline)

struct InstructionSet {
  const char* name;
  bool here;
  Blocks float32, float64;
};

// The best first.
inline const std::vector<InstructionSet>& instruction_sets() {
  static const std::vector<InstructionSet> sets = {
#if defined(MANYHOT_X86)
      {"v4",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"),
       v4::blocks<float>(), v4::blocks<double>()},
      {"v3",
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
           __builtin_cpu_supports("bmi2"),
       v3::blocks<float>(), v3::blocks<double>()},
#endif
      {"baseline", true, baseline::blocks<float>(), baseline::blocks<double>()},
  };
  return sets;
}

// Deal the units 0 to `units` out in one contiguous share a thread, so that backward finds in a core's cache what forward
// read there.
template <class Work>
void share(const Batch& batch, int64_t units, int threads, const Work& work) {
#if defined(_OPENMP)
  const int64_t useful = batch.rows * (batch.labels + row_cost) / labels_a_thread;
  const int64_t most = useful < units ? useful : units;
  if (most < threads) threads = static_cast<int>(most);
  if (threads > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t count = omp_get_num_threads(), mine = omp_get_thread_num();
      work(units * mine / count, units * (mine + 1) / count);
    }
    return;
  }
#endif
  work(0, units);
}

inline int64_t segments_of(const Batch& batch) { return (batch.labels + segment_labels - 1) / segment_labels; }

// Cut a share of (row, segment) units into blocks: of many rows where a row has one segment, else of one.
template <class Visit>
void each_block(const Batch& batch, int64_t segments, int64_t begin, int64_t end, const Visit& visit) {
  if (segments > 1) {
    for (int64_t unit = begin; unit < end; ++unit) visit(unit / segments, 1, unit % segments);
    return;
  }
  const int64_t fitting = block_labels / batch.labels, rows = fitting < 1 ? 1 : fitting < block_rows ? fitting : block_rows;
  for (int64_t row = begin; row < end; row += rows)
    visit(row, static_cast<int>(end - row < rows ? end - row : rows), int64_t(0));
}

inline void backward(const Blocks& blocks, const Batch& batch, Link link, int threads, const Backward& given) {
  const int64_t segments = segments_of(batch);
  share(batch, batch.rows * segments, threads, [&](int64_t begin, int64_t end) {
    each_block(batch, segments, begin, end, [&](int64_t row, int count, int64_t segment) {
      blocks.write(batch, link, given, row, count, segment);
    });
  });
}

inline void forward(const Blocks& blocks, const Batch& batch, Link link, int threads, Forward& out) {
  const int64_t segments = segments_of(batch);
  const float one = 1;
  const double double_one = 1;
  const bool is_double = batch.logits_type == Type::float64;
  const Backward given{out.saved, is_double ? static_cast<const void*>(&double_one) : &one, nullptr, nullptr, 0,
                       out.factor, out.gradient, out.gradient_type};
  const Forward fresh = out;  // no thread counts what another has found
  std::vector<Sums> parts(segments > 1 ? batch.rows * segments : 0);
  share(batch, batch.rows * segments, threads, [&](int64_t begin, int64_t end) {
    Forward mine = fresh;
    each_block(batch, segments, begin, end, [&](int64_t row, int count, int64_t segment) {
      if (segments > 1) {
        blocks.add(batch, row, count, segment, mine.is_wrong, &parts[row * segments + segment]);
        return;
      }
      Sums sums[block_rows];
      blocks.add(batch, row, count, segment, mine.is_wrong, sums);
      blocks.finish(batch, link, sums, row, count, mine);
      if (out.gradient) blocks.write(batch, link, given, row, count, segment);
    });
#if defined(_OPENMP)
#pragma omp critical(manyhot_forward)
#endif
    {
      out.unknown_rows += mine.unknown_rows;
      out.is_wrong |= mine.is_wrong;
    }
  });
  if (segments > 1) {
    for (int64_t row = 0; row < batch.rows; ++row) {
      Sums sums;
      for (int64_t segment = 0; segment < segments; ++segment) {
        const Sums& part = parts[row * segments + segment];
        sums.neg.add(part.neg), sums.pos.add(part.pos), sums.known |= part.known;
      }
      blocks.finish(batch, link, &sums, row, 1, out);
    }
  }
  if (segments > 1 && out.gradient) backward(blocks, batch, link, threads, given);
  if (out.total) blocks.add_rows(batch, out);
}

// Rows of sets take unlike times, so they are dealt out a few at a time.
inline void write_sets(const Blocks& blocks, const Sets& batch, int threads) {
  const int64_t rows = batch.rows, some = rows < 8 * threads ? 1 : 4;
#if defined(_OPENMP)
  if (threads > 1 && rows > 1 && rows * batch.labels >= labels_a_thread / 8) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t row = 0; row < rows; row += some) blocks.write_sets(batch, row, row + some < rows ? row + some : rows);
    return;
  }
#endif
  blocks.write_sets(batch, 0, rows);
}

// The first row of the part `part` of `parts` that have about as many non-zeros and rows each.
inline int64_t cut(const Product& product, int64_t part, int64_t parts) {
  int64_t low = 0, high = product.rows;
  const double wanted = static_cast<double>(product.start(high) - product.start(0) + high) * part / parts;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (product.start(middle) - product.start(0) + middle < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Several parts a thread: one whose core is taken by others does fewer.
inline void write_product(const Blocks& blocks, const Product& product, int threads) {
#if defined(_OPENMP)
  const double entries = static_cast<double>(product.start(product.rows) - product.start(0) + product.rows);
  const double useful = entries * (product.columns + 8) / terms_a_thread;
  if (useful < threads) threads = static_cast<int>(useful);
  if (threads > 1) {
    const int64_t parts = 8 * threads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t part = 0; part < parts; ++part)
      blocks.write_product(product, cut(product, part, parts), cut(product, part + 1, parts));
    return;
  }
#endif
  blocks.write_product(product, 0, product.rows);
}

}  // namespace manyhot
