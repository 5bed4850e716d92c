// The CPU kernel against the formulas of mathematics.md section 1 in long double, on random problems; `make sanitize` and
// `make fuzz` build and run it. No Python and no torch.
//
//   driver SECONDS [SEED]   problem after problem, SEED, SEED + 1, ..., until the time is over
//
// Exit 1 describes the first problem that differs; `driver 0 SEED` runs that one again. Every buffer has its exact size,
// so that AddressSanitizer sees whatever is read or written beside it.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>

#include "threads.h"

using namespace manyhot;
using Real = long double;

namespace {

constexpr Real infinity = std::numeric_limits<Real>::infinity(), nan_value = std::numeric_limits<Real>::quiet_NaN();
const char* const type_names[] = {"bool",  "uint8",   "int8",     "int16",   "int32",
                                  "int64", "float16", "bfloat16", "float32", "float64"};
const char* const link_names[] = {"none", "zlpr", "pairwise", "single_log"};

// --- random numbers; not the distributions of <random>, which differ from one standard library to the next ------------

struct Random {
  std::mt19937_64 engine;
  int64_t below(int64_t n) { return static_cast<int64_t>(engine() % static_cast<uint64_t>(n)); }
  int64_t between(int64_t first, int64_t last) { return first + below(last - first + 1); }
  double uniform(double from = 0, double to = 1) {
    return from + (to - from) * static_cast<double>(engine() >> 11) * 0x1p-53;
  }
  bool chance(double p) { return uniform() < p; }
  double sign() { return chance(0.5) ? 1 : -1; }
  double normal() {
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }
  template <class T>
  T any_of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<int64_t>(values.size()))];
  }
};

// --- half types, from their definition -----------------------------------------------------------------------------------

struct Half {
  int mantissa, bias;

  double decode(uint16_t bits) const {
    const int fraction = bits & ((1 << mantissa) - 1), top = (1 << (15 - mantissa)) - 1, exponent = bits >> mantissa & top;
    const double sign = bits >> 15 ? -1 : 1;
    if (exponent == top) return fraction ? NAN : sign * INFINITY;
    return sign * std::ldexp(exponent ? fraction + (1 << mantissa) : fraction, std::max(exponent, 1) - bias - mantissa);
  }

  // By search for the two neighbours: the nearer one, of two the even one. What would follow the largest stands for inf.
  uint16_t encode(double x) const {
    const int infinite = 0x7FFF >> mantissa << mantissa, sign = std::signbit(x) ? 0x8000 : 0;
    if (std::isnan(x)) return static_cast<uint16_t>(infinite | 1 << (mantissa - 1) | sign);
    const auto value = [&](int bits) {
      return bits < infinite ? decode(static_cast<uint16_t>(bits)) : std::ldexp(1.0, (infinite >> mantissa) - bias);
    };
    int low = 0, high = infinite;
    x = std::min(std::fabs(x), value(infinite));
    while (high - low > 1) (value((low + high) / 2) <= x ? low : high) = (low + high) / 2;
    const double down = x - value(low), up = value(high) - x;
    return static_cast<uint16_t>((down < up || (down == up && low % 2 == 0) ? low : high) | sign);
  }
};
constexpr Half float16{10, 15}, bfloat16{7, 127};

bool same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

bool check_halves(Random& random) {
  for (uint32_t i = 0; i < 65536 + 200000; ++i) {
    const auto bits = static_cast<uint16_t>(i);
    // Floats of any bits, and those at and next to the halves and the middles between them, where rounding turns.
    const bool wide = random.chance(0.5);
    uint32_t word = static_cast<uint32_t>(random.engine());
    if (i < 65536) word = uint32_t(bits) << 16 | (wide ? 0x8000 : 0);
    else if (wide) word = native::bits_of(static_cast<float>(float16.decode(bits))) ^ random.any_of({0U, 0x1000U});
    if (random.chance(0.5)) word += static_cast<uint32_t>(random.between(-1, 1));
    const float x = native::float_of(word);
    const bool good = same(native::from_float16(bits), float16.decode(bits)) &&
                      same(native::from_bfloat16(bits), bfloat16.decode(bits)) &&
                      (std::isnan(x) ? std::isnan(float16.decode(native::to_float16(x))) &&
                                           std::isnan(bfloat16.decode(native::to_bfloat16(x)))
                                     : native::to_float16(x) == float16.encode(x) &&
                                           native::to_bfloat16(x) == bfloat16.encode(x));
    if (!good) return std::printf("half.h: wrong for the half 0x%04x or the float 0x%08x (%a)\n", bits, word, x), false;
  }
  return true;
}

