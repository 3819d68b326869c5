// Files of the system: RAII for descriptors and mappings, whole reads, atomic writes.
#ifndef GEMMA3_SRC_FILES_H_
#define GEMMA3_SRC_FILES_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace gemma3 {

// An open file, closed at the end.
class File {
 public:
  // Throws Error when `path` cannot be opened for reading or is not a regular file.
  explicit File(const std::filesystem::path &path);
  ~File();
  File(const File &) = delete;
  File &operator=(const File &) = delete;

  int descriptor() const { return descriptor_; }
  int64_t size() const { return size_; }
  // `count` bytes from `offset`; throws Error when there are fewer.
  std::string read(int64_t offset, size_t count) const;

 private:
  std::string name_;
  int descriptor_;
  int64_t size_;
};

// A file mapped for reading, pages shared with every process that maps it.
class Mapping {
 public:
  explicit Mapping(const File &file);
  ~Mapping();
  Mapping(const Mapping &) = delete;
  Mapping &operator=(const Mapping &) = delete;

  const uint8_t *data() const { return static_cast<const uint8_t *>(data_); }
  size_t size() const { return size_; }

 private:
  void *data_;
  size_t size_;
};

// The SHA-256 of a whole file.
std::string file_digest(const File &file);

// What the names of files begin with that are not whole yet.
constexpr char kPartial[] = ".partial-";

// Writes `bytes` beside `path` and renames them into place; false when the folder cannot be
// written.
bool write_atomically(const std::filesystem::path &path, std::string_view bytes);

}  // namespace gemma3

#endif  // GEMMA3_SRC_FILES_H_
