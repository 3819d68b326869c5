#include "folder.h"

#include <fcntl.h>
#include <limits.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <deque>
#include <filesystem>
#include <system_error>
#include <vector>

#include "error.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

constexpr int kMostLinks = 40;  // as Linux has it
#ifdef O_PATH
constexpr int kToWalkThrough = O_PATH | O_DIRECTORY;  // folders need not be readable
#else
constexpr int kToWalkThrough = O_RDONLY | O_DIRECTORY;
#endif

// The way to a file: folders that are open, and parts that are still to be walked.
class Walk {
 public:
  Walk(int root, const std::string &real, const std::string &path) : root_(root), real_(real) {
    push(path);
  }
  ~Walk() { clear(); }
  Walk(const Walk &) = delete;
  Walk &operator=(const Walk &) = delete;

  // The descriptor of the file at the end, or -1 and `errno`.
  int run() {
    while (!parts_.empty()) {
      const std::string part = parts_.front();
      parts_.pop_front();
      if (part.empty() || part == ".") continue;
      if (part == "..") {
        if (folders_.empty()) return failed(EXDEV);
        ::close(folders_.back());
        folders_.pop_back();
        continue;
      }
      const bool last = parts_.empty();
      const int flags = last ? O_RDONLY | O_NONBLOCK | O_NOCTTY : kToWalkThrough;
      const int opened = ::openat(here(), part.c_str(), flags | O_NOFOLLOW | O_CLOEXEC);
      if (opened >= 0 && last) return opened;
      if (opened >= 0) {
        folders_.push_back(opened);
      } else if ((errno != ELOOP && errno != ENOTDIR) || !follow(part)) {
        return -1;
      }
    }
    return failed(EISDIR);
  }

  bool followed() const { return links_ > 0; }

 private:
  static int failed(int error) {
    errno = error;
    return -1;
  }

  int here() const { return folders_.empty() ? root_ : folders_.back(); }

  void clear() {
    for (int folder : folders_) ::close(folder);
    folders_.clear();
  }

  void push(const std::string &path) {
    std::vector<std::string> parts;
    for (size_t at = 0; at <= path.size();) {
      const size_t end = std::min(path.find('/', at), path.size());
      parts.push_back(path.substr(at, end - at));
      at = end + 1;
    }
    parts_.insert(parts_.begin(), parts.begin(), parts.end());
  }

  // Takes the link `part` of this folder; false, with `errno`, where that cannot be.
  bool follow(const std::string &part) {
    char target[PATH_MAX];
    const ssize_t size = ::readlinkat(here(), part.c_str(), target, sizeof target);
    if (size < 0) {
      if (errno == EINVAL) errno = ENOTDIR;  // no link either
      return false;
    }
    if (++links_ > kMostLinks) return failed(ELOOP) == 0;
    std::string path(target, static_cast<size_t>(size));
    if (!path.empty() && path[0] == '/') {
      if (path.compare(0, real_.size() + 1, real_ + "/") != 0) return failed(EXDEV) == 0;
      path.erase(0, real_.size() + 1);
      clear();
    }
    push(path);
    return true;
  }

  int root_;
  const std::string &real_;
  std::vector<int> folders_;
  std::deque<std::string> parts_;
  int links_ = 0;
};

}  // namespace

Folder::Folder(const std::string &path)
    : name_(path), descriptor_(::open(path.c_str(), kToWalkThrough | O_CLOEXEC)) {
  if (descriptor_ < 0)
    refuse(status_of(errno), name_ + ": cannot be opened: " + std::strerror(errno));
  std::error_code error;  // only links that name the folder by its whole path need this
  real_ = fs::canonical(path, error).string();
}

Folder::~Folder() { ::close(descriptor_); }

std::shared_ptr<const File> Folder::find(const std::string &path, int &error) const {
  Walk walk(descriptor_, real_, path);
  const int descriptor = walk.run();
  error = descriptor < 0 ? errno : 0;
  if (error != 0) return nullptr;
  auto file = File::adopt(descriptor, (fs::path(name_) / path).string(), walk.followed());
  if (file == nullptr) error = EISDIR;
  return file;
}

std::shared_ptr<const File> Folder::open(const std::string &path) const {
  int error = 0;
  if (auto file = find(path, error)) return file;
  if (error == EXDEV) {
    refuse(name_ + ": expected " + path +
           " inside the bundle, got a link out of it; copy the file "
           "itself into the bundle");
  }
  if (error == EISDIR || error == ENXIO) {  // ENXIO: a socket
    refuse(name_ + ": expected " + path +
           " to be a regular file, got something else; copy the "
           "bundle again or re-export it");
  }
  refuse(status_of(error), name_ + ": expected file " + path + " of the bundle, got: " +
                               std::strerror(error) + "; copy the bundle again or re-export it");
}

}  // namespace gemma3
