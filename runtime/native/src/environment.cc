#include "environment.h"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

char kQuiet[] = "TF_CPP_MIN_LOG_LEVEL=3";

// The environment belongs to the process, so what guards our change of it does too.
std::mutex &guard() {
  static std::mutex mutex;
  return mutex;
}

bool is_variable(const char *entry, const char *name) {
  const size_t length = std::strlen(name);
  return std::strncmp(entry, name, length) == 0 && entry[length] == '=';
}

}  // namespace

std::string environment(const char *name) {
#if defined(__GLIBC__)
  const char *value = ::secure_getenv(name);
#else
  const char *value = std::getenv(name);
#endif
  return value == nullptr ? "" : value;
}

fs::path folder_variable(const char *name) {
  const fs::path folder = environment(name);
  return folder.is_absolute() ? folder : fs::path();
}

fs::path own_file() {
  const auto here = reinterpret_cast<uintptr_t>(&own_file);
  std::ifstream maps("/proc/self/maps");
  // "first-last rwxp offset device inode   path"; see proc(5).
  for (std::string line; std::getline(maps, line);) {
    unsigned long long first = 0, last = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx", &first, &last) != 2) continue;
    if (here < first || here >= last) continue;
    const size_t path = line.find('/');
    if (path == std::string::npos) return {};
    std::error_code error;
    const fs::path found = fs::canonical(line.substr(path), error);  // fails once it was deleted
    return error ? fs::path() : found;
  }
  return {};
}

PluginEnvironment::PluginEnvironment() { guard().lock(); }

bool PluginEnvironment::hide() {
  before_ = ::environ;
  std::vector<char *> kept;
  bool level = false, flags = false;
  for (char **entry = before_; entry != nullptr && *entry != nullptr; ++entry) {
    if (is_variable(*entry, "XLA_FLAGS")) {
      flags = flags || std::strcmp(*entry, "XLA_FLAGS=") != 0;
      continue;
    }
    level = level || is_variable(*entry, "TF_CPP_MIN_LOG_LEVEL");
    kept.push_back(*entry);
  }
  if (!level) kept.push_back(kQuiet);
  kept.push_back(nullptr);
  // getenv of another thread may still walk the list after we are gone, so it is never freed; one
  // is made for each plugin of the process, not for each model.
  static auto *lists = new std::vector<std::vector<char *>>;
  ::environ = lists->emplace_back(std::move(kept)).data();
  hidden_ = true;
  return flags;
}

PluginEnvironment::~PluginEnvironment() {
  // A variable that the plugin set for itself meanwhile goes with its list.
  if (hidden_) ::environ = before_;
  guard().unlock();
}

}  // namespace gemma3
