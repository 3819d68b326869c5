// The matrices that a call of a kernel multiplies with.
#ifndef GEMMA3_KERNELS_MATRIX_H_
#define GEMMA3_KERNELS_MATRIX_H_

#include <algorithm>
#include <cstddef>
#include <vector>

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

inline size_t outputs_of_all(const std::vector<Matrix> &matrices) {
  size_t outputs = 0;
  for (const Matrix &matrix : matrices) outputs += matrix.outputs;
  return outputs;
}

// The outputs of all matrices of a call, cut into parts of so many at most, each of one matrix.
class Parts {
 public:
  struct Part {
    const Matrix &matrix;
    size_t first, last;  // outputs
  };

  Parts(const std::vector<Matrix> &matrices, size_t outputs)
      : matrices_(matrices), outputs_(outputs) {
    for (const Matrix &matrix : matrices) {
      ends_.push_back(count() + (matrix.outputs + outputs - 1) / outputs);
    }
  }
  size_t count() const { return ends_.empty() ? 0 : ends_.back(); }
  Part at(size_t part) const {
    const size_t which = std::upper_bound(ends_.begin(), ends_.end(), part) - ends_.begin();
    const size_t first = (part - (which == 0 ? 0 : ends_[which - 1])) * outputs_;
    const Matrix &matrix = matrices_[which];
    return {matrix, first, std::min(matrix.outputs, first + outputs_)};
  }

 private:
  const std::vector<Matrix> &matrices_;
  size_t outputs_;
  std::vector<size_t> ends_;  // how many parts the matrices up to each one have
};

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_MATRIX_H_
