// What every form of the dot products shares.
#ifndef GEMMA3_KERNELS_NUMBERS_H_
#define GEMMA3_KERNELS_NUMBERS_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gemma3 {

inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// To the nearest, or the even one of two that are as near; the NaN of a calculation stays one.
inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

// Ask for memory that will soon be read.
inline void prefetch(const void *first, size_t bytes) {
  constexpr size_t kLine = 64;
  for (size_t i = 0; i < bytes; i += kLine) {
    __builtin_prefetch(static_cast<const char *>(first) + i);
  }
}

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_NUMBERS_H_
