// Sums over all label sets of a to b labels, mathematics.md section 2, on the CPU: symmetric.py says it in PyTorch.
//
//   value    = log sum_{j=a..b} Z_j(s) - sum_i t_i s_i
//   gradient = probability of each label to be in a set, less t
//
// A row is measured from a tilt c, x = s - c. Light labels (x <= 0) and heavy ones have the weight e^{-|x|}; the coefficients of
// prod_light (1 + w z) and prod_heavy (1 + w z) say how sets take light labels and lack heavy ones. Polynomials are
// multiplied with one lane for every 16th label and four labels a step, and the lanes at the end. The probability of a label
// comes from its polynomial divided by its own factor, whose recursion does not grow since w <= 1.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <new>
#include <vector>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include "tile.h"

namespace manyhot {

struct Sets {
  int64_t rows, labels;
  const void* logits;  // of the type that is computed in, and so is `point`
  int64_t logits_row;
  const void* point;
  int64_t point_row;
  Grid known;  // bytes
  const int64_t *smallest, *largest;
  double* value;   // null where it is not asked for
  void* gradient;  // the same; rows without gaps
};

namespace MANYHOT_ISA {

// 1 + w z four times: steps between two rescalings, which the sums of 64 factors up to 2 allow.
constexpr int steps_a_scaling = 16;

// Of each instruction set by itself: members of std::vector<float> that are not inlined have one name in all of them, and
// the linker would keep those of the largest, which stop an older processor.
template <class T>
struct Allocator {
  using value_type = T;

  Allocator() = default;
  template <class U>
  Allocator(const Allocator<U>&) {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new(n * sizeof(T))); }
  void deallocate(T* p, std::size_t) { ::operator delete(p); }
  bool operator==(const Allocator&) const { return true; }
  bool operator!=(const Allocator&) const { return false; }
};

template <class T>
using Numbers = std::vector<T, Allocator<T>>;

// What is less than this share of the largest coefficient is dropped: at the tilt no sum that counts gets anything from it,
// and polynomials become much shorter than their degree.
template <class T>
constexpr T negligible = sizeof(T) == 8 ? T(0x1p-700) : T(0x1p-100);

// Coefficients 0 to `degree` of a polynomial over 2^exponent.
template <class T>
struct Polynomial {
  Numbers<T> c;
  int64_t exponent = 0;

  int degree() const { return static_cast<int>(c.size()) - 1; }

