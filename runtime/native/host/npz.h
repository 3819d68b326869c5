// `.npz` files, as numpy.savez writes them: arrays by name in a ZIP archive without compression.
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <string>
#include <vector>

#include "terminal.h"

namespace gemma3::host {

// A file that appears at `path` when it is finished, whole, or not at all. What killed writers of it
// left half-written beside it is removed, those of gemma3-run too.
class NpzWriter {
 public:
  // Throws UsageError when the file cannot be written, as every function here does.
  explicit NpzWriter(std::filesystem::path path);
  ~NpzWriter();
  NpzWriter(const NpzWriter&) = delete;

  void add(const std::string& name, const std::vector<int64_t>& shape, const int32_t* values);
  void add(const std::string& name, const std::vector<int64_t>& shape, const float* values);
  void finish();

 private:
  struct Member {
    std::string name;
    uint32_t crc;
    uint64_t bytes, offset;
  };
  void add_array(const std::string& name, const char* dtype, const std::vector<int64_t>& shape,
                 const void* values);
  void put(const void* bytes, uint64_t count);
  [[noreturn]] void fail() const;

  std::filesystem::path path_, partial_;
  UnfinishedFile unfinished_;
  int lock_ = -1;  // of the half-written file, for as long as it has a writer
  std::FILE* file_ = nullptr;
  uint64_t written_ = 0;
  std::vector<Member> members_;
};

}  // namespace gemma3::host
