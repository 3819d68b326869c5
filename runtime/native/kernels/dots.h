// Dot products of rows of weights with rows of activations, in the widest form this processor has.
#ifndef GEMMA3_KERNELS_DOTS_H_
#define GEMMA3_KERNELS_DOTS_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gemma3 {

// Rows of activations that one call multiplies at most.
constexpr int kTileRows = 8;
// Inputs that share a step of the activations, and a scale of int4 weights.
constexpr size_t kGroup = 32;
// Inputs that are laid out together: four groups, whose int4 bytes fill a register.
constexpr size_t kBlock = 128;
// How often the step of a group is written: once for each sum that its products come to.
constexpr size_t kInt8Steps = 8, kInt4Steps = 4;
// Sums that the products of a block of int4 come to.
constexpr size_t kOffsets = 16;

// A row of activations as `arrange_...` laid it out for one kind of weights.
struct Activations {
  const void *numbers;     // for bfloat16: float; for int8: uint8_t; for int4: int8_t
  const float *steps;      // of each group, repeated; 0 for those that fill up the last block
  const int32_t *offsets;  // for int4, 16 a block: the sums of 8 times x that are too much, negated
};

// total[r * stride + o] = the product of row r and output o. Weights lie output after output.
//   bfloat16: weights [outputs][inputs] of 16 bits, no scale; x as it is
//   int8:     weights [outputs][inputs], scale float [outputs]; x in steps of each group
//   int4:     weights [outputs][inputs / 2], scale bfloat16 [outputs][inputs / 32]; x likewise
// `inputs` is a multiple of 32. Weights are read in the order in which they lie, one output after
// the other: read four outputs at a time, memory gives half as much.
using Dots = void (*)(const Activations *x, int rows, const void *weights, const void *scale,
                      size_t inputs, size_t outputs, float *total, size_t stride);

// mixed[r * inputs + i] += the sum over s of weights[r * stride + s] * values[s * inputs + i].
// Values are bfloat16 or int8; `inputs` is a multiple of 32.
using Mix = void (*)(const float *weights, size_t stride, int rows, const void *values,
                     size_t slots, size_t inputs, float *mixed);

// Scores of attention become the weights of a softmax over them: each times its key's scale,
// cap * tanh(score / cap) where cap is not 0; then exp(score - peak), times its value's scale.
// Scales may be null.
struct Softmax {
  float cap;
  const float *key_scales, *value_scales;
};
using Weigh = void (*)(const Softmax &softmax, size_t count, float *scores, float *peak,
                       float *total);

// Each 32 of x become whole steps of 1/127 of their largest: numbers [inputs], and the step of each
// 32 `repeated` times.
using Round = void (*)(const float *x, size_t inputs, size_t repeated, int8_t *numbers,
                       float *steps);

struct Forms {
  Dots bfloat16, int8, int4;
  // int8 weights without a scale, and x as it is: floats in their own order.
  Dots float_by_int8;
  Mix mix_bfloat16, mix_int8;
  Weigh weigh;
  Round round;
};

// Those that run on this processor, the fastest first: AVX-512, AVX2, plain C++.
std::vector<Forms> runnable_forms();

// The fastest of them.
const Forms &fastest_forms();

// Numbers of a row that `arrange_...` fills.
inline size_t arranged_size(size_t inputs) { return (inputs + kBlock - 1) / kBlock * kBlock; }

// Of each 32 inputs those at even places, then those at odd: where halves of 32-bit words meet
// them.
void arrange_for_bfloat16(const float *x, size_t inputs, float *arranged);

// Each number plus 128, then zeros.
void arrange_for_int8(const int8_t *x, size_t inputs, uint8_t *arranged);

// In the order in which the bytes of packed weights meet them: of each block the first halves of
// its groups, then the second halves; zeros after the last input. And the offsets of each block.
void arrange_for_int4(const int8_t *x, size_t inputs, int8_t *arranged, int32_t *offsets);

// The forms of one kind of processor; do not call them on another.
extern const Forms kPlainForms;
#if defined(__x86_64__)
extern const Forms kAvx2Forms, kAvx512Forms;
#endif

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_DOTS_H_