// --- memory of exactly the size that is needed -------------------------------------------------------------------------

struct Array {
  Type type = Type::float32;
  int64_t row = 0, label = 0;
  int64_t size = 0;
  std::unique_ptr<char[]> bytes;

  static int64_t width(Type type) {
    constexpr int widths[] = {1, 1, 1, 2, 4, 8, 2, 2, 4, 8};
    return widths[static_cast<int>(type)];
  }

  void allocate(Type of, int64_t count) {
    type = of, size = count, bytes.reset(new char[size * width(type)]);
    std::fill_n(bytes.get(), size * width(type), '\xEE');
  }
  void allocate(Type of, int64_t rows, int64_t labels, int64_t row_stride, int64_t label_stride) {
    row = row_stride, label = label_stride;
    allocate(of, rows ? (rows - 1) * row + (labels - 1) * label + 1 : 0);
  }

  // visit(pointer to the element) in its own type; halves as uint16_t.
  template <class Visit>
  void element(int64_t i, const Visit& visit) const {
    char* at = bytes.get() + i * width(type);
    switch (type) {
      case Type::boolean: case Type::uint8: return visit(reinterpret_cast<uint8_t*>(at));
      case Type::int8: return visit(reinterpret_cast<int8_t*>(at));
      case Type::int16: return visit(reinterpret_cast<int16_t*>(at));
      case Type::int32: return visit(reinterpret_cast<int32_t*>(at));
      case Type::int64: return visit(reinterpret_cast<int64_t*>(at));
      case Type::float16: case Type::bfloat16: return visit(reinterpret_cast<uint16_t*>(at));
      case Type::float32: return visit(reinterpret_cast<float*>(at));
      case Type::float64: return visit(reinterpret_cast<double*>(at));
    }
  }
  const Half* half() const {
    return type == Type::float16 ? &float16 : type == Type::bfloat16 ? &bfloat16 : nullptr;
  }

  double get(int64_t i) const {
    double value = 0;
    element(i, [&](auto* at) {
      value = half() ? half()->decode(static_cast<uint16_t>(*at)) : static_cast<double>(*at);
    });
    return value;
  }
  void set(int64_t i, double value) {
    if (half()) value = half()->encode(value);
    element(i, [&](auto* at) { *at = static_cast<std::decay_t<decltype(*at)>>(value); });
  }
  double at(int64_t r, int64_t c) const { return get(r * row + c * label); }
  void* data() const { return bytes.get(); }
  bool operator==(const Array& other) const {
    return std::equal(bytes.get(), bytes.get() + size * width(type), other.bytes.get());
  }
};

// --- a problem ------------------------------------------------------------------------------------------------------------

struct Problem {
  Batch batch{};
  Type computed = Type::float32;  // in which type
  Link link = Link::none;
  const InstructionSet* set = nullptr;
  int threads = 1;
  Array logits, targets, mask, threshold, log_weight, ids, offsets, soft;
  double total_factor = 1, outer_factor = 1;
  Array outer, outer_neg, outer_pos;  // what backward is given
  Type gradient = Type::float32;
  bool with_total = true;

  std::string describe() const {
    char text[700];
    const auto grid = [](const Grid& g) { return g.data ? std::to_string(g.row) + "/" + std::to_string(g.label) : "none"; };
    std::snprintf(
        text, sizeof text,
        "%s, %d threads, link %s; %lld rows x %lld labels, logits %s row stride %lld, targets %s row stride %lld, listed %s "
        "(width %lld, %lld ids), soft ids %d; strides of mask %s a row of it %lld, threshold %s, log_weight %s; scale %.17g, margin %.17g, "
        "gradient %s, outer stride %lld, factor %g",
        set->name, threads, link_names[int(link)], (long long)batch.rows, (long long)batch.labels,
        type_names[int(batch.logits_type)], (long long)batch.logits_row,
        batch.targets ? type_names[int(batch.targets_type)] : "none", (long long)batch.targets_row,
        batch.targets ? "no" : batch.offsets ? "offsets" : "padded", (long long)batch.width, (long long)ids.size,
        batch.soft != nullptr, grid(batch.mask).c_str(), (long long)batch.mask_every, grid(batch.threshold).c_str(), grid(batch.log_weight).c_str(),
        batch.scale, batch.margin, type_names[int(gradient)], (long long)outer.row, outer_factor);
    return text;
  }
};

