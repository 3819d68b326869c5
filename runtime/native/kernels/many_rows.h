// Products of many rows at once.
#ifndef GEMMA3_KERNELS_MANY_ROWS_H_
#define GEMMA3_KERNELS_MANY_ROWS_H_

#include <cstddef>
#include <vector>

#include "matrix.h"
#include "operand.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {

// From how many rows on `multiply_many_rows` is the faster way on this processor.
size_t fewest_of_many_rows(Kind kind);

// x, rounded to bfloat16, times every matrix. int4 weights are rounded to bfloat16
// too once they are scaled.
void multiply_many_rows(xla::ffi::ThreadPool &pool, Kind kind, const Operand &x,
                        const std::vector<Matrix> &matrices);

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_MANY_ROWS_H_
