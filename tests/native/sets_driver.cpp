// Sums over label sets on random problems against dynamic programming in long double.
#include "problems.h"
#include "threads.h"

using namespace manyhot;
using Real = long double;

namespace {

// log(e^a + e^b)
Real join(Real a, Real b) {
  const Real most = std::max(a, b);
  return std::isinf(most) ? most : most + std::log1p(std::exp(std::min(a, b) - most));
}

// log Z_0..Z_high of the labels that are left, one of them out.
std::vector<Real> sums(const std::vector<Real>& s, int64_t high, int64_t without) {
  std::vector<Real> z(high + 1, -INFINITY);
  z[0] = 0;
  for (int64_t i = 0; i < int64_t(s.size()); ++i)
    if (i != without && s[i] > -INFINITY)
      for (int64_t j = high; j > 0; --j) z[j] = join(z[j], z[j - 1] + s[i]);
  return z;
}

Real over(const std::vector<Real>& z, int64_t low, int64_t high) {
  Real total = -INFINITY;
  for (int64_t j = std::max<int64_t>(low, 0); j <= high; ++j) total = join(total, z[j]);
  return total;
}

template <class T>
bool solve(uint64_t seed, std::string& found) {
  Random random{std::mt19937_64(seed)};
  const bool single = sizeof(T) == 4;
  const int64_t rows = random.between(0, 5), labels = random.between(1, random.chance(0.2) ? 200 : 24);
  const int64_t gap = random.between(0, 3), point_gap = random.between(0, 3);
  Exactly<T> logits(rows * (labels + gap)), point(rows * (labels + point_gap)), gradient(rows * labels);
  Exactly<uint8_t> known(rows * labels);
  Exactly<int64_t> smallest(rows), largest(rows);
  Exactly<double> value(rows);
  const bool has_point = random.chance(0.6), has_known = random.chance(0.4);
  const double spread = random.chance(0.3) ? 20 : 2, offset = random.chance(0.2) ? 1000 * random.normal() : 0;
  for (int64_t row = 0; row < rows; ++row) {
    smallest[row] = random.between(0, labels);
    largest[row] = random.chance(0.5) ? smallest[row] : random.between(smallest[row], labels);
    for (int64_t i = 0; i < labels; ++i) {
      T& s = logits[row * (labels + gap) + i];
      s = random.chance(0.02) ? T(-INFINITY) : T(spread * random.normal() + (smallest[row] == largest[row] ? offset : 0));
      known[row * labels + i] = random.chance(0.8);
      if (!known[row * labels + i] && has_known && random.chance(0.2)) s = T(NAN);
      point[row * (labels + point_gap) + i] = random.chance(0.1) ? T(random.uniform()) : T(random.chance(0.3));
    }
  }
  const auto run = [&](int threads) {
    const Sets batch{rows,
                     labels,
                     logits.data.get(),
                     labels + gap,
                     has_point ? point.data.get() : nullptr,
                     labels + point_gap,
                     {has_known ? known.data.get() : nullptr, labels, 1},
                     smallest.data.get(),
                     largest.data.get(),
                     value.data.get(),
                     gradient.data.get()};
    const size_t which = seed / 2 % instruction_sets().size();
    const InstructionSet& set = instruction_sets()[instruction_sets()[which].here ? which : instruction_sets().size() - 1];
    write_sets(single ? set.float32 : set.float64, batch, threads);
  };
  run(int(random.between(1, 3)));
  for (int64_t row = 0; row < rows; ++row) {
    std::vector<Real> s(labels, -INFINITY);
    Real chosen = 0, k = 0, size_of = 0;
    int64_t present = 0;
    for (int64_t i = 0; i < labels; ++i) {
      if (has_known && !known[row * labels + i]) continue;
      s[i] = logits[row * (labels + gap) + i];
      present += s[i] > -INFINITY;
      const Real t = has_point ? Real(point[row * (labels + point_gap) + i]) : 0;
      if (t > 0) chosen += t * s[i], k += t, size_of = std::max(size_of, std::fabs(s[i]));
    }
    const std::string place = "row " + std::to_string(row) + " of " + std::to_string(rows) + " x " + std::to_string(labels) +
                              ", " + std::to_string(smallest[row]) + ".." + std::to_string(largest[row]);
    const Real got = value[row];
    if (present < smallest[row]) {
      if (got != (has_point ? INFINITY : -INFINITY)) return found = place + ": too few labels", false;
      continue;
    }
    const int64_t high = std::min(largest[row], present);
    const Real log_total = over(sums(s, high, -1), smallest[row], high), want = log_total - chosen;
    // A set of another size than the range, which the losses refuse, leaves a multiple of the tilt.
    const Real slack = (single ? 4e-6L : 1e-12L) * (1 + std::fabs(want) + (single ? 1e-1L : 1) * (labels + std::fabs(log_total)));
    if (std::isinf(want) ? got != want : !(std::fabs(got - want) <= slack))
      return found = place + ": value " + std::to_string(double(got)) + ", right is " + std::to_string(double(want)), false;
    for (int64_t i = 0; i < labels; ++i) {
      const bool left = s[i] > -INFINITY;
      const Real t = has_point && left ? Real(point[row * (labels + point_gap) + i]) : 0;
      Real p = 0;
      if (left && high > 0) p = std::exp(s[i] + over(sums(s, high - 1, i), smallest[row] - 1, high - 1) - log_total);
      const Real slope = gradient[row * labels + i], limit = (single ? 2e-5L : 1e-10L);
      if (!(std::fabs(slope - (p - t)) <= limit * (t == 0 ? p + 1e-25L : 1)))
        return found = place + ", label " + std::to_string(i) + ": gradient " + std::to_string(double(slope)) +
                       ", right is " + std::to_string(double(p - t)), false;
    }
  }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  return run_problems(count, arguments, "problems of label sets", [](uint64_t seed, std::string& found) {
    return seed % 2 ? solve<float>(seed, found) : solve<double>(seed, found);
  });
}
