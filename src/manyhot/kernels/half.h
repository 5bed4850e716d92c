// float16 and bfloat16, 16 bits each, to float and back, without branches so that loops over them become vectors.
#pragma once

#include <cstdint>
#include <cstring>

#include "vector.h"

namespace manyhot::MANYHOT_ISA {

MANYHOT_INLINE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

MANYHOT_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

MANYHOT_INLINE float from_bfloat16(uint16_t half) { return float_of(uint32_t(half) << 16); }

// To the nearest, ties to even; a NaN stays one.
MANYHOT_INLINE uint16_t to_bfloat16(float x) {
  const uint32_t bits = bits_of(x);
  const uint32_t rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;
  const bool nan = (bits & 0x7FFFFFFF) > 0x7F800000;
  return static_cast<uint16_t>(nan ? 0x7FC0 : rounded);
}

MANYHOT_INLINE float from_float16(uint16_t half) {
  const uint32_t magnitude = uint32_t(half & 0x7FFF) << 13, sign = uint32_t(half & 0x8000) << 16;
  // 2^112 is the difference of the two biases; the product is exact, also of subnormal numbers.
  const uint32_t finite = bits_of(float_of(magnitude) * 0x1p112F);
  const uint32_t infinite_or_nan = magnitude | 0x7F800000;
  return float_of(sign | (magnitude < (31U << 23) ? finite : infinite_or_nan));
}

MANYHOT_INLINE uint16_t to_float16(float x) {
  const uint32_t bits = bits_of(x), magnitude = bits & 0x7FFFFFFF;
  const uint32_t sign = (bits >> 16) & 0x8000;
  const uint32_t normal = (magnitude - (112U << 23) + 0xFFF + ((magnitude >> 13) & 1)) >> 13;
  // Below 2^-14 the unit is 2^-24, that of a float next to 1/2: adding 1/2 rounds to it.
  const uint32_t subnormal = bits_of(float_of(magnitude < (113U << 23) ? magnitude : 0) + 0.5F) - bits_of(0.5F);
  uint32_t half = magnitude < (113U << 23) ? subnormal : normal;
  half = magnitude >= 0x477FF000 ? 0x7C00 : half;  // 65520 and more round to infinity
  half = magnitude > 0x7F800000 ? 0x7E00 : half;
  return static_cast<uint16_t>(sign | half);
}

}  // namespace manyhot::MANYHOT_ISA
