// Vectors of float or double as wide as the machine that this file is compiled for, and exp and log on them.
//
// GCC's and clang's vector types, so that `a * b + c` and `mask ? a : b` are single instructions, almost without
// intrinsics and without -ffast-math. A comparison gives integer lanes, all ones where it holds.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512BW__) && defined(__AVX512VL__)
#define MANYHOT_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define MANYHOT_VECTOR_BYTES 32
#else
#define MANYHOT_VECTOR_BYTES 16
#endif

#define MANYHOT_INLINE inline __attribute__((always_inline))
#define MANYHOT_INLINED __attribute__((always_inline))  // of a lambda

// One namespace for each instruction set: two copies of this code in one library must not be mistaken for each other.
#ifndef MANYHOT_ISA
#define MANYHOT_ISA native
#endif

namespace manyhot::MANYHOT_ISA {

template <class T>
struct Bits;
template <>
struct Bits<float> {
  using Type = uint32_t;
  static constexpr int mantissa = 23, bias = 127;
};
template <>
struct Bits<double> {
  using Type = uint64_t;
  static constexpr int mantissa = 52, bias = 1023;
};

template <class T>
struct VectorOf {
  static constexpr int lanes = MANYHOT_VECTOR_BYTES / sizeof(T);
  using Word = typename Bits<T>::Type;
  typedef T Type __attribute__((vector_size(MANYHOT_VECTOR_BYTES)));
  typedef Word Words __attribute__((vector_size(MANYHOT_VECTOR_BYTES)));
  typedef uint8_t Bytes __attribute__((vector_size(lanes)));
};

template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
using Words = typename VectorOf<T>::Words;

template <class V, class S>
MANYHOT_INLINE V load(const S* from) {
  V v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

template <class V, class S>
MANYHOT_INLINE void store(S* to, V v) {
  std::memcpy(to, &v, sizeof v);
}

// One byte a lane, widened. GCC 12 takes thirty instructions for what x86 has one for.
template <class T>
MANYHOT_INLINE Words<T> load_bytes(const uint8_t* from) {
#if MANYHOT_VECTOR_BYTES == 64
  if constexpr (sizeof(T) == 4) return (Words<T>)_mm512_cvtepu8_epi32(load<__m128i>(from));
  else return (Words<T>)_mm512_cvtepu8_epi64(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return (Words<T>)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
  else return (Words<T>)_mm256_cvtepu8_epi64(_mm_cvtsi32_si128(load<int32_t>(from)));
#endif
  return __builtin_convertvector(load<typename VectorOf<T>::Bytes>(from), Words<T>);
}

template <class T>
MANYHOT_INLINE Vector<T> splat(T x) {
  return Vector<T>{} + x;
}

template <class T>
MANYHOT_INLINE Words<T> bits(Vector<T> x) {
  Words<T> w;
  std::memcpy(&w, &x, sizeof w);
  return w;
}

template <class T>
MANYHOT_INLINE Vector<T> from_bits(Words<T> w) {
  Vector<T> x;
  std::memcpy(&x, &w, sizeof x);
  return x;
}

template <class T>
MANYHOT_INLINE Vector<T> magnitude(Vector<T> x) {
  return from_bits<T>(bits<T>(x) & ~(Words<T>{} + (typename Bits<T>::Type(1) << (8 * sizeof(T) - 1))));
}

// Lanes where the mask is all ones, and zeros elsewhere or lanes of `b`. By bits: of `mask ? a : b` GCC makes a comparison
// with AVX-512, whose masks are no vectors.
template <class T>
MANYHOT_INLINE Vector<T> where(Words<T> mask, Vector<T> a) {
  return from_bits<T>(bits<T>(a) & mask);
}

template <class T>
MANYHOT_INLINE Vector<T> where(Words<T> mask, Vector<T> a, Vector<T> b) {
  return from_bits<T>((bits<T>(a) & mask) | (bits<T>(b) & ~mask));
}

// -x in the lanes of the mask.
template <class T>
MANYHOT_INLINE Vector<T> negative_where(Words<T> mask, Vector<T> x) {
  return from_bits<T>(bits<T>(x) ^ (mask & (Words<T>{} + (typename Bits<T>::Type(1) << (8 * sizeof(T) - 1)))));
}

// A NaN in `x` is dropped, one in `so_far` too: one instruction, and NaN is counted apart.
template <class V>
MANYHOT_INLINE V larger(V x, V so_far) {
  return x > so_far ? x : so_far;
}

template <class V>
MANYHOT_INLINE V smaller(V x, V so_far) {
  return x < so_far ? x : so_far;
}

// Half of the lanes: by a shuffle where the compiler knows it, since memory in between costs more than the rest.
template <int lanes, class Half, bool upper, class V>
MANYHOT_INLINE Half half_of(V v) {
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
  constexpr int k = upper ? lanes / 2 : 0;
  if constexpr (lanes == 4) return __builtin_shufflevector(v, v, k, k + 1);
  else if constexpr (lanes == 8) return __builtin_shufflevector(v, v, k, k + 1, k + 2, k + 3);
  else if constexpr (lanes == 16)
    return __builtin_shufflevector(v, v, k, k + 1, k + 2, k + 3, k + 4, k + 5, k + 6, k + 7);
#endif
#endif
  Half half;
  std::memcpy(&half, reinterpret_cast<const char*>(&v) + (upper ? sizeof half : 0), sizeof half);
  return half;
}

// Join the upper half of the lanes with the lower, and again, until one is left.
template <class T, int lanes, class V, class Join>
MANYHOT_INLINE T across(V v, const Join& join) {
  if constexpr (lanes == 2) {
    return join(v[0], v[1]);
  } else {
    typedef T Half __attribute__((vector_size(lanes / 2 * sizeof(T))));
    return across<T, lanes / 2>(join(half_of<lanes, Half, false>(v), half_of<lanes, Half, true>(v)), join);
  }
}

template <class T>
MANYHOT_INLINE T largest(Vector<T> v) {
  return across<T, VectorOf<T>::lanes>(v, [](auto a, auto b) { return a > b ? a : b; });
}

MANYHOT_INLINE double sum(Vector<double> v) {
  return across<double, VectorOf<double>::lanes>(v, [](auto a, auto b) { return a + b; });
}

// In double from the first addition of lanes on.
MANYHOT_INLINE double sum(Vector<float> v) {
  constexpr int lanes = VectorOf<float>::lanes;
  typedef float Half __attribute__((vector_size(MANYHOT_VECTOR_BYTES / 2)));
#if MANYHOT_VECTOR_BYTES == 64
  const auto wide = [](Half half) MANYHOT_INLINED { return (Vector<double>)_mm512_cvtps_pd((__m256)half); };
#else
  const auto wide = [](Half half) MANYHOT_INLINED { return __builtin_convertvector(half, Vector<double>); };
#endif
  return sum(wide(half_of<lanes, Half, false>(v)) + wide(half_of<lanes, Half, true>(v)));
}

// Whether any lane of a comparison holds.
template <class T>
MANYHOT_INLINE bool any(Words<T> mask) {
#if MANYHOT_VECTOR_BYTES == 64
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#elif defined(__AVX2__)
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
  return across<typename Bits<T>::Type, VectorOf<T>::lanes>(mask, [](auto a, auto b) { return a | b; }) != 0;
#endif
}

// e^x = 2^n e^r with |r| <= log(2)/2, and (e^r - 1 - r)/r^2 interpolated in the Chebyshev nodes.
template <class T>
struct Exp;
template <>
struct Exp<float> {
  static constexpr float log2e = 1.44269504F, round = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float ln2_high = 0.693359375F, ln2_low = -2.12194440e-4F, lowest = -87.3365447F;
  // relative error 1e-8
  static constexpr float c[] = {0.5F, 0.16666576666F, 0.04166655421F, 0.00836323288F, 0.00139262508F};
};
template <>
struct Exp<double> {
  static constexpr double log2e = 1.4426950408889634, round = 6755399441055744.0;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 1.9082149292705877e-10;
  static constexpr double lowest = -708.3964185322641;
  // relative error 2e-17
  static constexpr double c[] = {0.5000000000000001,     0.16666666666666669,    0.041666666666623824,
                                 0.008333333333330039,   0.0013888888917367081,  0.00019841269863171557,
                                 2.4801521057868204e-05, 2.7557268276905696e-06, 2.7620201591031547e-07,
                                 2.5100472505694996e-08};
};

// For |x| up to about 80, or 700.
template <class T>
MANYHOT_INLINE Vector<T> exp_near(Vector<T> x) {
  using E = Exp<T>;
  constexpr int degree = sizeof(E::c) / sizeof(T);
  const Vector<T> shifted = x * E::log2e + E::round;
  const Vector<T> n = shifted - E::round;
  const Vector<T> r = (x - n * E::ln2_high) - n * E::ln2_low;
  Vector<T> p = splat<T>(E::c[degree - 1]);
  for (int i = degree - 2; i >= 0; --i) p = p * r + E::c[i];
  p = p * r * r + r + T(1);
  // The lowest bits of `shifted` are those of n: the sum adds n to the exponent of p.
  return from_bits<T>(bits<T>(p) + (bits<T>(shifted) << Bits<T>::mantissa));
}

// For x up to about 1. Below the logarithm of the smallest normal number it is 0, so that -inf needs no care; of NaN too.
template <class T>
MANYHOT_INLINE Vector<T> exp(Vector<T> x) {
  return x >= Exp<T>::lowest ? exp_near<T>(x) : Vector<T>{};
}

// e^x and e^-x as exp_near, by the even and the odd terms of the polynomial above: both for little more than
// one, where a division would take as long as the whole.
template <class T>
MANYHOT_INLINE void exp_of_both_signs(Vector<T> x, Vector<T>& of_x, Vector<T>& of_minus_x) {
  using E = Exp<T>;
  constexpr int degree = sizeof(E::c) / sizeof(T), even_top = (degree - 1) / 2 * 2, odd_top = (degree - 2) / 2 * 2 + 1;
  const Vector<T> shifted = x * E::log2e + E::round;
  const Vector<T> n = shifted - E::round;
  const Vector<T> r = (x - n * E::ln2_high) - n * E::ln2_low, square = r * r;
  Vector<T> even = splat<T>(E::c[even_top]), odd = splat<T>(E::c[odd_top]);
  for (int i = even_top - 2; i >= 0; i -= 2) even = even * square + E::c[i];
  for (int i = odd_top - 2; i >= 0; i -= 2) odd = odd * square + E::c[i];
  even = even * square + T(1), odd = (odd * square) * r + r;
  const Words<T> exponent = bits<T>(shifted) << Bits<T>::mantissa;
  of_x = from_bits<T>(bits<T>(even + odd) + exponent);
  of_minus_x = from_bits<T>(bits<T>(even - odd) - exponent);
}

// 2 atanh(q) = log((1+q)/(1-q)) by its series up to q^last; double only, since what rows need is little beside what labels
// need. Two chains of every other term, so that one does not wait for the other.
template <int last>
MANYHOT_INLINE Vector<double> twice_atanh(Vector<double> q) {
  const Vector<double> square = q * q, fourth = square * square;
  Vector<double> even = splat<double>(1.0 / last), odd = splat<double>(1.0 / (last - 2));
  for (int k = last - 4; k > 2; k -= 4) {
    even = even * fourth + 1.0 / k;
    odd = odd * fourth + 1.0 / (k - 2);
  }
  return 2 * q * (even * square + odd);
}

// For y in [0, 1]: q up to 1/3.
MANYHOT_INLINE Vector<double> log1p(Vector<double> y) { return twice_atanh<35>(y / (2 + y)); }

// An unsigned integer below 2^mantissa as a number; AVX2 has no instruction for 64 bits.
template <class T>
MANYHOT_INLINE Vector<T> number(Words<T> w) {
  constexpr T one_unit = T(typename Bits<T>::Type(1) << Bits<T>::mantissa);
  return from_bits<T>(w | bits<T>(splat<T>(one_unit))) - one_unit;
}

// x = m 2^n with m in [sqrt(1/2), sqrt(2)), so that q is below 0.172, and log(x) = n log(2) + log(m). For normal x > 0.
MANYHOT_INLINE Vector<double> log(Vector<double> x) {
  constexpr uint64_t half_root = 0x3FE6A09E667F3BCDULL;  // the bits of sqrt(1/2)
  const Words<double> above = (bits<double>(x) - half_root + (uint64_t(1) << 62)) >> 52;  // n + 1024
  const Vector<double> m = from_bits<double>(bits<double>(x) - ((above - 1024) << 52));
  const Vector<double> n = number<double>(above) - 1024;
  return n * Exp<double>::ln2_high + (twice_atanh<23>((m - 1) / (m + 1)) + n * Exp<double>::ln2_low);
}

// For any y >= 0: what rounding took from 1 + y is given back.
MANYHOT_INLINE Vector<double> log_of_one_plus(Vector<double> y) {
  const Vector<double> u = 1 + y;
  return log(u) + (y - (u - 1)) / u;
}

}  // namespace manyhot::MANYHOT_ISA
