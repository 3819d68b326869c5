// Integer dot products of quantised rows, in the widest form this processor has.
#ifndef GEMMA3_KERNELS_DOTS_H_
#define GEMMA3_KERNELS_DOTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gemma3 {

// Outputs that one call multiplies; always this many.
constexpr int kInt8Outputs = 16;
constexpr int kInt4Outputs = 4;
// Rows of activations that one call of int4 multiplies at most.
constexpr int kInt4Rows = 4;
// Inputs of an int4 block: four groups of 32, whose bytes fill a register.
constexpr size_t kBlock = 128;
constexpr size_t kGroup = 32;

// int8: total[r * 16 + o] = sum of x[r][i] * weight[o][i], for any number of rows.
using Int8Dots = void (*)(const int8_t *x, size_t rows, const int8_t *weight, size_t inputs,
                          int32_t *total);

// int4: total[r * 4 + o] = sum over groups of scale[o][group] * sum of x * (number - 8). x is laid
// out by `arrange_for_int4`; packed and scale as FORMAT.md says.
using Int4Dots = void (*)(const int8_t *x, size_t x_stride, int rows, const uint8_t *packed,
                          const uint16_t *scale, size_t inputs, float *total);

struct Dots {
  Int8Dots int8;
  Int4Dots int4;
};

// Those that run on this processor, the fastest first: AVX-512 with VNNI, AVX2, plain C++.
std::vector<Dots> runnable_dots();

// The fastest of them.
const Dots &dots();

// Bytes of a row that `arrange_for_int4` fills.
inline size_t arranged_bytes(size_t inputs) { return (inputs + kBlock - 1) / kBlock * kBlock; }

// Inputs in the order in which the bytes of packed weights meet them: of each block the first
// halves of its groups, then the second halves; zeros after the last input.
void arrange_for_int4(const int8_t *x, size_t inputs, int8_t *arranged);

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_DOTS_H_
