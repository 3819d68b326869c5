// Files of the system: RAII for descriptors and mappings, whole reads, atomic writes.
#ifndef GEMMA3_SRC_FILES_H_
#define GEMMA3_SRC_FILES_H_

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "cancel.h"

namespace gemma3 {

// What kind of failure it is that a file cannot be opened with this errno.
gemma3_status status_of(int error);

// An open file, closed at the end.
class File {
 public:
  // Throws Error when `path` cannot be opened for reading or is not a regular file.
  explicit File(const std::filesystem::path &path);
  // The file of an open descriptor, which is closed in any case; null when it is not a regular one.
  // `name` is how errors call it, `through_link` whether it was found by way of a link.
  static std::shared_ptr<const File> adopt(int descriptor, std::string name, bool through_link);
  ~File();
  File(const File &) = delete;
  File &operator=(const File &) = delete;

  int descriptor() const { return descriptor_; }
  int64_t size() const { return size_; }
  const std::string &name() const { return name_; }
  bool through_link() const { return through_link_; }
  // `count` bytes from `offset`; throws Error when there are fewer.
  std::string read(int64_t offset, size_t count) const;
  void read_into(void *out, int64_t offset, size_t count) const;

 private:
  File(std::string name, int descriptor, bool through_link);
  bool measure();

  std::string name_;
  int descriptor_;
  bool through_link_ = false;
  int64_t size_ = 0;
};

// The contents of a file in memory that is not written to: the file mapped, whose pages are shared
// with every process that maps it and follow what is written to it later, or a copy of one's own.
class Mapping {
 public:
  explicit Mapping(const File &file);
  // A copy in memory of no file. `piece` is told of each part as it lies there, in order.
  using Piece = std::function<void(const void *, size_t)>;
  static std::unique_ptr<Mapping> copy(const File &file, const Piece &piece);
  ~Mapping();
  Mapping(const Mapping &) = delete;
  Mapping &operator=(const Mapping &) = delete;

  const uint8_t *data() const { return static_cast<const uint8_t *>(data_); }
  size_t size() const { return size_; }

 private:
  Mapping(void *data, size_t size) : data_(data), size_(size) {}

  void *data_;
  size_t size_;
};

// The SHA-256 of a whole file. `between` is called now and then; what it throws ends the reading.
std::string file_digest(const File &file, const Between &between = {});

// What the names of files begin with that are not whole yet.
constexpr char kPartial[] = ".partial-";

// Writes `bytes` beside `path` and renames them into place; false when the folder cannot be
// written.
bool write_atomically(const std::filesystem::path &path, std::string_view bytes);

}  // namespace gemma3

#endif  // GEMMA3_SRC_FILES_H_
