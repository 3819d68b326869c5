// Structs of callers that were compiled against another version of gemma3.h: shorter, or longer.
#ifndef GEMMA3_SRC_STRUCTS_H_
#define GEMMA3_SRC_STRUCTS_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "error.h"

namespace gemma3 {

// Refuses a null pointer for something that must be there.
template <typename T>
T &required(T *pointer, const char *name) {
  if (pointer == nullptr) refuse(std::string(name) + ": expected a pointer, got NULL");
  return *pointer;
}

// No version will be larger: what a size says is read, so nonsense must not be believed.
constexpr size_t kLargestStruct = 4096;

// Refuses what a caller asks for that this library does not do.
inline void check_flags(uint64_t flags, uint64_t known, const char *name) {
  if ((flags & ~known) != 0) refuse(std::string(name) + ": has flags that this library lacks");
}

// `size` bytes of a caller as the struct that this library knows: what the caller's lacks is zero,
// and what it has beyond must be.
template <typename T>
T known_part(const uint8_t *bytes, size_t size, const char *name) {
  T known = {};
  for (size_t i = sizeof known; i < size; ++i) {
    if (bytes[i] != 0) refuse(std::string(name) + ": has members that this library lacks");
  }
  std::memcpy(static_cast<void *>(&known), bytes, std::min(size, sizeof known));
  return known;
}

inline void check_size(size_t size, size_t least, const char *name) {
  if (size >= least && size <= kLargestStruct) return;
  refuse(std::string(name) + ": set `size` to the size of the struct");
}

// A struct that begins with its `size`.
template <typename T>
T versioned(const T *given, const char *name) {
  const size_t size = required(given, name).size;
  check_size(size, sizeof size, name);
  T known = known_part<T>(reinterpret_cast<const uint8_t *>(given), size, name);
  known.size = sizeof known;
  return known;
}

// Fills a struct of the caller that begins with its `size`; what this library lacks is zero.
template <typename T>
void fill_versioned(T *given, T known, const char *name) {
  const size_t size = required(given, name).size;
  check_size(size, sizeof size, name);
  known.size = size;
  std::memset(static_cast<void *>(given), 0, size);
  std::memcpy(static_cast<void *>(given), &known, std::min(size, sizeof known));
}

inline void check_element_size(size_t size, const char *name) {
  if (size > 0 && size <= kLargestStruct) return;
  refuse(std::string(name) + ": expected the size of an element of the array, got " +
         std::to_string(size));
}

// An array of structs, `size` bytes each; none where `given` is null. `name` is that of the size.
template <typename T>
std::vector<T> elements(const T *given, size_t size, size_t count, const char *name) {
  std::vector<T> known;
  if (given == nullptr || count == 0) return known;
  check_element_size(size, name);
  const auto *bytes = reinterpret_cast<const uint8_t *>(given);
  for (size_t i = 0; i < count; ++i) known.push_back(known_part<T>(bytes + i * size, size, name));
  return known;
}

// Sampling of a request or session, of which no count is one.
inline std::vector<gemma3_sampling> sampling_elements(const gemma3_sampling *given, size_t size,
                                                      size_t count) {
  return elements(given, size, std::max<size_t>(count, 1), "sampling_size");
}

// Fills such an array; what this library lacks is zero.
template <typename T>
void fill_elements(T *given, size_t size, const std::vector<T> &known, const char *name) {
  check_element_size(size, name);
  auto *bytes = reinterpret_cast<uint8_t *>(given);
  std::memset(bytes, 0, size * known.size());
  for (size_t i = 0; i < known.size(); ++i) {
    std::memcpy(bytes + i * size, &known[i], std::min(size, sizeof(T)));
  }
}

}  // namespace gemma3

#endif  // GEMMA3_SRC_STRUCTS_H_