  // Make the largest coefficient about 1.
  void scale() {
    int power;
    std::frexp(*std::max_element(c.begin(), c.end()), &power);
    const T factor = static_cast<T>(std::ldexp(1.0, -power));
    for (T& x : c) x = x * factor < negligible<T> ? T(0) : x * factor;
    exponent += power;
    while (c.size() > 1 && c.back() == 0) c.pop_back();
  }
};

template <class T>
Polynomial<T> product(const Polynomial<T>& a, const Polynomial<T>& b, int64_t degree) {
  Polynomial<T> out;
  out.c.assign(std::min<int64_t>(a.degree() + b.degree(), degree) + 1, T(0));
  for (int i = 0; i <= a.degree(); ++i) {
    const int last = std::min(b.degree(), out.degree() - i);
    const T factor = a.c[i];
    const T* from = b.c.data();
    T* to = out.c.data() + i;
    for (int j = 0; j <= last; ++j) to[j] += factor * from[j];
  }
  out.exponent = a.exponent + b.exponent;
  out.scale();
  return out;
}

// Multiplications up to which one factor after the other is faster than lanes that are joined at the end.
constexpr int64_t few_terms = 2048;

// The product of 1 + w z over `count` weights, a multiple of four vectors of them, up to a degree.
template <class T>
Polynomial<T> product_of_factors(const T* w, int64_t count, int64_t degree, Numbers<T>& space) {
  using V = Vector<T>;
  constexpr int lanes = VectorOf<T>::lanes;
  if (count * degree <= few_terms) {
    // No coefficient is above the number of sets, which float has.
    Polynomial<T> out;
    out.c.assign(degree + 1, T(0)), out.c[0] = 1;
    int64_t top = 0;
    for (int64_t i = 0; i < count; ++i) {
      if (w[i] == 0) continue;
      top = std::min(top + 1, degree);
      for (int64_t j = top; j > 0; --j) out.c[j] += w[i] * out.c[j - 1];
    }
    out.scale();
    return out;
  }
  const int64_t steps = count / (4 * lanes), most = std::min(degree, 4 * steps);
  // Four zeros below the coefficients, so that the recursion needs no care at its end.
  space.assign((most + 6) * lanes, T(0));
  constexpr uintptr_t aligned = MANYHOT_VECTOR_BYTES;
  T* p = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(space.data()) + aligned - 1) / aligned * aligned) + 4 * lanes;
  store(p, splat<T>(1));
  int64_t exponents[lanes] = {}, top = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const T* at = w + 4 * lanes * step;
    const V a = load<V>(at), b = load<V>(at + lanes), c = load<V>(at + 2 * lanes), d = load<V>(at + 3 * lanes);
    const V ab = a * b, cd = c * d, a_b = a + b, c_d = c + d;
    const V e1 = a_b + c_d, e2 = ab + cd + a_b * c_d, e3 = ab * c_d + cd * a_b, e4 = ab * cd;
    const int64_t before = top;
    top = std::min(most, top + 4);
    for (int64_t j = before + 1; j <= top; ++j) store(p + j * lanes, V{});
    T* to = p + top * lanes;
    V p0 = load<V>(to), p1 = load<V>(to - lanes), p2 = load<V>(to - 2 * lanes), p3 = load<V>(to - 3 * lanes);
    for (int64_t j = top; j > 0; --j, to -= lanes) {
      const V p4 = load<V>(to - 4 * lanes);
      store(to, p0 + (e1 * p1 + e2 * p2) + (e3 * p3 + e4 * p4));
      p0 = p1, p1 = p2, p2 = p3, p3 = p4;
    }
    while (top > 0 && !any<T>(load<V>(p + top * lanes) >= negligible<T>)) --top;
    if (step % steps_a_scaling != steps_a_scaling - 1) continue;
    V most_of_lane{};
    for (int64_t j = 0; j <= top; ++j) most_of_lane = larger(load<V>(p + j * lanes), most_of_lane);
    V factor;
    for (int lane = 0; lane < lanes; ++lane) {
      int power;
      std::frexp(most_of_lane[lane], &power);
      exponents[lane] += power, factor[lane] = std::ldexp(T(1), -power);
    }
    for (int64_t j = 0; j <= top; ++j) {
      const V x = load<V>(p + j * lanes) * factor;
      store(p + j * lanes, x < negligible<T> ? V{} : x);
    }
  }
  Polynomial<T> of_lane[lanes];
  for (int lane = 0; lane < lanes; ++lane) {
    of_lane[lane].c.resize(top + 1);
    for (int64_t j = 0; j <= top; ++j) of_lane[lane].c[j] = p[j * lanes + lane];
    of_lane[lane].exponent = exponents[lane];
    of_lane[lane].scale();
  }
  for (int half = lanes / 2; half > 0; half /= 2)
    for (int lane = 0; lane < half; ++lane) of_lane[lane] = product(of_lane[lane], of_lane[lane + half], degree);
  return of_lane[0];
}

// The labels of one side, light or heavy: their weights, in vectors of four, with zeros for all others; by their places where
// they are few.
template <class T>
struct Group {
  Numbers<T> w;
  Numbers<int32_t> place;
  int64_t count = 0, degree = 0;
  bool gathered = false;
  Polynomial<T> p;
  Numbers<double> rest;  // of i labels of this side: the sum over all that goes with them on the other side
};

