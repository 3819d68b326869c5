// What a call multiplies, and what is done to the product in the same call.
#ifndef GEMMA3_KERNELS_OPERAND_H_
#define GEMMA3_KERNELS_OPERAND_H_

#include <cstddef>
#include <cstdint>
#include <vector>

#include "layer.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {

// Rows of x, of its RMSNorm, or of gelu_tanh(x) * up: made as they are read.
class Operand {
 public:
  Operand(const float *x, size_t rows, size_t inputs) : rows_(rows), inputs_(inputs), x_(x) {}
  void norm_by(const Norm &norm) { norm_ = norm; }
  void gate(const float *up) { up_ = up; }

  size_t rows() const { return rows_; }
  size_t inputs() const { return inputs_; }
  // `count` rows from `first` on, one after the other: in `room` where they have to be made.
  const float *read(size_t first, size_t count, std::vector<float> &room) const;

 private:
  size_t rows_, inputs_;
  const float *x_, *up_ = nullptr;
  Norm norm_ = {};
};

// Each row of `result` [rows, outputs] becomes that of `residual` plus its RMSNorm.
void add_norms(xla::ffi::ThreadPool &pool, const Norm &norm, const float *residual, size_t rows,
               size_t outputs, float *result);

// A size of an array that a call may have. XLA takes programs with empty arrays, and then any other
// size of theirs; sizes up to this can be multiplied by twos without overflow.
inline bool is_size(int64_t size) { return size >= 1 && size <= INT32_MAX; }

// Whether an array has memory, and words of it may be read.
template <typename Buffer>
bool is_mapped(const Buffer &buffer) {
  const void *data = buffer.untyped_data();
  return data != nullptr && reinterpret_cast<uintptr_t>(data) % sizeof(uint32_t) == 0;
}

// What RMSNorm multiplies each of `size` numbers by: 1 + its weight, of float or bfloat16. False
// for any other array.
bool read_gains(const xla::ffi::AnyBuffer &weights, int64_t size, std::vector<float> &gains);

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_OPERAND_H_