double extreme(Random& random) {
  switch (random.below(4)) {
    case 0: return random.any_of<double>({INFINITY, -INFINITY, NAN, 0.0, -0.0, 0x1p-140, -0x1p-1060, 5e-324});
    case 1: return random.sign() * random.any_of({1e30, 3.4028234663852886e38, 1e15, 1e8, 65504.0, 1e300});
    case 2: return random.sign() * (random.any_of({80, 40, 600, 300}) + random.uniform(-1, 1));  // borders of a near tile
    default: return random.sign() * random.any_of({80.0, 40.0, 87.3365447, 88.0, 104.0, 300.0, 600.0, 708.4, 745.0});
  }
}

double soft_target(Random& random) {
  const double small = std::ldexp(1.0, -static_cast<int>(random.below(random.chance(0.5) ? 70 : 1074)));
  return random.any_of({random.uniform(), random.uniform(), small, 1 - small, std::ldexp(1.0, -149), std::ldexp(1.0, -1074)});
}

double wrong_target(Random& random, Type type, Type computed) {
  switch (type) {
    case Type::uint8: return random.any_of({2.0, 128.0, 255.0});
    case Type::int8: return random.any_of({2.0, -2.0, 127.0, -128.0});
    case Type::int16: return random.any_of({2.0, 256.0, 257.0, -101.0});
    case Type::int32: return random.any_of({2.0, 257.0, 65536.0, 65537.0});
    case Type::int64: return random.any_of({2.0, 0x1p32, 0x1p32 + 1, -0x1p63});
    default: break;
  }
  // A float64 target is wrong or not after it was rounded to the type that is computed in.
  if (type == computed && random.chance(0.3))
    return type == Type::float32 ? random.any_of({1 + 0x1p-23, -0x1p-149}) : random.any_of({1 + 0x1p-52, -0x1p-1074});
  return random.any_of<double>({1.5, -0.5, 2, -2, -99, INFINITY, -INFINITY});
}

// A row stride that is dense, wider than the labels, or 0.
int64_t row_stride(Random& random, int64_t labels) {
  return random.chance(0.1) ? 0 : labels + random.any_of<int64_t>({0, 0, 1, 5, 64});
}

Grid fill_grid(Random& random, Array& array, Type type, const Batch& batch, double (*value)(Random&, double), double rare) {
  const int64_t label = random.below(2);
  const int64_t row = random.chance(0.4) ? 0 : label ? batch.labels + random.any_of({0, 3}) : random.any_of({1, 4});
  array.allocate(type, batch.rows, batch.labels, row, label);
  for (int64_t i = 0; i < array.size; ++i) array.set(i, value(random, rare));
  return {array.data(), row, label};
}

void make_sizes(Random& random, Problem& p) {
  Batch& b = p.batch;
  const double kind = random.uniform();
  b.labels = random.between(1, kind < 0.4 ? 40 : kind < 0.75 ? 300 : 3000);
  b.rows = random.chance(0.03) ? 0 : random.between(1, random.chance(0.7) ? 8 : 130);
  // Whole tiles and segments, and one label more or less.
  if (random.chance(0.05)) b.labels = 1024 * random.between(1, 3) + random.between(-1, 1);
  if (random.chance(0.02))
    b.rows = random.between(1, 3), b.labels = random.any_of<int64_t>({65535, 65536, 65537, 66000 + random.below(70000)});
}

void make_logits(Random& random, Problem& p) {
  Batch& b = p.batch;
  b.logits_type = random.any_of({Type::float16, Type::bfloat16, Type::float32, Type::float32, Type::float64});
  p.computed = b.logits_type == Type::float64 ? Type::float64 : Type::float32;
  b.logits_row = row_stride(random, b.labels);
  p.logits.allocate(b.logits_type, b.rows, b.labels, b.logits_row, 1);
  b.logits = p.logits.data();
  const double spread = random.any_of({0.0, 0.1, 1.0, 1.0, 5.0, 30.0, 300.0}), middle = random.any_of({0.0, 0.0, -8.0, 1.1, 39.5, 79.0, -79.0, -500.0});
  const double rare = random.any_of({0.0, 0.0, 0.0, 0.0005, 0.01, 0.3});
  for (int64_t i = 0; i < p.logits.size; ++i)
    p.logits.set(i, random.chance(rare) ? extreme(random) : middle + spread * random.normal());
  b.scale = random.chance(0.5) ? 1 : random.any_of({0.5, 2.0, 30.0, 1e-3, random.uniform(0.1, 4)});
  b.margin = random.chance(0.5) ? 0 : random.any_of({0.25, 2.0, 50.0, random.uniform()});
}

