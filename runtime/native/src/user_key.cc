#include "user_key.h"

#include <fcntl.h>
#include <pwd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <system_error>
#include <vector>

#include "environment.h"
#include "error.h"
#include "files.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

constexpr char kName[] = "key";
constexpr size_t kKeyBytes = 32;

fs::path home() {
  if (const fs::path named = folder_variable("HOME"); !named.empty()) return named;
  std::vector<char> texts(1 << 14);
  passwd entry{};
  passwd *found = nullptr;
  const int failed = ::getpwuid_r(::getuid(), &entry, texts.data(), texts.size(), &found);
  return failed != 0 || found == nullptr ? fs::path() : fs::path(found->pw_dir);
}

// Writes a new key, unless another process is faster: a link appears whole or not at all.
void write_new_key(const fs::path &folder) {
  std::error_code error;
  fs::create_directories(folder.parent_path(), error);
  ::mkdir(folder.c_str(), 0700);
  char secret[kKeyBytes];
  if (::getentropy(secret, sizeof secret) != 0) return;
  const fs::path partial = folder / (kPartial + std::to_string(::getpid()) + "-" +
                                     std::to_string(reinterpret_cast<uintptr_t>(secret)));
  ::unlink(partial.c_str());
  const int flags = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
  const int descriptor = ::open(partial.c_str(), flags, 0600);
  if (descriptor < 0) return;
  bool written = ::write(descriptor, secret, sizeof secret) == sizeof secret;
  written = ::fsync(descriptor) == 0 && written;
  written = ::close(descriptor) == 0 && written;
  if (written) (void)!::link(partial.c_str(), (folder / kName).c_str());
  ::unlink(partial.c_str());
}

}  // namespace

fs::path user_folder() {
  const fs::path configured = environment("XDG_CACHE_HOME");
  if (configured.is_absolute()) return configured / "gemma3-export";
  const fs::path own = home();
  return own.empty() ? fs::path() : own / ".cache" / "gemma3-export";
}

std::string read_user_key(const fs::path &folder) {
  if (folder.empty()) return "";
  try {
    const File file(folder / kName);
    struct stat status{};
    if (::fstat(file.descriptor(), &status) != 0) return "";
    const bool is_private = status.st_uid == ::getuid() && (status.st_mode & 077) == 0;
    if (!is_private || file.size() != kKeyBytes) return "";
    return file.read(0, kKeyBytes);
  } catch (const Error &) {
    return "";
  }
}

std::string make_user_key(const fs::path &folder) {
  std::error_code error;
  if (!folder.empty() && !fs::exists(folder / kName, error)) write_new_key(folder);
  return read_user_key(folder);
}

std::string why_no_key(const fs::path &folder) {
  if (folder.empty()) {
    return "this user has no home folder; set XDG_CACHE_HOME to a folder for caches";
  }
  std::error_code error;
  if (fs::exists(folder / kName, error)) {
    return "expected a key in " + (folder / kName).string() +
           " of 32 bytes that only you can read; remove that file to have another made";
  }
  return "no key can be made in " + folder.string() +
         "; set XDG_CACHE_HOME to a folder that you can write";
}

}  // namespace gemma3
