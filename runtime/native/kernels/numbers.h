// What every form of the dot products shares.
#ifndef GEMMA3_KERNELS_NUMBERS_H_
#define GEMMA3_KERNELS_NUMBERS_H_

#include <cstdint>
#include <cstring>

namespace gemma3 {

inline float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_NUMBERS_H_