void make_dense_targets(Random& random, Problem& p) {
  Batch& b = p.batch;
  const Type type = Type(random.below(10));
  const bool is_float = type >= Type::float16, has_unknown = is_float || (type >= Type::int8 && type <= Type::int64);
  b.targets_type = type, b.targets_row = row_stride(random, b.labels);
  p.targets.allocate(type, b.rows, b.labels, b.targets_row, 1);
  b.targets = p.targets.data();
  const double density = random.any_of({0.0, 0.01, 0.3, 1.0});
  const double unknown = has_unknown ? random.any_of({0.0, 0.0, 0.02, 0.9, 1.0}) : 0;
  const double soft = is_float ? random.any_of({0.0, 0.0, 0.02, 1.0}) : 0;
  // One for most labels of a problem, so that whole rows have tiny sums.
  const double usual = soft_target(random), odd = random.any_of({0.0, 0.1, 0.9});
  for (int64_t i = 0; i < p.targets.size; ++i) {
    double t = random.chance(density);
    if (random.chance(soft)) t = random.chance(odd) ? soft_target(random) : usual;
    if (random.chance(unknown)) t = is_float ? random.any_of<double>({-1, -100, NAN}) : random.any_of({-1.0, -100.0});
    p.targets.set(i, t);
  }
  if (p.targets.size && type != Type::boolean && random.chance(0.08))
    p.targets.set(random.below(p.targets.size), wrong_target(random, type, p.computed));
}

void make_listed_targets(Random& random, Problem& p) {
  Batch& b = p.batch;
  const int64_t most = random.any_of<int64_t>({0, 1, 5, 40});
  if (random.chance(0.5)) {
    p.offsets.allocate(Type::int64, b.rows + 1);
    double end = 0;
    for (int64_t r = 0; r <= b.rows; ++r) p.offsets.set(r, end), end += static_cast<double>(random.between(0, most));
    b.offsets = static_cast<const int64_t*>(p.offsets.data());
    p.ids.allocate(Type::int64, b.offsets[b.rows]);
  } else {
    b.width = most;
    p.ids.allocate(Type::int64, b.rows * most);
  }
  int64_t* ids = static_cast<int64_t*>(p.ids.data());
  b.ids = ids;
  // Ids from few labels: duplicates.
  const int64_t from = random.chance(0.2) ? std::min<int64_t>(b.labels, 3) : b.labels;
  for (int64_t i = 0; i < p.ids.size; ++i) ids[i] = random.chance(0.1) ? -1 : random.below(from);
  if (p.ids.size && random.chance(0.08))
    ids[random.below(p.ids.size)] = random.any_of<int64_t>({-2, b.labels, b.labels + 5, INT64_MAX, INT64_MIN});
  if (random.chance(0.5)) return;
  p.soft.allocate(p.computed, p.ids.size);
  b.soft = p.soft.data();
  for (int64_t i = 0; i < p.soft.size; ++i) p.soft.set(i, random.chance(0.2) ? random.below(2) : soft_target(random));
  if (p.soft.size && random.chance(0.08))
    p.soft.set(random.below(p.soft.size), random.any_of<double>({NAN, -1, 1.5, -0x1p-140, INFINITY}));
}

void make_problem(Random& random, Problem& p) {
  Batch& b = p.batch;
  make_sizes(random, p);
  make_logits(random, p);
  if (random.chance(0.7)) make_dense_targets(random, p);
  else make_listed_targets(random, p);
  if (random.chance(0.4)) {
    // Of exactly as many rows as are read.
    b.mask_every = random.chance(0.5) ? 1 : random.between(1, 12);
    Batch of_mask = b;
    of_mask.rows = (b.rows + b.mask_every - 1) / b.mask_every;
    b.mask = fill_grid(random, p.mask, Type::boolean, of_mask,
                       [](Random& r, double rare) -> double { return !r.chance(rare); },
                       random.any_of({0.0, 0.05, 0.9, 1.0}));
  }
  if (random.chance(0.4))
    b.threshold = fill_grid(random, p.threshold, p.computed, b,
                            [](Random& r, double rare) { return r.chance(rare) ? extreme(r) : r.normal(); },
                            random.any_of({0.0, 0.0, 0.01}));
  if (random.chance(0.3))
    b.log_weight = fill_grid(random, p.log_weight, p.computed, b,
                             [](Random& r, double rare) { return r.chance(rare) ? r.any_of<double>({-INFINITY, -200, 50}) : r.normal(); },
                             random.any_of({0.0, 0.1, 1.0}));
  p.link = Link(random.below(4));
  p.threads = static_cast<int>(random.between(1, 4));
  do p.set = &instruction_sets()[random.below(static_cast<int64_t>(instruction_sets().size()))];
  while (!p.set->here);
  p.gradient = random.any_of({p.computed, p.computed, Type::float16, Type::bfloat16});
  p.with_total = random.chance(0.7);
  p.total_factor = random.any_of({1.0, 0.125, 1.0 / static_cast<double>(b.rows + 1)});
  p.outer_factor = random.any_of({1.0, 0.01, 3.0});
  const auto make_outer = [&](Array& outer, int64_t stride) {
    outer.allocate(p.computed, b.rows, 1, stride, 0);
    for (int64_t i = 0; i < outer.size; ++i)
      outer.set(i, random.any_of({1.0, 1.0, 0.0, -2.5, random.normal(), 65536.0, 1e-5}));
  };
  make_outer(p.outer, random.below(2));
  if (random.chance(0.8)) make_outer(p.outer_neg, 1);
  if (random.chance(0.8)) make_outer(p.outer_pos, 1);
}

