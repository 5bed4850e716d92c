// Sparse products on random problems against a loop that rounds after each step: all bits, at any number of threads.
#include "problems.h"
#include "threads.h"

using namespace manyhot;

namespace {

template <class T, class Index>
bool solve(uint64_t seed, std::string& found) {
  Random random{std::mt19937_64(seed)};
  // Some large enough for several threads.
  const bool is_large = random.chance(0.1);
  const int64_t rows = random.between(0, is_large ? 100 : 9), features = random.between(1, 60);
  const int64_t columns = random.between(0, random.chance(0.5) ? 210 : 20);
  const int64_t dense_row = columns + random.between(0, 3), out_row = columns + random.between(0, 3);
  Exactly<Index> starts(rows + 1);
  for (int64_t row = 0; row < rows; ++row)
    starts[row + 1] = static_cast<Index>(starts[row] + (random.chance(0.3) ? 0 : random.between(0, is_large ? 80 : 20)));
  const int64_t stored = starts[rows];
  Exactly<Index> indices(stored);
  Exactly<T> values(stored), dense(columns ? (features - 1) * dense_row + columns : 0);
  for (int64_t i = 0; i < stored; ++i)
    indices[i] = static_cast<Index>(random.below(features)), values[i] = static_cast<T>(random.normal());
  // Gaps have numbers too: what is not written is seen by what stays of them.
  Exactly<T> out(rows && columns ? (rows - 1) * out_row + columns : 0);
  const T mark = T(-77);
  for (int64_t i = 0; columns && i < (features - 1) * dense_row + columns; ++i) dense[i] = static_cast<T>(random.normal());
  for (int64_t i = 0; rows && columns && i < (rows - 1) * out_row + columns; ++i) out[i] = mark;
  const int threads = static_cast<int>(random.between(1, 3));
  const size_t which = static_cast<size_t>(random.below(static_cast<int64_t>(instruction_sets().size())));
  const InstructionSet& set = instruction_sets()[which].here ? instruction_sets()[which] : instruction_sets().back();
  const Product product{rows,
                        columns,
                        starts.data.get(),
                        indices.data.get(),
                        sizeof(Index) == 8,
                        values.data.get(),
                        dense.data.get(),
                        dense_row,
                        out.data.get(),
                        out_row};
  write_product(sizeof(T) == 4 ? set.float32 : set.float64, product, threads);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < (row < rows - 1 && columns ? out_row : columns); ++column) {
      T want = column < columns ? T(0) : mark;
      for (int64_t i = starts[row]; column < columns && i < starts[row + 1]; ++i) {
        // Volatile, so that no compiler rounds once where there are two operations.
        volatile T term = values[i] * dense[indices[i] * dense_row + column];
        want += term;
      }
      const T got = out[row * out_row + column];
      if (got != want)
        return found = std::string(set.name) + ", " + std::to_string(threads) + " threads, " + std::to_string(rows) + " x " +
                       std::to_string(columns) + ": (" + std::to_string(row) + ", " + std::to_string(column) + ") is " +
                       std::to_string(got) + ", right is " + std::to_string(want),
               false;
    }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  return run_problems(count, arguments, "sparse products", [](uint64_t seed, std::string& found) {
    const bool has_long_indices = seed / 2 % 2;
    if (seed % 2) return has_long_indices ? solve<float, int64_t>(seed, found) : solve<float, int32_t>(seed, found);
    return has_long_indices ? solve<double, int64_t>(seed, found) : solve<double, int32_t>(seed, found);
  });
}
