// Work of a kernel, shared among the threads of the device.
#ifndef GEMMA3_KERNELS_SHARE_H_
#define GEMMA3_KERNELS_SHARE_H_

#include <cstddef>
#include <functional>

#include "xla/ffi/api/ffi.h"

namespace gemma3 {

// Runs task(0) ... task(count - 1), here and on the device's threads, and returns when all are
// done. A thread that comes late finds nothing left and touches nothing of the caller's. What a task
// throws is thrown here, once none is running; those not begun by then are left out.
void share(xla::ffi::ThreadPool &pool, size_t count, const std::function<void(size_t)> &task);

// The same where that is worth waking others; else the calling thread does all.
void share_if(bool worth, xla::ffi::ThreadPool &pool, size_t count,
              const std::function<void(size_t)> &task);

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_SHARE_H_