// --- what is right ----------------------------------------------------------------------------------------------------------

Real softplus_of(Real x) { return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x)); }
Real sigmoid_of(Real x) { return 1 / (1 + std::exp(-x)); }

// One side of a row: the exponents of its labels, -inf where a label has no term.
struct RightSide {
  std::vector<Real> exponent;
  std::vector<Real> size;  // what the exponents are made of, for their rounding
  Real value = -infinity, peak = -infinity, total = 1;
  Real slack = 0, value_slack = 0;  // how far from log(total) and from `value` rounding may lead

  void finish(Real shift, Real base, Real unit) {
    bool has_nan = false;
    for (Real x : exponent) has_nan |= std::isnan(x), peak = x > peak ? x : peak;
    slack = value_slack = base, value = peak = has_nan ? nan_value : peak;
    if (!std::isfinite(peak)) return;
    Real largest = total = 0;
    for (size_t i = 0; i < exponent.size(); ++i) {
      total += std::exp(exponent[i] - peak);
      if (exponent[i] >= peak - 100) largest = std::max(largest, size[i]);
    }
    value += std::log(total) + shift;
    slack += 4 * unit * largest;
    value_slack = slack + 0x1p-51L * (std::fabs(value) + std::fabs(peak) + shift);
  }
  // Of the side's gradient the part of a label. An empty or infinite side has none.
  Real share(int64_t i) const {
    return std::isfinite(peak) ? std::exp(exponent[i] - peak) / total : std::isnan(peak) ? peak : 0;
  }
};

// The derivative of a loss by one side; the relative error and the size that the sides' rounding may give it.
struct Derivative {
  Real value = 1, slack = 0, most = 1;
};

struct RightRow {
  RightSide neg, pos;
  std::vector<char> known;
  bool any_known = false, is_wrong = false, is_soft = false;
  Real loss = 0, loss_slack = 0;
  Derivative by_neg, by_pos;
};

// The target of each label of a row; NaN where it is unknown.
template <class T>
std::vector<T> right_targets(const Problem& p, int64_t row, bool& is_wrong) {
  const Batch& b = p.batch;
  std::vector<T> targets(b.labels, T(0));
  if (b.targets) {
    for (int64_t i = 0; i < b.labels; ++i) targets[i] = static_cast<T>(p.targets.at(row, i));
  } else {
    const int64_t from = b.offsets ? b.offsets[row] : row * b.width, to = b.offsets ? b.offsets[row + 1] : from + b.width;
    for (int64_t k = from; k < to; ++k) {
      const int64_t id = b.ids[k];
      const T t = b.soft ? static_cast<T>(p.soft.get(k)) : T(1);
      is_wrong |= id < -1 || id >= b.labels || (id >= 0 && !(t >= 0 && t <= 1));
      if (id >= 0 && id < b.labels) targets[id] = std::max(targets[id], t);
    }
  }
  for (int64_t i = 0; i < b.labels; ++i) {
    T& t = targets[i];
    if ((b.mask.data && !p.mask.at(row / b.mask_every, i)) || t == -1 || t == -100) t = NAN;
    is_wrong |= t < 0 || t > 1;
  }
  return targets;
}

