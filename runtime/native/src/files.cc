#include "files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "error.h"
#include "sha256.h"

namespace gemma3 {

File::File(const std::filesystem::path &path) : name_(path.string()) {
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor_ < 0) refuse(name_ + ": cannot be read: " + std::strerror(errno));
  struct stat status {};
  if (::fstat(descriptor_, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(descriptor_);
    refuse(name_ + ": expected a regular file, got something else");
  }
  size_ = status.st_size;
}

File::~File() { ::close(descriptor_); }

std::string File::read(int64_t offset, size_t count) const {
  if (offset < 0 || offset > size_ || count > static_cast<size_t>(size_ - offset)) {
    refuse(name_ + ": expected " + std::to_string(count) + " bytes at " + std::to_string(offset) +
           ", got a file of " + std::to_string(size_) + "; copy the bundle again or re-export it");
  }
  std::string bytes(count, '\0');
  for (size_t done = 0; done < count;) {
    const ssize_t got = ::pread(descriptor_, bytes.data() + done, count - done,
                                static_cast<off_t>(offset) + static_cast<off_t>(done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) refuse(name_ + ": cannot be read: it became shorter or the disk fails");
    done += static_cast<size_t>(got);
  }
  return bytes;
}

Mapping::Mapping(const File &file) : data_(nullptr), size_(static_cast<size_t>(file.size())) {
  if (size_ == 0) return;
  data_ = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, file.descriptor(), 0);
  if (data_ == MAP_FAILED) fail(std::string("cannot map a weight file: ") + std::strerror(errno));
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

std::string file_digest(const File &file) {
  constexpr int64_t kPiece = 1 << 20;
  Sha256 digest;
  for (int64_t at = 0; at < file.size(); at += kPiece) {
    const std::string piece =
        file.read(at, static_cast<size_t>(std::min(kPiece, file.size() - at)));
    digest.update(piece.data(), piece.size());
  }
  return digest.hex();
}

bool write_atomically(const std::filesystem::path &path, std::string_view bytes) {
  static std::atomic<unsigned> number{0};  // only to tell the temporary names of threads apart
  const std::filesystem::path partial =
      path.parent_path() / (kPartial + std::to_string(::getpid()) + "-" +
                            std::to_string(number.fetch_add(1)) + "-" + path.filename().string());
  const int descriptor = ::open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0) return false;
  bool written = true;
  for (size_t done = 0; written && done < bytes.size();) {
    const ssize_t count = ::write(descriptor, bytes.data() + done, bytes.size() - done);
    if (count < 0 && errno == EINTR) continue;
    written = count > 0;
    if (written) done += static_cast<size_t>(count);
  }
  written = ::fsync(descriptor) == 0 && written;
  written = ::close(descriptor) == 0 && written;
  if (written && ::rename(partial.c_str(), path.c_str()) == 0) return true;
  ::unlink(partial.c_str());
  return false;
}

}  // namespace gemma3
