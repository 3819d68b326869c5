// What ends calls from another thread.
#ifndef GEMMA3_SRC_CANCEL_H_
#define GEMMA3_SRC_CANCEL_H_

#include <atomic>
#include <functional>

#include "error.h"

struct gemma3_cancel {
  std::atomic<bool> requested{false};
};

namespace gemma3 {

// Called between programs, files and pieces of files; what it throws ends the call.
using Between = std::function<void()>;

// Throws Error (GEMMA3_CANCELLED) when `cancel`, which may be null, is set.
inline void throw_if_set(const gemma3_cancel *cancel) {
  if (cancel != nullptr && cancel->requested.load()) cancelled();
}

// What ends a call while `cancel`, which may be null, is set.
inline Between between_of(const gemma3_cancel *cancel) {
  return [cancel] { throw_if_set(cancel); };
}

}  // namespace gemma3

#endif  // GEMMA3_SRC_CANCEL_H_