template <class T>
RightRow right_row(const Problem& p, int64_t row) {
  const Batch& b = p.batch;
  RightRow right;
  const std::vector<T> targets = right_targets<T>(p, row, right.is_wrong);
  if (right.is_wrong) return right;
  for (RightSide* side : {&right.neg, &right.pos})
    side->exponent.assign(b.labels, -infinity), side->size.assign(b.labels, 0);
  for (int64_t i = 0; i < b.labels; ++i) {
    const Real t = targets[i], log_weight = b.log_weight.data ? p.log_weight.at(row, i) : 0;
    right.known.push_back(!std::isnan(t));
    right.any_known |= right.known.back();
    right.is_soft |= t > 0 && t < 1;
    if (std::isnan(t) || log_weight == -infinity) continue;
    // Rounded as by any implementation in T: of logits like 1e30 rounding decides which are equal.
    T z = static_cast<T>(p.logits.at(row, i));
    if (b.threshold.data) z = z - static_cast<T>(p.threshold.at(row, i));
    z = static_cast<T>(b.scale) * z;
    if (t < 1) right.neg.exponent[i] = z + std::log1p(-t) + log_weight;
    if (t > 0) right.pos.exponent[i] = -z + std::log(t) + log_weight;
    const Real of_both = std::fabs(Real(z)) + std::fabs(log_weight);
    right.neg.size[i] = of_both - std::log1p(-t), right.pos.size[i] = of_both - std::log(t);
  }
  // A lane adds up to 256 numbers; an exponential's own argument may be 87, or 708, with a relative error of a unit.
  const Real unit = std::numeric_limits<T>::epsilon(), base = sizeof(T) == 8 ? 1e-12L : 4e-5L;
  const Real shift = Real(b.scale) * b.margin;
  const bool two_terms = right.is_soft || b.log_weight.data;
  right.neg.finish(shift, base, two_terms ? unit : 0), right.pos.finish(shift, base, two_terms ? unit : 0);
  const Real n = right.neg.value, q = right.pos.value, n_slack = right.neg.value_slack, q_slack = right.pos.value_slack;
  const auto by = [](Real x, Real slack) {
    return Derivative{sigmoid_of(x), (1 - sigmoid_of(x)) * slack, sigmoid_of(x + slack)};
  };
  const bool has_nan = std::isnan(n) || std::isnan(q);
  if (p.link == Link::zlpr) {
    right.loss = softplus_of(n) + softplus_of(q), right.by_neg = by(n, n_slack), right.by_pos = by(q, q_slack);
    right.loss_slack = right.by_neg.most * n_slack + right.by_pos.most * q_slack;
  } else if (p.link == Link::pairwise) {
    // An empty side makes the loss 0, also beside an infinite one.
    const Real both = !has_nan && std::min(n, q) == -infinity ? -infinity : n + q;
    right.loss = softplus_of(both), right.by_neg = right.by_pos = by(both, n_slack + q_slack);
    right.loss_slack = right.by_neg.most * (n_slack + q_slack);
  } else if (p.link == Link::single_log) {
    const Real top = has_nan ? nan_value : std::max({Real(0), n, q});
    const Real all = std::exp(-top) + std::exp(n - top) + std::exp(q - top);
    right.loss = top == 0 ? std::log1p(std::exp(n) + std::exp(q)) : top < infinity ? top + std::log(all) : top;
    right.by_neg = {top == infinity ? 0 : std::exp(n - top) / all, n_slack + q_slack, 1};
    right.by_pos = {top == infinity ? 0 : std::exp(q - top) / all, n_slack + q_slack, 1};
    right.loss_slack = by(n, n_slack).most * n_slack + by(q, q_slack).most * q_slack;
  }
  if (std::isnan(right.loss)) right.loss_slack = 0;
  return right;
}

// --- comparing ----------------------------------------------------------------------------------------------------------------

struct Worst {
  Real sums = 0, gradient = 0;
} worst[2];  // of float32 and float64

struct Outputs {
  Array saved, loss, neg, pos, known, total, gradient;
  int64_t unknown_rows = 0;
  bool is_wrong = false, same_in_forward = true;

