// Nearest rows on random problems against all products and a sort: all bits, with any features called frequent.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "nearest.h"
#include "problems.h"

using namespace manyhot;

namespace {

// A matrix whose rows name each feature once, in their order.
struct Matrix {
  Exactly<int64_t> starts;
  Exactly<int32_t> indices;
  Exactly<float> values;

  Sparse sparse() const { return {starts.data.get(), indices.data.get(), values.data.get()}; }
};

// Numbers are some of `some`, or normal where `any_other`.
Matrix drawn(Random& random, int64_t rows, int64_t features, double often, bool is_signed,
             const std::vector<float>& some, bool any_other) {
  std::vector<int32_t> indices;
  std::vector<float> values;
  Exactly<int64_t> starts(rows + 1);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t feature = 0; feature < features; ++feature) {
      if (!random.chance(often / (1 + 0.2 * feature))) continue;
      float x = some[random.below(static_cast<int64_t>(some.size()))];
      if (any_other && random.chance(0.5)) x = static_cast<float>(random.normal());
      indices.push_back(static_cast<int32_t>(feature));
      values.push_back(is_signed ? x * static_cast<float>(random.sign()) : std::abs(x));
    }
    starts[row + 1] = static_cast<int64_t>(indices.size());
  }
  Matrix made{std::move(starts), Exactly<int32_t>(indices.size()), Exactly<float>(values.size())};
  for (size_t i = 0; i < indices.size(); ++i) made.indices[i] = indices[i], made.values[i] = values[i];
  return made;
}

// The columns.
Matrix columns(const Matrix& matrix, int64_t rows, int64_t features) {
  std::vector<std::vector<std::pair<int32_t, float>>> found(features);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = matrix.starts[row]; i < matrix.starts[row + 1]; ++i)
      found[matrix.indices[i]].push_back({static_cast<int32_t>(row), matrix.values[i]});
  Exactly<int64_t> starts(features + 1);
  for (int64_t feature = 0; feature < features; ++feature)
    starts[feature + 1] = starts[feature] + static_cast<int64_t>(found[feature].size());
  Matrix made{std::move(starts), Exactly<int32_t>(made.starts[features]), Exactly<float>(made.starts[features])};
  int64_t at = 0;
  for (const auto& column : found)
    for (const auto& [row, x] : column) made.indices[at] = row, made.values[at++] = x;
  return made;
}

bool solve(uint64_t seed, std::string& found) {
  Random random{std::mt19937_64(seed)};
  const int64_t rows = random.between(1, random.chance(0.2) ? 700 : 30), features = random.between(1, 40);
  const int64_t count = random.between(0, 9), most = random.between(1, rows < 25 ? rows : 25);
  const bool is_signed = random.chance(0.5);
  // Few values make rows that are equally near; others sums that overflow, or are hardly there, or nearly equal.
  const std::vector<std::pair<std::vector<float>, std::vector<float>>> regimes{
      {{0.5f, 1.0f}, {0.5f, 1.0f}},
      {{3e38f, 1e38f, 3.2e38f}, {1.0f, 0.9f}},
      {{1e-23f, 0.9e-22f, 3e-23f}, {1e-23f, 0.9e-22f, 1e-22f}},
      {{1e30f, 0.9e30f, 1.7e30f, 0.0f}, {1.4e-45f, 2.8e-45f, 7e-45f}},
      {{1e19f, 1e20f, 1e-20f, 1.0f}, {1e19f, 1e20f, 1e18f, 1.0f}},
      {{1.0f, 1.0000001f, 0.9999999f}, {1.0f, 1.0000001f, 0.9999999f}},
  };
  const int64_t regime = random.chance(0.5) ? 0 : random.below(static_cast<int64_t>(regimes.size()));
  const auto& [some, ones] = regimes[regime];
  const Matrix matrix = drawn(random, rows, features, random.chance(0.5) ? 0.9 : 0.2, is_signed, some, regime == 0);
  const Matrix asked = drawn(random, count, features, 0.7, is_signed, ones, regime == 0);
  Exactly<uint8_t> is_frequent(features);
  const double often = random.chance(0.3) ? 0 : random.chance(0.3) ? 1 : 0.5;
  for (int64_t feature = 0; feature < features; ++feature) is_frequent[feature] = random.chance(often);
  const Matrix postings = columns(matrix, rows, features);
  Exactly<float> frequent(rows);
  double longest = 0;
  for (int64_t row = 0; row < rows; ++row) {
    double square = 0, part = 0;
    for (int64_t i = matrix.starts[row]; i < matrix.starts[row + 1]; ++i) {
      const double x = matrix.values[i];
      square += x * x, part += is_frequent[matrix.indices[i]] ? x * x : 0;
    }
    frequent[row] = part > 0 ? std::nextafter(static_cast<float>(std::sqrt(part)), INFINITY) : 0;
    longest = std::max(longest, std::sqrt(square));
  }
  Exactly<float> product(count * most);
  Exactly<int64_t> which(count * most);
  for (int64_t i = 0; i < count * most; ++i) which[i] = -1;  // what is not written is seen
  const int threads = static_cast<int>(random.between(1, 3));
  const Searched searched{rows,
                          features,
                          matrix.sparse(),
                          postings.sparse(),
                          is_frequent.data.get(),
                          frequent.data.get(),
                          longest};
  write_nearest(searched, asked.sparse(), count, most, threads, product.data.get(), which.data.get());
  for (int64_t i = 0; i < count; ++i) {
    std::vector<float> dense(features, 0.0f), all(rows, 0.0f);
    for (int64_t j = asked.starts[i]; j < asked.starts[i + 1]; ++j) dense[asked.indices[j]] = asked.values[j];
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t j = matrix.starts[row]; j < matrix.starts[row + 1]; ++j) {
        // Volatile, so that no compiler rounds once where there are two operations.
        volatile float term = matrix.values[j] * dense[matrix.indices[j]];
        all[row] += term;
      }
    for (int64_t j = 0; j < most; ++j)
      if (which[i * most + j] < 0 || which[i * most + j] >= rows)
        return found = "no row at place " + std::to_string(j) + " of row " + std::to_string(i), false;
    // Inf - inf is no number, and has no place in an order.
    if (std::any_of(all.begin(), all.end(), [](float x) { return std::isnan(x); })) continue;
    std::vector<int64_t> order(rows);
    std::iota(order.begin(), order.end(), int64_t(0));
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return all[a] > all[b]; });
    for (int64_t j = 0; j < most; ++j) {
      const int64_t row = which[i * most + j];
      if (row != order[j] || product[i * most + j] != all[order[j]])
        return found = std::to_string(rows) + " x " + std::to_string(features) + ", " + std::to_string(threads) +
                       " threads: place " + std::to_string(j) + " of row " + std::to_string(i) + " has row " +
                       std::to_string(row) + ", " + std::to_string(product[i * most + j]) + "; right is " +
                       std::to_string(order[j]) + ", " + std::to_string(all[order[j]]),
               false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) { return run_problems(count, arguments, "searches of nearest rows", solve); }