// Probabilities that the labels of a side are taken (or lacking), 4 vectors at a time so that none waits for another.
template <class T, class Put>
void each_probability(const Group<T>& side, const Numbers<T>& rest, const Put& put) {
  using V = Vector<T>;
  constexpr int lanes = VectorOf<T>::lanes, group = 4;
  const int degree = side.p.degree();
  for (size_t at = 0; at < side.w.size(); at += group * lanes) {
    V w[group], f[group], sum[group];
    for (int g = 0; g < group; ++g) {
      w[g] = load<V>(side.w.data() + at + g * lanes);
      f[g] = splat<T>(side.p.c[0]), sum[g] = V{};
    }
    for (int i = 0; i < degree; ++i) {
      const T next = side.p.c[i + 1], with = rest[i + 1];
      for (int g = 0; g < group; ++g) {
        sum[g] += f[g] * with;
        f[g] = next - w[g] * f[g];
      }
    }
    for (int g = 0; g < group; ++g) {
      const V q = w[g] * sum[g];
      put(static_cast<int64_t>(at) + g * lanes, q > 0 ? (q < 1 ? q : splat<T>(1)) : V{});
    }
  }
}

template <class T>
class SetsOfRow {
 public:
  explicit SetsOfRow(const Sets& batch) : batch_(batch), n_(batch.labels) {
    padded_ = (n_ + block - 1) / block * block;
    s_.assign(padded_, T(-INFINITY)), x_.assign(padded_, T(0)), t_.assign(padded_, T(0));
  }

  void run(int64_t row) {
    read(row);
    T* gradient = batch_.gradient ? static_cast<T*>(batch_.gradient) + row * n_ : nullptr;
    if (has_nan_ || surplus_ > b_) return fill(row, NAN, gradient, T(NAN));
    if (present_ < a_) return fill(row, batch_.point ? INFINITY : -INFINITY, gradient, batch_.point ? T(0) : T(NAN));
    a_ = std::max<int64_t>(a_ - surplus_, 0), b_ = std::min(b_, present_) - surplus_, present_ -= surplus_;
    tilt();
    split();
    const double total = join();
    if (batch_.value) {
      const double log_total = std::log(total) + 0.6931471805599453 * double(light_.p.exponent + heavy_.p.exponent);
      batch_.value[row] = log_total + (size_ - k_) * tilt_ + linear_ + infinite_;
    }
    if (gradient) write(total, row, gradient);
  }

 private:
  using V = Vector<T>;
  static constexpr int lanes = VectorOf<T>::lanes;
  static constexpr int64_t block = 4 * lanes;

  const Sets& batch_;
  const int64_t n_;
  int64_t padded_;
  Numbers<T> s_, x_, t_, space_, rest_;
  Group<T> light_, heavy_;
  int64_t a_, b_, present_, surplus_;  // surplus: labels at +inf, in every set
  bool has_nan_;
  double k_, size_, tilt_, linear_, infinite_;
  T anchor_, remainder_;
  double most_, least_;

  void fill(int64_t row, double value, T* gradient, T slope) {
    if (batch_.value) batch_.value[row] = value;
    if (!gradient) return;
    for (int64_t i = 0; i < n_; ++i) gradient[i] = s_[i] == T(-INFINITY) ? T(0) : slope;
  }

