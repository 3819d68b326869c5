// The dot products in plain C++, which every other form is tested against, and the choice of form.
#include "dots.h"

#include <cstring>

#include "mix.h"
#include "numbers.h"
#include "processor.h"

namespace gemma3 {
namespace {

constexpr size_t kHalf = kGroup / 2;

void plain_bfloat16(const Activations *x, int rows, const void *weights, const void *,
                    size_t inputs, size_t outputs, float *total, size_t stride) {
  const auto *numbers = static_cast<const uint16_t *>(weights);
  for (int r = 0; r < rows; ++r) {
    const auto *row = static_cast<const float *>(x[r].numbers);
    for (size_t o = 0; o < outputs; ++o) {
      const uint16_t *weight = numbers + o * inputs;
      float sum = 0;
      for (size_t g = 0; g < inputs; g += kGroup) {
        for (size_t i = 0; i < kHalf; ++i) {
          sum += from_bfloat16(weight[g + 2 * i]) * row[g + i] +
                 from_bfloat16(weight[g + 2 * i + 1]) * row[g + kHalf + i];
        }
      }
      total[r * stride + o] = sum;
    }
  }
}

void plain_int8(const Activations *x, int rows, const void *weights, const void *scale,
                size_t inputs, size_t outputs, float *total, size_t stride) {
  const auto *numbers = static_cast<const int8_t *>(weights);
  const auto *scales = static_cast<const float *>(scale);
  for (int r = 0; r < rows; ++r) {
    const auto *row = static_cast<const uint8_t *>(x[r].numbers);
    for (size_t o = 0; o < outputs; ++o) {
      const int8_t *weight = numbers + o * inputs;
      float sum = 0;
      for (size_t g = 0; g < inputs / kGroup; ++g) {
        int32_t part = 0;
        for (size_t i = g * kGroup; i < (g + 1) * kGroup; ++i) part += weight[i] * (row[i] - 128);
        sum += x[r].steps[g * kInt8Steps] * static_cast<float>(part);
      }
      total[r * stride + o] = sum * scales[o];
    }
  }
}

void plain_int4(const Activations *x, int rows, const void *weights, const void *scale,
                size_t inputs, size_t outputs, float *total, size_t stride) {
  const auto *packed = static_cast<const uint8_t *>(weights);
  const auto *scales = static_cast<const uint16_t *>(scale);
  const size_t groups = inputs / kGroup;
  for (int r = 0; r < rows; ++r) {
    const auto *row = static_cast<const int8_t *>(x[r].numbers);
    for (size_t o = 0; o < outputs; ++o) {
      float sum = 0;
      for (size_t g = 0; g < groups; ++g) {
        const size_t block = g * kGroup / kBlock, place = g % (kBlock / kGroup);
        const int8_t *low = row + block * kBlock + place * kHalf;
        const int8_t *high = low + kBlock / 2;
        const uint8_t *bytes = packed + (o * groups + g) * kHalf;
        int32_t part = 0;
        for (size_t i = 0; i < kHalf; ++i) {
          part += low[i] * ((bytes[i] & 15) - 8) + high[i] * ((bytes[i] >> 4) - 8);
        }
        sum += from_bfloat16(scales[o * groups + g]) * x[r].steps[g * kInt4Steps] *
               static_cast<float>(part);
      }
      total[r * stride + o] = sum;
    }
  }
}

GEMMA3_VECTORISED()
GEMMA3_VECTORISED_MIX()

}  // namespace

const Forms kPlainForms = {plain_bfloat16, plain_int8, plain_int4, float_by_int8,
                           mix_bfloat16,   mix_int8,   weigh,      round_row};

std::vector<Forms> runnable_forms() {
#if defined(__x86_64__)
  return runnable<Forms>(nullptr, &kAvx512Forms, &kAvx2Forms, kPlainForms);
#else
  return {kPlainForms};
#endif
}

const Forms &fastest_forms() {
  static const Forms chosen = runnable_forms().front();
  return chosen;
}

void arrange_for_bfloat16(const float *x, size_t inputs, float *arranged) {
  for (size_t g = 0; g < inputs; g += kGroup) {
    for (size_t i = 0; i < kHalf; ++i) {
      arranged[g + i] = x[g + 2 * i];
      arranged[g + kHalf + i] = x[g + 2 * i + 1];
    }
  }
}

void arrange_for_int8(const int8_t *x, size_t inputs, uint8_t *arranged) {
  for (size_t i = 0; i < inputs; ++i) arranged[i] = static_cast<uint8_t>(x[i] + 128);
  std::memset(arranged + inputs, 0, arranged_size(inputs) - inputs);
}

void arrange_for_int4(const int8_t *x, size_t inputs, int8_t *arranged, int32_t *offsets) {
  const size_t size = arranged_size(inputs);
  std::memset(arranged, 0, size);
  std::memset(offsets, 0, size / kBlock * kOffsets * sizeof *offsets);
  for (size_t g = 0; g * kGroup < inputs; ++g) {
    const int8_t *group = x + g * kGroup;
    const size_t block = g / (kBlock / kGroup), place = g % (kBlock / kGroup);
    int8_t *low = arranged + block * kBlock + place * kHalf;
    std::memcpy(low, group, kHalf);
    std::memcpy(low + kBlock / 2, group + kHalf, kHalf);
    int32_t *sums = offsets + block * kOffsets + place * (kOffsets * kGroup / kBlock);
    for (size_t i = 0; i < kGroup; ++i) sums[i % kHalf / 4] -= 8 * group[i];
  }
}

}  // namespace gemma3
