// Integer dot products of quantised rows, in the widest form this processor has.
#ifndef GEMMA3_KERNELS_DOTS_H_
#define GEMMA3_KERNELS_DOTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gemma3 {

// Outputs that one call multiplies; always this many.
constexpr int kInt4Outputs = 4;
// Rows of activations that one call multiplies at most.
constexpr int kInt4Rows = 4;
// Inputs of an int4 block: four groups of 32, whose bytes fill a register.
constexpr size_t kBlock = 128;
constexpr size_t kGroup = 32;

// A row of activations, each group of 32 in steps of its own: numbers laid out by
// `arrange_for_int4`, and the step of each group, 0 for those that fill up the last block.
struct Activations {
  const int8_t *numbers;
  const float *steps;
};

// total[r * 4 + o] = sum over groups of scale[o][group] * step[r][group] * sum of x * (number - 8).
// packed and scale are as FORMAT.md says.
using Int4Dots = void (*)(const Activations *x, int rows, const uint8_t *packed,
                          const uint16_t *scale, size_t inputs, float *total);

// Those that run on this processor, the fastest first: AVX-512 with VNNI, AVX2, plain C++.
std::vector<Int4Dots> runnable_dots();

// The fastest of them.
Int4Dots int4_dots();

// Bytes of a row that `arrange_for_int4` fills.
inline size_t arranged_bytes(size_t inputs) { return (inputs + kBlock - 1) / kBlock * kBlock; }

// Inputs in the order in which the bytes of packed weights meet them: of each block the first
// halves of its groups, then the second halves; zeros after the last input.
void arrange_for_int4(const int8_t *x, size_t inputs, int8_t *arranged);

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_DOTS_H_
