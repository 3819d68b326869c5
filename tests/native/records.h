// What the test programs read on standard input: records, each behind its size.
#ifndef GEMMA3_TESTS_NATIVE_RECORDS_H_
#define GEMMA3_TESTS_NATIVE_RECORDS_H_

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

// The next record, of as many bytes as its size says (32 bits); nothing at the end of the input.
inline std::optional<std::string> next_record() {
  uint32_t size = 0;
  if (std::fread(&size, sizeof size, 1, stdin) != 1) return std::nullopt;
  std::string record(size, '\0');
  if (std::fread(record.data(), 1, size, stdin) != size) return std::nullopt;
  return record;
}

#endif  // GEMMA3_TESTS_NATIVE_RECORDS_H_
