#include "files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "error.h"
#include "sha256.h"

namespace gemma3 {

namespace {

constexpr size_t kPiece = size_t{1} << 20;  // read or hashed at a time

}  // namespace

gemma3_status status_of(int error) {
  if (error == ENOMEM) return GEMMA3_OUT_OF_MEMORY;
  return error == ENOENT || error == ENOTDIR ? GEMMA3_NOT_FOUND : GEMMA3_USAGE;
}

File::File(const std::filesystem::path &path) : name_(path.string()) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0)
    refuse(status_of(errno), name_ + ": cannot be read: " + std::strerror(errno));
  if (measure()) return;
  ::close(descriptor_);
  refuse(name_ + ": expected a regular file, got something else");
}

File::File(std::string name, int descriptor, bool through_link)
    : name_(std::move(name)), descriptor_(descriptor), through_link_(through_link) {}

std::shared_ptr<const File> File::adopt(int descriptor, std::string name, bool through_link) {
  const std::shared_ptr<File> file(new File(std::move(name), descriptor, through_link));
  return file->measure() ? file : nullptr;
}

File::~File() { ::close(descriptor_); }

// Whether it is a regular file, whose size is then known.
bool File::measure() {
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) return false;
  size_ = status.st_size;
  return true;
}

std::string File::read(int64_t offset, size_t count) const {
  if (offset < 0 || offset > size_ || count > static_cast<size_t>(size_ - offset)) {
    refuse(name_ + ": expected " + std::to_string(count) + " bytes at " + std::to_string(offset) +
           ", got a file of " + std::to_string(size_) + "; copy the bundle again or re-export it");
  }
  std::string bytes(count, '\0');
  read_into(bytes.data(), offset, count);
  return bytes;
}

void File::read_into(void *out, int64_t offset, size_t count) const {
  for (size_t done = 0; done < count;) {
    const ssize_t got = ::pread(descriptor_, static_cast<char *>(out) + done, count - done,
                                static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) refuse(name_ + ": cannot be read: it became shorter or the disk fails");
    done += static_cast<size_t>(got);
  }
}

Mapping::Mapping(const File &file) : data_(nullptr), size_(static_cast<size_t>(file.size())) {
  if (size_ == 0) return;
  struct stat status{};  // beyond its end a mapped file cannot be read: the process would end
  if (::fstat(file.descriptor(), &status) != 0 || status.st_size < file.size()) {
    refuse(file.name() + ": expected " + std::to_string(size_) + " bytes, got " +
           std::to_string(status.st_size) + "; copy the bundle again or re-export it");
  }
  data_ = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (data_ == MAP_FAILED && errno == ENOMEM) throw std::bad_alloc();
  if (data_ == MAP_FAILED) fail(std::string("cannot map a weight file: ") + std::strerror(errno));
}

std::unique_ptr<Mapping> Mapping::copy(const File &file, const Piece &piece) {
  const auto size = static_cast<size_t>(file.size());
  if (size == 0) return std::unique_ptr<Mapping>(new Mapping(nullptr, 0));
  void *data = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  std::unique_ptr<Mapping> mapping(new Mapping(data, size));
#ifdef MADV_HUGEPAGE
  ::madvise(data, size, MADV_HUGEPAGE);  // where the system has such pages; no harm where not
#endif
  for (size_t at = 0; at < size; at += kPiece) {
    const size_t count = std::min(kPiece, size - at);
    file.read_into(static_cast<uint8_t *>(data) + at, static_cast<int64_t>(at), count);
    piece(static_cast<uint8_t *>(data) + at, count);
  }
  ::mprotect(data, size, PROT_READ);
  return mapping;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

std::string file_digest(const File &file, const Between &between) {
  Sha256 digest;
  std::vector<uint8_t> piece(std::min(kPiece, static_cast<size_t>(file.size())));
  for (size_t at = 0; at < static_cast<size_t>(file.size()); at += kPiece) {
    if (between) between();
    const size_t count = std::min(kPiece, static_cast<size_t>(file.size()) - at);
    file.read_into(piece.data(), static_cast<int64_t>(at), count);
    digest.update(piece.data(), count);
  }
  return digest.hex();
}

bool write_atomically(const std::filesystem::path &path, std::string_view bytes) {
  static std::atomic<unsigned> number{0};  // only to tell the temporary names of threads apart
  const std::filesystem::path partial =
      path.parent_path() / (kPartial + std::to_string(::getpid()) + "-" +
                            std::to_string(number.fetch_add(1)) + "-" + path.filename().string());
  // Without a name until it is whole, where the file system can: a process that ends leaves nothing.
  const std::filesystem::path folder = path.parent_path();
  int descriptor =
      ::open(folder.empty() ? "." : folder.c_str(), O_TMPFILE | O_WRONLY | O_CLOEXEC, 0644);
  const bool named = descriptor < 0;
  if (named) descriptor = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return false;
  bool written = true;
  for (size_t done = 0; written && done < bytes.size();) {
    const ssize_t count = ::write(descriptor, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    written = count > 0;
    if (written) done += static_cast<size_t>(count);
  }
  written = ::fsync(descriptor) == 0 && written;
  if (written && !named) {
    const std::string open = "/proc/self/fd/" + std::to_string(descriptor);
    written = ::linkat(AT_FDCWD, open.c_str(), AT_FDCWD, partial.c_str(), AT_SYMLINK_FOLLOW) == 0;
  }
  written = ::close(descriptor) == 0 && written;
  if (written && ::rename(partial.c_str(), path.c_str()) == 0) return true;
  ::unlink(partial.c_str());
  return false;
}

}  // namespace gemma3
