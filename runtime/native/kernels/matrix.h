// The matrices that a call of a kernel multiplies with.
#ifndef GEMMA3_KERNELS_MATRIX_H_
#define GEMMA3_KERNELS_MATRIX_H_

#include <cstddef>

#include "dots.h"

namespace gemma3 {

enum class Kind { kBfloat16, kInt8, kInt4 };

// One matrix of a call, and where its results go.
struct Matrix {
  const char *weights;
  const char *scale;
  size_t outputs;
  float *result;
};

// Bytes of weights in one task at most, and tasks for each thread at least: threads that each read
// far ahead get a fifth more from memory than threads that take turns.
constexpr size_t kBytesOfTask = 1 << 20, kTasksOfThread = 4;
// Outputs of a task at least.
constexpr size_t kFewestOutputs = 16;
// A call with fewer multiplications than this is done by the calling thread.
constexpr size_t kWorthSharing = 1 << 17;

// Bytes of the weights, and of the scales, of an output.
inline size_t weight_bytes(Kind kind, size_t inputs) {
  return kind == Kind::kBfloat16 ? 2 * inputs : kind == Kind::kInt8 ? inputs : inputs / 2;
}
inline size_t scale_bytes(Kind kind, size_t inputs) {
  return kind == Kind::kBfloat16 ? 0 : kind == Kind::kInt8 ? 4 : inputs / kGroup * 2;
}

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_MATRIX_H_