  // Copy a row: what is out becomes -inf with t = 0, and what is in every set too.
  void read(int64_t row) {
    const T* s = static_cast<const T*>(batch_.logits) + row * batch_.logits_row;
    const T* t = batch_.point ? static_cast<const T*>(batch_.point) + row * batch_.point_row : nullptr;
    const uint8_t* known = static_cast<const uint8_t*>(batch_.known.data);
    if (known) known += row * batch_.known.row;
    a_ = batch_.smallest[row], b_ = batch_.largest[row];
    std::copy(s, s + n_, s_.begin());
    std::fill(s_.begin() + n_, s_.end(), T(-INFINITY));
    if (t) std::copy(t, t + n_, t_.begin());
    if (known)
      for (int64_t i = 0; i < n_; ++i)
        if (!known[i * batch_.known.label]) s_[i] = T(-INFINITY), t_[i] = T(0);
    const V infinity = splat<T>(INFINITY);
    V most = -infinity, least = infinity;
    Words<T> nan{}, odd{};
    for (int64_t i = 0; i < padded_; i += lanes) {
      const V x = load<V>(s_.data() + i);
      nan |= x != x, odd |= (x == infinity) | ((x == -infinity) & (load<V>(t_.data() + i) != 0));
      most = larger(x, most), least = smaller(x == -infinity ? infinity : x, least);
    }
    has_nan_ = any<T>(nan), infinite_ = 0, surplus_ = 0, present_ = 0, k_ = 0;
    most_ = largest<T>(most), least_ = -static_cast<double>(largest<T>(-least));
    if (any<T>(odd)) {
      most_ = -INFINITY;
      for (int64_t i = 0; i < n_; ++i) {
        if (s_[i] == T(INFINITY)) {
          if (!t || t_[i] != 1) infinite_ = INFINITY;
          ++surplus_, s_[i] = T(-INFINITY);
        } else if (s_[i] == T(-INFINITY) && t_[i] != 0) {
          infinite_ = INFINITY;
        }
        if (s_[i] == T(-INFINITY)) t_[i] = 0;
        most_ = std::max(most_, static_cast<double>(s_[i]));
      }
    }
    for (int64_t from = 0; from < padded_; from += tile_labels) {
      const int64_t to = std::min<int64_t>(padded_, from + tile_labels);
      V count{}, chosen{};
      for (int64_t i = from; i < to; i += lanes) {
        count += load<V>(s_.data() + i) == -infinity ? V{} : splat<T>(1);
        chosen += load<V>(t_.data() + i);
      }
      present_ += static_cast<int64_t>(sum(count)), k_ += sum(chosen);
    }
    present_ += surplus_;
  }

  void anchor(double c) { tilt_ = c, anchor_ = static_cast<T>(c), remainder_ = static_cast<T>(c - anchor_); }

  // x = s - c without loss at a large common offset.
  MANYHOT_INLINE V measured(int64_t i) const { return (load<V>(s_.data() + i) - anchor_) - remainder_; }

  // The average number of labels of a set at the tilt, and how fast it falls with it.
  void average(double c, double& mean, double& slope) {
    anchor(c);
    mean = slope = 0;
    for (int64_t from = 0; from < padded_; from += tile_labels) {
      const int64_t to = std::min<int64_t>(padded_, from + tile_labels);
      V p_sum{}, v_sum{};
      for (int64_t i = from; i < to; i += lanes) {
        const V x = measured(i), e = exp<T>(-magnitude<T>(x)), share = 1 / (1 + e);
        p_sum += (x > 0 ? splat<T>(1) : e) * share;
        v_sum += e * share * share;
      }
      mean += sum(p_sum), slope += sum(v_sum);
    }
  }

  // log sum e^{sign (s - from)}, `from` the largest or the smallest logit.
  double log_sum(double from, T sign) {
    anchor(from);
    double total = 0;
    for (int64_t at = 0; at < padded_; at += tile_labels) {
      const int64_t to = std::min<int64_t>(padded_, at + tile_labels);
      V part{};
      for (int64_t i = at; i < to; i += lanes) {
        const V x = sign * measured(i);
        part += load<V>(s_.data() + i) == splat<T>(-INFINITY) ? V{} : exp<T>(x);
      }
      total += sum(part);
    }
    return std::log(total);
  }

