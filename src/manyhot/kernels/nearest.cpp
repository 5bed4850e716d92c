// Most of what a row has in common with others lies in its rare features, whose columns are short; most of the work of
// a product lies in the frequent ones. So the products with all rows are made of the rare features alone. A row's
// product is at most that sum plus the product of the lengths of both frequent parts (Cauchy and Schwarz), and only the
// few rows whose bound reaches the worst of the best known are multiplied whole.
//
// Compiled with -ffp-contract=off: what is returned is the sum of a row's terms in its own order, each rounded, as
// csr.cpp makes it.
#include "nearest.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <memory>
#include <vector>

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace manyhot {
namespace {

// Rows whose bounds are looked at at once, without a branch.
constexpr int64_t at_once = 256;
// The relative error of a sum or a product in single precision, twice what rounding to nearest makes.
constexpr double rounding = 1.2e-7;

struct Found {
  float product;
  int64_t row;
  // Whether it comes before another.
  bool operator<(const Found& other) const {
    return product > other.product || (product == other.product && row < other.row);
  }
};

// The best that were seen; the worst of them is on top of a heap.
class Best {
 public:
  explicit Best(int64_t most) : found(new Found[most]), most(most) {}

  void clear() { size = 0; }
  bool is_full() const { return size == most; }
  float worst() const { return found[0].product; }

  void add(Found one) {
    if (is_full()) {
      if (!(one < found[0])) return;
      std::pop_heap(begin(), end());
      --size;
    }
    found[size++] = one;
    std::push_heap(begin(), end());
  }

  void sort() { std::sort_heap(begin(), end()); }
  Found* begin() { return found.get(); }
  Found* end() { return found.get() + size; }

 private:
  std::unique_ptr<Found[]> found;
  int64_t most, size = 0;
};

class Search {
 public:
  Search(const Searched& searched, const Sparse& asked, int64_t most)
      : searched(searched),
        asked(asked),
        best(most),
        sums(new float[searched.rows]),
        dense(new float[searched.features]) {
    clear(dense.get(), searched.features);
  }

  // Write the best of one row.
  void write(int64_t row, float* product, int64_t* which) {
    const int64_t begin = asked.starts[row], end = asked.starts[row + 1];
    clear(sums.get(), searched.rows);
    double square = 0, frequent = 0;
    for (int64_t i = begin; i < end; ++i) {
      const int32_t feature = asked.indices[i];
      const float x = asked.values[i];
      dense[feature] = x;
      square += double(x) * x;
      if (searched.is_frequent[feature]) frequent += double(x) * x;
      else add(searched.postings, feature, x);
    }
    has_frequent = frequent > 0;
    length = has_frequent ? std::nextafter(static_cast<float>(std::sqrt(frequent)), INFINITY) : 0;
    // The sum of rare features and the whole product have been rounded once a term, their bound twice. Where the sum of
    // some terms may overflow, or something is no number, no bound holds, and all rows are multiplied.
    const double reach = std::sqrt(square) * searched.longest;
    const double error = (2 * (end - begin) + 16) * (rounding * reach + FLT_TRUE_MIN);
    slack = reach < FLT_MAX / 4 ? static_cast<float>(error) : INFINITY;
    find();
    best.sort();
    for (const Found& one : best) *product++ = one.product, *which++ = one.row;
    for (int64_t i = begin; i < end; ++i) dense[asked.indices[i]] = 0;
  }

 private:
  const Searched& searched;
  const Sparse& asked;
  Best best;
  std::unique_ptr<float[]> sums, dense;
  bool has_frequent = false;
  float length = 0, slack = 0;

  static void clear(float* numbers, int64_t count) {
    for (int64_t i = 0; i < count; ++i) numbers[i] = 0;
  }

  void add(const Sparse& postings, int32_t feature, float x) {
    const int64_t end = postings.starts[feature + 1];
    for (int64_t i = postings.starts[feature]; i < end; ++i) sums[postings.indices[i]] += postings.values[i] * x;
  }

  // The product with a row, in the order of its terms.
  float multiplied(int64_t row) const {
    if (!has_frequent || searched.frequent[row] == 0) return sums[row];  // all terms, in this order too
    float sum = 0;
    const int64_t end = searched.by_row.starts[row + 1];
    for (int64_t i = searched.by_row.starts[row]; i < end; ++i)
      sum += searched.by_row.values[i] * dense[searched.by_row.indices[i]];
    return sum;
  }

  // Find the best among all rows whose bound is at least `bar`, which rises to the worst of them less `below`.
  template <class Bound, class Value>
  void scan(float bar, float below, const Bound& bound, const Value& value) {
    best.clear();
    for (int64_t first = 0; first < searched.rows; first += at_once) {
      const int64_t last = std::min(first + at_once, searched.rows);
      int any = 0;
      // Written so that what is no number passes: nothing may be left unwritten.
      for (int64_t row = first; row < last; ++row) any |= !(bound(row) < bar);
      if (!any) continue;
      for (int64_t row = first; row < last; ++row) {
        if (bound(row) < bar) continue;
        best.add({value(row), row});
        if (best.is_full()) bar = std::max(bar, best.worst() - below);
      }
    }
  }

  void find() {
    const float *rare = sums.get(), *lengths = searched.frequent, mine = length;
    const auto sum = [=](int64_t row) { return rare[row]; };
    scan(-INFINITY, 0, sum, sum);
    if (!has_frequent) return;
    // The worst of the best is no worse than the worst of any others, say of these.
    float worst = INFINITY;
    for (const Found& one : best) worst = std::min(worst, multiplied(one.row));
    const auto bound = [=](int64_t row) { return rare[row] + mine * lengths[row]; };
    scan(worst - slack, slack, bound, [this](int64_t row) { return multiplied(row); });
  }
};

}  // namespace

void write_nearest(const Searched& searched, const Sparse& asked, int64_t count, int64_t most, int threads,
                   float* product, int64_t* row) {
  threads = static_cast<int>(std::max<int64_t>(std::min<int64_t>(threads, count), 1));
  std::vector<Search> searches;  // before threads start, so that what memory lacks is said and not fatal
  for (int i = 0; i < threads; ++i) searches.emplace_back(searched, asked, most);
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < count; ++i)
      searches[omp_get_thread_num()].write(i, product + i * most, row + i * most);
    return;
  }
#endif
  for (int64_t i = 0; i < count; ++i) searches[0].write(i, product + i * most, row + i * most);
}

}  // namespace manyhot
