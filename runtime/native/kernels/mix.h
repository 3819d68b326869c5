// Loops that compilers vectorise by themselves, written once for every kind of processor: each
// file of forms has them inlined in functions of its own kind.
#ifndef GEMMA3_KERNELS_MIX_H_
#define GEMMA3_KERNELS_MIX_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "dots.h"
#include "numbers.h"

namespace gemma3 {

// Not exported, and compiled as the function that it becomes part of.
#define GEMMA3_INLINE static inline __attribute__((always_inline))

GEMMA3_INLINE float widened(uint16_t bits) { return from_bfloat16(bits); }
GEMMA3_INLINE float widened(int8_t number) { return static_cast<float>(number); }

// See Mix. Four values at a time are widened once for all rows, and added with one pass over
// what is mixed so far.
template <typename Value>
GEMMA3_INLINE void mix_any(const float *weights, size_t stride, int rows, const void *values,
                           size_t slots, size_t inputs, float *mixed) {
  constexpr size_t kSlots = 4, kWidth = 64;
  const auto *value = static_cast<const Value *>(values);
  for (size_t s = 0; s < slots; s += kSlots) {
    const size_t here = std::min(kSlots, slots - s);
    for (size_t first = 0; first < inputs; first += kWidth) {
      const size_t width = std::min(kWidth, inputs - first);
      float wide[kSlots][kWidth];
      for (size_t k = 0; k < here; ++k) {
        const Value *row = value + (s + k) * inputs + first;
        for (size_t i = 0; i < width; ++i) wide[k][i] = widened(row[i]);
      }
      for (int r = 0; r < rows; ++r) {
        float *sum = mixed + r * inputs + first;
        const float *weight = weights + r * stride + s;
        if (here == kSlots) {
          for (size_t i = 0; i < width; ++i) {
            sum[i] += weight[0] * wide[0][i] + weight[1] * wide[1][i] + weight[2] * wide[2][i] +
                      weight[3] * wide[3][i];
          }
        } else {
          for (size_t k = 0; k < here; ++k) {
            for (size_t i = 0; i < width; ++i) sum[i] += weight[k] * wide[k][i];
          }
        }
      }
    }
  }
}

// See Forms::float_by_int8.
GEMMA3_INLINE void float_by_int8_dots(const Activations *x, int rows, const void *weights,
                                      size_t inputs, size_t outputs, float *total, size_t stride) {
  constexpr size_t kLanes = 16;
  const auto *numbers = static_cast<const int8_t *>(weights);
  for (size_t o = 0; o < outputs; ++o, numbers += inputs) {
    for (int r = 0; r < rows; ++r) {
      const auto *row = static_cast<const float *>(x[r].numbers);
      float sums[kLanes] = {};
      for (size_t i = 0; i < inputs; i += kLanes) {
        for (size_t k = 0; k < kLanes; ++k) sums[k] += row[i + k] * widened(numbers[i + k]);
      }
      float sum = 0;
      for (float part : sums) sum += part;
      total[r * stride + o] = sum;
    }
  }
}

// See Round. Peaks are compared as integers, which order positive floats and vectorise.
GEMMA3_INLINE void round_groups(const float *x, size_t inputs, size_t repeated, int8_t *numbers,
                                float *steps) {
  constexpr float kRound = 12582912.0f;  // adding it rounds to a whole number, in the low bits
  for (size_t g = 0; g < inputs; g += kGroup, steps += repeated) {
    int32_t highest = 0;
    for (size_t i = g; i < g + kGroup; ++i) {
      int32_t bits;
      std::memcpy(&bits, x + i, sizeof bits);
      highest = std::max(highest, bits & 0x7FFFFFFF);
    }
    float peak;
    std::memcpy(&peak, &highest, sizeof peak);
    const float step = (peak < 1e-30f ? 1e-30f : peak) / 127.0f, inverse = 1.0f / step;
    for (size_t i = g; i < g + kGroup; ++i) {
      const float moved = x[i] * inverse + kRound;
      int32_t bits;
      std::memcpy(&bits, &moved, sizeof bits);
      numbers[i] = static_cast<int8_t>(bits);
    }
    for (size_t i = 0; i < repeated; ++i) steps[i] = step;
  }
}

// exp of a number up to 0, to about one unit in the last place: powers of two from its bits, the
// rest by the polynomial that Cephes uses for it. std::exp is not vectorised. NaN stays one.
GEMMA3_INLINE float exp_below_0(float x) {
  constexpr float kRound = 12582912.0f;  // adding it rounds to a whole number, in the low bits
  constexpr uint32_t kRoundBits = 0x4B400000u;
  x = x < -87.0f ? -87.0f : x;
  const float moved = x * 1.44269504f + kRound, whole = moved - kRound;
  const float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float value = 1.9875691500e-4f;
  value = value * rest + 1.3981999507e-3f;
  value = value * rest + 8.3334519073e-3f;
  value = value * rest + 4.1665795894e-2f;
  value = value * rest + 1.6666665459e-1f;
  value = value * rest + 5.0000001201e-1f;
  value = value * rest * rest + rest + 1.0f;
  uint32_t bits;  // of `moved`, then of the power: no conversion, which NaN does not have
  std::memcpy(&bits, &moved, sizeof bits);
  bits = (bits - kRoundBits + 127u) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return value * power;
}

// See Weigh. Sums and peaks are taken in lanes, which may be added in any order.
GEMMA3_INLINE void weigh_scores(const Softmax &softmax, size_t count, float *scores, float *peak,
                                float *total) {
  constexpr size_t kLanes = 16;
  constexpr float kLowest = -1e30f;
  const size_t whole = count / kLanes * kLanes;
  if (softmax.key_scales != nullptr) {
    for (size_t s = 0; s < count; ++s) scores[s] *= softmax.key_scales[s];
  }
  if (softmax.cap != 0) {
    for (size_t s = 0; s < count; ++s) scores[s] = softmax.cap * std::tanh(scores[s] / softmax.cap);
  }
  float peaks[kLanes], sums[kLanes] = {};
  std::fill_n(peaks, kLanes, kLowest);
  for (size_t s = 0; s < whole; s += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) peaks[k] = std::max(peaks[k], scores[s + k]);
  }
  float high = *std::max_element(peaks, peaks + kLanes);
  for (size_t s = whole; s < count; ++s) high = std::max(high, scores[s]);
  for (size_t s = 0; s < whole; s += kLanes) {
    for (size_t k = 0; k < kLanes; ++k) {
      scores[s + k] = exp_below_0(scores[s + k] - high);
      sums[k] += scores[s + k];
    }
  }
  float sum = 0;
  for (size_t s = whole; s < count; ++s) sum += scores[s] = exp_below_0(scores[s] - high);
  for (float part : sums) sum += part;
  if (softmax.value_scales != nullptr) {
    for (size_t s = 0; s < count; ++s) scores[s] *= softmax.value_scales[s];
  }
  *peak = high;
  *total = sum;
}

