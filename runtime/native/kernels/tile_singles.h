// The tiles of processors that multiply floats; see lanes.h for what is defined before.
#include "tile_forms.h"

namespace gemma3 {
namespace {

GEMMA3_TARGET void bfloat16_as_singles(const void *weights, size_t inputs, size_t outputs,
                                       uint32_t *words) {
  const auto *numbers = static_cast<const uint16_t *>(weights);
  for (size_t i = 0; i < inputs * outputs; ++i) words[i] = static_cast<uint32_t>(numbers[i]) << 16;
}

GEMMA3_TARGET void int8_as_singles(const void *weights, size_t inputs, size_t outputs,
                                   uint32_t *words) {
  const auto *numbers = static_cast<const int8_t *>(weights);
  for (size_t i = 0; i < inputs * outputs; ++i) {
    const float value = numbers[i];
    std::memcpy(words + i, &value, sizeof value);
  }
}

GEMMA3_TARGET void int4_as_singles(const void *weights, const void *scale, size_t inputs,
                                   size_t outputs, uint32_t *words) {
  constexpr size_t kHalf = kGroup / 2;
  const auto *bytes = static_cast<const uint8_t *>(weights);
  const auto *scales = static_cast<const uint16_t *>(scale);
  for (size_t g = 0; g < inputs * outputs / kGroup; ++g, bytes += kHalf, words += kGroup) {
    const float factor = from_bfloat16(scales[g]);
    for (size_t i = 0; i < kHalf; ++i) {
      const float low = static_cast<float>((bytes[i] & 15) - 8) * factor;
      const float high = static_cast<float>((bytes[i] >> 4) - 8) * factor;
      words[i] = static_cast<uint32_t>(to_bfloat16(low)) << 16;
      words[kHalf + i] = static_cast<uint32_t>(to_bfloat16(high)) << 16;
    }
  }
}

#define GEMMA3_SINGLES \
  kLanes, 1, pack<Singles>, bfloat16_as_singles, int8_as_singles, int4_as_singles, multiply<Singles>

}  // namespace
}  // namespace gemma3
