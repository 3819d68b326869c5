// How failures travel inside the library: one exception type, turned into a gemma3_error at the ABI.
#ifndef GEMMA3_SRC_ERROR_H_
#define GEMMA3_SRC_ERROR_H_

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include "gemma3.h"

namespace gemma3 {

// A call that cannot be served: what kind of failure, and one line for people.
class Error : public std::exception {
 public:
  Error(gemma3_status status, std::string message, uint64_t needed = 0)
      : status_(status), needed_(needed), message_(std::move(message)) {}

  gemma3_status status() const { return status_; }
  // Elements that an output needs room for, where it was too small.
  uint64_t needed() const { return needed_; }
  const char *what() const noexcept override { return message_.c_str(); }

 private:
  gemma3_status status_;
  uint64_t needed_;
  std::string message_;
};

// The request or the bundle is at fault; the message names the remedy. `status` says what kind of
// fault it is, where there is one of its own.
[[noreturn]] inline void refuse(std::string message) {
  throw Error(GEMMA3_USAGE, std::move(message));
}
[[noreturn]] inline void refuse(gemma3_status status, std::string message) {
  throw Error(status, std::move(message));
}

// The plugin or the system is at fault.
[[noreturn]] inline void fail(std::string message) {
  throw Error(GEMMA3_FAILED, std::move(message));
}

// A mistake that the user can fix, in text and pictures and in gemma3-host.
struct UsageError : Error {
  explicit UsageError(std::string message) : Error(GEMMA3_USAGE, std::move(message)) {}
};

[[noreturn]] inline void cancelled() { throw Error(GEMMA3_CANCELLED, "cancelled"); }

// Refuses an output of the caller that has no room for what is to be written.
inline void require_room(const char *name, uint64_t capacity, uint64_t needed) {
  if (capacity >= needed) return;
  throw Error(GEMMA3_USAGE,
              std::string(name) + ": expected room for " + std::to_string(needed) + ", got " +
                  std::to_string(capacity),
              needed);
}

}  // namespace gemma3

#endif  // GEMMA3_SRC_ERROR_H_