// The functions of one kind of processor; `attributes` name it.
#define GEMMA3_VECTORISED(attributes)                                                              \
  attributes void float_by_int8(const Activations *x, int rows, const void *weights, const void *, \
                                size_t inputs, size_t outputs, float *total, size_t stride) {      \
    float_by_int8_dots(x, rows, weights, inputs, outputs, total, stride);                          \
  }                                                                                                \
  attributes void weigh(const Softmax &softmax, size_t count, float *scores, float *peak,          \
                        float *total) {                                                            \
    weigh_scores(softmax, count, scores, peak, total);                                             \
  }                                                                                                \
  attributes void round_row(const float *x, size_t inputs, size_t repeated, int8_t *numbers,       \
                            float *steps) {                                                        \
    round_groups(x, inputs, repeated, numbers, steps);                                             \
  }

#define GEMMA3_VECTORISED_MIX(attributes)                                                         \
  attributes void mix_bfloat16(const float *weights, size_t stride, int rows, const void *values, \
                               size_t slots, size_t inputs, float *mixed) {                       \
    mix_any<uint16_t>(weights, stride, rows, values, slots, inputs, mixed);                       \
  }                                                                                               \
  attributes void mix_int8(const float *weights, size_t stride, int rows, const void *values,     \
                           size_t slots, size_t inputs, float *mixed) {                           \
    mix_any<int8_t>(weights, stride, rows, values, slots, inputs, mixed);                         \
  }

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_MIX_H_
