// 16-bit floats on the host: bit patterns, converted with round-to-nearest-even as the device converts them.
#pragma once

#include <cstdint>
#include <cstring>

// A namespace of its own: calls with these types must find the kernels' functions, not the emulation's (ADL).
namespace emu::half {

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

/// IEEE 754 binary16.
struct F16 {
  uint16_t bits;
};

/// The upper half of a binary32.
struct BF16 {
  uint16_t bits;
};

inline float widen(F16 half) {
  const uint32_t sign = uint32_t(half.bits & 0x8000) << 16, body = uint32_t(half.bits & 0x7fff) << 13;
  if ((half.bits & 0x7c00) == 0x7c00) return float_of(sign | 0x7f800000 | body);
  // Read with binary32's bias, every finite value, subnormals included, is 2^-112 times itself.
  return float_of(sign | bits_of(float_of(body) * 0x1p112f));
}

inline float widen(BF16 half) { return float_of(uint32_t(half.bits) << 16); }

inline void narrow(float value, F16& half) {
  const uint32_t bits = bits_of(value), sign = (bits >> 16) & 0x8000, size = bits & 0x7fffffff;
  uint32_t body;
  if (size > 0x7f800000) {
    body = 0x7fff;
  } else if (size >= bits_of(65520.0f)) {  // half an ulp above the largest finite value
    body = 0x7c00;
  } else if (size < bits_of(0x1p-14f)) {  // subnormal: one ulp of 0.5f is one step of it
    body = bits_of(float_of(size) + 0.5f) - bits_of(0.5f);
  } else {
    body = ((size + 0xfff + ((size >> 13) & 1)) >> 13) - (112 << 10);
  }
  half.bits = uint16_t(sign | body);
}

inline void narrow(float value, BF16& half) {
  const uint32_t bits = bits_of(value);
  const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
  half.bits = is_nan ? uint16_t(0x7fff) : uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace emu::half

namespace emu {
using half::BF16;
using half::F16;
using half::narrow;
using half::widen;
}  // namespace emu
