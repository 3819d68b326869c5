#include "environment.h"

#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <system_error>
#include <utility>
#include <vector>

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

char kQuiet[] = "TF_CPP_MIN_LOG_LEVEL=3";
constexpr char kThreads[] = "PJRT_NPROC";

// The environment belongs to the process, so what guards our change of it does too.
std::mutex &guard() {
  static std::mutex mutex;
  return mutex;
}

bool is_variable(const char *entry, const char *name) {
  const size_t length = std::strlen(name);
  return std::strncmp(entry, name, length) == 0 && entry[length] == '=';
}

// Lists of the environment and entries of them are never freed, since getenv of another thread may
// still walk a list after we are gone. Equal ones are made once.
char **list_of(const std::vector<char *> &entries) {
  static auto *lists = new std::map<std::vector<char *>, std::vector<char *>>;
  return lists->emplace(entries, entries).first->second.data();
}

char *threads_entry(unsigned threads) {
  static auto *entries = new std::map<unsigned, std::string>;
  std::string &entry = (*entries)[threads];
  if (entry.empty()) entry = std::string(kThreads) + "=" + std::to_string(threads);
  return entry.data();
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

bool PluginEnvironment::change(bool hide_flags, unsigned threads) {
  if (!hide_flags && threads == 0) return false;
  before_ = ::environ;
  std::vector<char *> kept;
  bool level = !hide_flags, flags = false;
  for (char **entry = before_; entry != nullptr && *entry != nullptr; ++entry) {
    if (hide_flags && is_variable(*entry, "XLA_FLAGS")) {
      flags = flags || std::strcmp(*entry, "XLA_FLAGS=") != 0;
      continue;
    }
    if (threads > 0 && is_variable(*entry, kThreads)) continue;
    level = level || is_variable(*entry, "TF_CPP_MIN_LOG_LEVEL");
    kept.push_back(*entry);
  }
  if (!level) kept.push_back(kQuiet);
  if (threads > 0) kept.push_back(threads_entry(threads));
  kept.push_back(nullptr);
  ::environ = list_of(kept);
  changed_ = true;
  return flags;
}

PluginEnvironment::~PluginEnvironment() {
  // A variable that the plugin set for itself meanwhile goes with its list.
  if (changed_) ::environ = before_;
  guard().unlock();
}

}  // namespace gemma3