  // Choose c: 0 where sets have a to b labels on average, else so that they have a or b.
  void tilt() {
    double mean = a_ == b_ ? -1 : 0, slope;
    if (a_ < b_) average(0, mean, slope);
    size_ = std::min<double>(std::max<double>(mean, a_), b_);
    if (present_ == 0 || size_ == mean) return anchor(0);
    const double margin = std::log(static_cast<double>(present_)) + 2;
    if (size_ <= 0) return anchor(most_ + margin);
    // Every label is in the one set: below all logits any c is as good, and a near one costs size * c no digits.
    if (size_ >= present_) return anchor(least_ - 1);
    // Newton's steps on the logarithm of the smaller of mean and n - mean, which is concave: from its bound they come near
    // the solution from one side. Within 0.3 any c is as good.
    const bool few = 2 * size_ <= present_;
    double c = few ? most_ + log_sum(most_, T(1)) - std::log(size_)
                   : least_ - log_sum(least_, T(-1)) + std::log(present_ - size_);
    for (int step = 0; step < 12; ++step) {
      average(c, mean, slope);
      const double part = few ? mean : present_ - mean, wanted = few ? size_ : present_ - size_;
      const double move = (few ? 1 : -1) * std::log(part / wanted) * part / slope;
      if (!(std::fabs(move) < 100)) break;
      c += move;
      if (std::fabs(move) < 0.1) return anchor(c);
    }
    bisect(margin);
  }

  // Where logits lie so far apart that sums do not see them all: between the two that the wanted number separates.
  void bisect(double slack) {
    Numbers<T> sorted(s_.begin(), s_.begin() + n_);
    const int64_t place = static_cast<int64_t>(size_) - 1;
    std::nth_element(sorted.begin(), sorted.begin() + place, sorted.end(), std::greater<T>());
    const double of = sorted[place];
    const double next = place + 1 < n_ ? *std::max_element(sorted.begin() + place + 1, sorted.end()) : -INFINITY;
    double low = std::max(next, of - 100) - slack, high = of + slack, mean, slope;
    for (int step = 0; step < 12; ++step) {
      const double middle = (low + high) / 2;
      average(middle, mean, slope);
      (mean > size_ ? low : high) = middle;
    }
    anchor((low + high) / 2);
  }

  // Weights of either side, and sum_i (heavy_i - t_i) x_i, whose terms are all positive with 0/1 targets.
  void split() {
    light_.w.resize(padded_), heavy_.w.resize(padded_);
    linear_ = 0;
    int64_t heavy = 0;
    for (int64_t from = 0; from < padded_; from += tile_labels) {
      const int64_t to = std::min<int64_t>(padded_, from + tile_labels);
      V linear{}, count{};
      for (int64_t i = from; i < to; i += lanes) {
        const V x = measured(i), t = load<V>(t_.data() + i), w = exp<T>(-magnitude<T>(x));
        const Words<T> is_heavy = x > 0;
        const V factor = where<T>(is_heavy, splat<T>(1)) - t;
        linear += factor == 0 ? V{} : factor * x;
        count += where<T>(is_heavy, splat<T>(1));
        store(light_.w.data() + i, where<T>(~is_heavy, w));
        store(heavy_.w.data() + i, where<T>(is_heavy, w));
        store(x_.data() + i, x);
      }
      linear_ += sum(linear), heavy += static_cast<int64_t>(sum(count));
    }
    if (!batch_.point) {
      // Then heavy labels count as targets do: c meets what a set has more or fewer than these, since heavy * c and size * c
      // would cancel.
      linear_ = 0, k_ = static_cast<double>(heavy);
      for (int64_t i = 0; i < n_; ++i)
        if (x_[i] > 0) linear_ += static_cast<double>(s_[i]);
    }
    light_.count = present_ - heavy, heavy_.count = heavy;
    light_.degree = std::min(light_.count, b_), heavy_.degree = std::min(heavy_.count, present_ - a_);
    gather(light_, false), gather(heavy_, true);
    light_.p = product_of_factors(light_.w.data(), light_.w.size(), light_.degree, space_);
    heavy_.p = product_of_factors(heavy_.w.data(), heavy_.w.size(), heavy_.degree, space_);
  }

