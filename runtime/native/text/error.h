// The one way this program says that its user's input is wrong.
#pragma once

#include <stdexcept>
#include <string>

namespace gemma3::host {

// A mistake the user can fix: main() prints the message, one line, and exits with status 2.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace gemma3::host