  void run(const Problem& p, int threads) {
    const int64_t rows = p.batch.rows;
    const Blocks& blocks = p.computed == Type::float64 ? p.set->float64 : p.set->float32;
    saved.allocate(Type::float64, 4 * rows), known.allocate(Type::boolean, rows), total.allocate(p.computed, 1);
    for (Array* array : {&loss, &neg, &pos}) array->allocate(p.computed, rows);
    Forward out{static_cast<Saved*>(saved.data()), loss.data(), neg.data(), pos.data(), static_cast<uint8_t*>(known.data()),
                p.with_total ? total.data() : nullptr, p.total_factor, nullptr, p.gradient};
    forward(blocks, p.batch, p.link, threads, out);
    unknown_rows = out.unknown_rows, is_wrong = out.is_wrong;
    gradient.allocate(p.gradient, rows * p.batch.labels);
    const Backward given{static_cast<const Saved*>(saved.data()), p.outer.data(), p.outer_neg.data(), p.outer_pos.data(),
                         p.outer.row, p.outer_factor, gradient.data(), p.gradient};
    // Also after a wrong target: it must stay within its buffers.
    backward(blocks, p.batch, p.link, threads, given);
    if (p.link == Link::none || is_wrong) return;
    // Written in forward, the gradient of the total is that of backward, to the bit.
    Array one, early, late;
    one.allocate(p.computed, 1), one.set(0, 1);
    for (Array* array : {&early, &late}) array->allocate(p.gradient, rows * p.batch.labels);
    out.gradient = early.data();
    forward(blocks, p.batch, p.link, threads, out);
    const Backward of_total{static_cast<const Saved*>(saved.data()), one.data(), nullptr, nullptr, 0, p.total_factor,
                            late.data(), p.gradient};
    backward(blocks, p.batch, p.link, threads, of_total);
    same_in_forward = early == late;
  }

  bool operator==(const Outputs& o) const {
    return is_wrong == o.is_wrong && (is_wrong || (saved == o.saved && loss == o.loss && neg == o.neg && pos == o.pos &&
                                                   known == o.known && total == o.total && gradient == o.gradient &&
                                                   unknown_rows == o.unknown_rows));
  }
};

// What a type makes of a number is added to the tolerance; what it cannot hold is infinite.
bool near(const Array& array, int64_t i, Real want, Real tolerance, std::string& found) {
  const double got = array.get(i);
  const Real unit[] = {0x1p-11L, 0x1p-8L, 0x1p-24L, 0x1p-53L}, least[] = {0x1p-25L, 0x1p-134L, 0x1p-125L, 0x1p-1021L};
  const Real most[] = {65520, 0x1.FFp127L, 0x1.FFFFFFp127L, std::numeric_limits<double>::max()};
  const int k = static_cast<int>(array.type) - static_cast<int>(Type::float16);
  tolerance += std::fabs(want) * unit[k] + (k < 2 ? std::max(least[k], least[2]) : least[k]);
  const bool may_be_infinite = std::fabs(want) + tolerance >= most[k];
  if (std::isnan(want) ? std::isnan(got)
                       : (std::isinf(got) && may_be_infinite && (got > 0) == (want > 0)) || std::fabs(got - want) <= tolerance)
    return true;
  char text[200];
  std::snprintf(text, sizeof text, "got %.17g, right is %.17Lg, tolerance %.3Lg", got, want, tolerance);
  found += text;
  return false;
}

