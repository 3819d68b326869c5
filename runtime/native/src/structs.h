// Structs of callers that were compiled against another version of the headers.
#ifndef GEMMA3_SRC_STRUCTS_H_
#define GEMMA3_SRC_STRUCTS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "handles.h"

namespace gemma3 {

// An array of structs, `size` bytes each; none where `given` is null. What the caller's lack is
// zero, and what they have beyond must be. `name` is that of the size.
template <typename T>
std::vector<T> elements(const T *given, size_t size, size_t count, const char *name) {
  std::vector<T> known;
  if (given == nullptr || count == 0) return known;
  if (size == 0 || size > kLargestStruct) {
    refuse(std::string(name) + ": expected the size of an element of the array, got " +
           std::to_string(size));
  }
  const auto *bytes = reinterpret_cast<const uint8_t *>(given);
  for (size_t i = 0; i < count; ++i, bytes += size) {
    for (size_t at = sizeof(T); at < size; ++at) {
      if (bytes[at] != 0) refuse(std::string(name) + ": has members that this library lacks");
    }
    T &one = known.emplace_back();
    std::memcpy(static_cast<void *>(&one), bytes, std::min(size, sizeof one));
  }
  return known;
}

// Fills a struct of the caller that begins with its `size`; what this library lacks is zero.
template <typename T>
void fill_versioned(T *given, T known, const char *name) {
  const size_t size = required(given, name).size;
  if (size < sizeof size || size > kLargestStruct) {
    refuse(std::string(name) + ": set `size` to the size of the struct");
  }
  known.size = size;
  std::memset(static_cast<void *>(given), 0, size);
  std::memcpy(static_cast<void *>(given), &known, std::min(size, sizeof known));
}

}  // namespace gemma3

#endif  // GEMMA3_SRC_STRUCTS_H_