  void gather(Group<T>& side, bool is_heavy) {
    side.gathered = 4 * side.count < n_;
    if (!side.gathered) return;
    side.place.clear();
    for (int64_t i = 0; i < n_; ++i)
      if ((x_[i] > 0) == is_heavy && s_[i] > T(-INFINITY)) side.place.push_back(static_cast<int32_t>(i));
    for (int64_t i = 0; i < side.count; ++i) side.w[i] = side.w[side.place[i]];
    const int64_t padded = (side.count + block - 1) / block * block;
    side.w.resize(padded);
    std::fill(side.w.begin() + side.count, side.w.end(), T(0));
  }

  // Sum over all pairs of a number of light labels and a number of missing heavy ones.
  double join() {
    const int light = light_.p.degree(), heavy = heavy_.p.degree();
    light_.rest.assign(light + 2, 0), heavy_.rest.assign(heavy + 2, 0);
    double total = 0;
    for (int64_t size = a_; size <= b_; ++size) {
      const double weight = a_ == b_ ? 1 : std::exp((size - size_) * tilt_);
      for (int64_t l = std::max<int64_t>(0, size - heavy_.count); l <= light; ++l) {
        const int64_t d = heavy_.count + l - size;
        if (d > heavy) break;
        light_.rest[l] += weight * heavy_.p.c[d];
        heavy_.rest[d] += weight * light_.p.c[l];
        total += weight * light_.p.c[l] * heavy_.p.c[d];
      }
    }
    return total;
  }

  void write(double total, int64_t row, T* gradient) {
    Group<T>* sides[] = {&light_, &heavy_};
    for (Group<T>* side : sides) {
      rest_.resize(side->rest.size());
      for (size_t i = 0; i < rest_.size(); ++i) rest_[i] = static_cast<T>(side->rest[i] / total);
      alignas(64) T q[lanes];
      const T sign = side == &light_ ? T(1) : T(-1);
      each_probability(*side, rest_, [&](int64_t at, V probability) {
        store(q, probability);
        if (side->gathered) {
          for (int lane = 0; lane < lanes && at + lane < side->count; ++lane)
            s_[side->place[at + lane]] = sign * q[lane];
        } else {
          // Each label is on one side; the other adds nothing to it.
          const Words<T> mine = side == &light_ ? load<V>(x_.data() + at) <= 0 : load<V>(x_.data() + at) > 0;
          store(s_.data() + at, where<T>(mine, sign * probability, load<V>(s_.data() + at)));
        }
      });
    }
    const T* s = static_cast<const T*>(batch_.logits) + row * batch_.logits_row;
    for (int64_t i = 0; i < n_; ++i) {
      const T base = x_[i] > 0 ? 1 - t_[i] : -t_[i];
      gradient[i] = s_[i] == T(-INFINITY) ? T(0) : base + s_[i];
    }
    if (surplus_)
      for (int64_t i = 0; i < n_; ++i)
        if (s[i] == T(INFINITY) && !batch_.point) gradient[i] = 1;
  }
};

// Subnormal numbers, each of which costs a hundred cycles, are 0 while this lives, on its thread alone.
class WithoutSubnormals {
#if defined(__SSE2__)
 public:
  WithoutSubnormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~WithoutSubnormals() { _mm_setcsr(before_); }
  WithoutSubnormals(const WithoutSubnormals&) = delete;

 private:
  const unsigned before_;
#endif
};

template <class T>
void write_sets(const Sets& batch, int64_t begin, int64_t end) {
  [[maybe_unused]] const WithoutSubnormals without;
  SetsOfRow<T> row(batch);
  for (int64_t i = begin; i < end; ++i) row.run(i);
}

}  // namespace MANYHOT_ISA
}  // namespace manyhot