template <class T>
bool compare(const Problem& p, const Outputs& out, std::string& found) {
  const Batch& b = p.batch;
  Real total = 0;
  int64_t unknown_rows = 0;
  bool is_wrong = false;
  Worst& most = worst[sizeof(T) == 8];
  if (!out.same_in_forward) return found = "the gradient written in forward is not that of backward", false;
  for (int64_t row = 0; row < b.rows; ++row) {
    const RightRow right = right_row<T>(p, row);
    is_wrong |= right.is_wrong;
    if (is_wrong || out.is_wrong) continue;
    const RightSide &neg = right.neg, &pos = right.pos;
    const std::string place = "row " + std::to_string(row) + ", ";
    unknown_rows += !right.any_known;
    if (out.known.get(row) != right.any_known) return found = place + "known", false;
    for (const RightSide* side : {&neg, &pos}) {
      const int64_t at = 4 * row + 2 * (side == &pos);
      const Real from = out.saved.get(at), sum = out.saved.get(at + 1);
      const Real error = std::isfinite(from) ? from - side->peak + std::log(sum / side->total) : 0;
      found = place + (side == &neg ? "neg: " : "pos: ");
      if (std::isfinite(side->peak) ? !std::isfinite(from) || !(std::fabs(error) <= side->slack) : !same(from, side->peak))
        return found += "saved " + std::to_string(from) + " + log " + std::to_string(sum), false;
      if (!near(side == &neg ? out.neg : out.pos, row, side->value, side->value_slack, found)) return false;
      most.sums = std::max(most.sums, std::fabs(error) / (1 + std::fabs(side->peak)));
    }
    if (!near(out.loss, row, right.loss, right.loss_slack, found = place + "loss: ")) return false;
    total += out.loss.get(row);

    const bool by_loss = p.link != Link::none;
    const Real outer = by_loss ? Real(p.outer_factor) * p.outer.at(row, 0) : 0;
    const Real outer_neg = by_loss ? outer : p.outer_neg.data() ? p.outer_neg.get(row) : 0;
    const Real outer_pos = by_loss ? outer : p.outer_pos.data() ? p.outer_pos.get(row) : 0;
    const Real a = outer_neg == 0 ? 0 : outer_neg * right.by_neg.value * b.scale;
    const Real c = outer_pos == 0 ? 0 : -outer_pos * right.by_pos.value * b.scale;
    for (int64_t i = 0; i < b.labels; ++i) {
      Real want = 0, tolerance = 0;
      bool exact = true;
      const auto add = [&](const RightSide& side, const Derivative& by, Real outer, Real factor) {
        if (outer == 0 || side.exponent[i] == -infinity || std::isinf(side.peak)) return;
        const Real here = factor * side.share(i), slack = 2 * (side.slack + by.slack);
        const Real most = std::fabs(outer) * b.scale * by.most;
        want += here, exact &= slack < (sizeof(T) == 8 ? 1e-11L : 1e-3L);
        // Where rounding leaves nothing of a derivative, it is still not larger than it can be. What is less than 1e-20 of
        // the side may be lost; of a soft row, whose near tiles have a factor of their own that may underflow, of 1.
        const Real lost = sizeof(T) == 8 ? 1e-170L : 1e-20L;
        if (!std::isnan(here)) tolerance += slack < 0.5 ? std::fabs(here) * slack + std::max<Real>(most, right.is_soft) * lost : most * 1.01L;
      };
      add(neg, right.by_neg, outer_neg, a), add(pos, right.by_pos, outer_pos, c);
      const int64_t at = row * b.labels + i;
      // A NaN in a row: its side is NaN, and where the two meet in one label also the other; unknown labels stay 0.
      const bool has_nan = std::isnan(a) || std::isnan(c) || (std::isnan(neg.value) && a != 0) || (std::isnan(pos.value) && c != 0);
      const bool may_be_nan = right.known[i] && has_nan;
      if (may_be_nan && std::isnan(out.gradient.get(at))) continue;
      if (!near(out.gradient, at, want, tolerance, found = place + "label " + std::to_string(i) + ", gradient: ")) return false;
      if (p.gradient == p.computed && std::isfinite(want) && exact && std::fabs(a) + std::fabs(c) > 1e-30L)
        most.gradient = std::max(most.gradient, std::fabs(out.gradient.get(at) - want) / (std::fabs(a) + std::fabs(c)));
    }
  }
  if (is_wrong != out.is_wrong) return found = is_wrong ? "is_wrong was not set" : "is_wrong was set", false;
  if (is_wrong) return true;
  found = "unknown_rows: got " + std::to_string(out.unknown_rows) + ", right is " + std::to_string(unknown_rows);
  if (unknown_rows != out.unknown_rows) return false;
  total *= p.total_factor;
  const Real slack = std::isfinite(total) ? std::fabs(total) * 64 * std::numeric_limits<T>::epsilon() : 0;
  return !p.with_total || near(out.total, 0, total, slack, found = "total: ");
}

bool solve(uint64_t seed, std::string& found) {
  Random random{std::mt19937_64(seed)};
  Problem p;
  make_problem(random, p);
  Outputs out, alone;
  out.run(p, p.threads);
  alone.run(p, 1);
  bool good = p.computed == Type::float64 ? compare<double>(p, out, found) : compare<float>(p, out, found);
  if (good && !(out == alone)) good = false, found = "another number of threads gives other bits";
  if (!good) found = p.describe() + "\n" + found;
  return good;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return std::printf("usage: driver SECONDS [SEED]\n"), 2;
  const double seconds = std::atof(arguments[1]);
  const uint64_t first = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
  Random random{std::mt19937_64(first)};
  if (!check_halves(random)) return 1;
  std::string found, sets;
  for (const InstructionSet& set : instruction_sets())
    if (set.here) sets += std::string(" ") + set.name;
  const auto start = std::chrono::steady_clock::now();
  uint64_t seed = first;
  do {
    if (!solve(seed, found)) return std::printf("driver 0 %llu\n%s\n", (unsigned long long)seed, found.c_str()), 1;
    ++seed;
  } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds);
  std::printf("%llu problems agree, seeds %llu to %llu, instruction sets%s\n", (unsigned long long)(seed - first),
              (unsigned long long)first, (unsigned long long)(seed - 1), sets.c_str());
  for (const int k : {0, 1})
    std::printf("float%d: worst error of neg and pos %.2Lg relative to 1 + |value|, of a gradient %.2Lg of its row's\n",
                32 << k, worst[k].sums, worst[k].gradient);
  return 0;
}
