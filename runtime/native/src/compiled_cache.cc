#include "compiled_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <fstream>
#include <system_error>
#include <thread>

#include "files.h"
#include "json.h"
#include "sha256.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

constexpr char kIndex[] = "index.json";
constexpr int kVersion = 1;

// What of /proc/cpuinfo names the processor and what it can do, once.
std::string processor() {
  static constexpr const char *kFields[] = {
      "vendor_id", "cpu family", "model",           "model name",  "stepping", "flags",
      "Features",  "CPU part",   "CPU implementer", "CPU variant",
  };
  std::ifstream file("/proc/cpuinfo");
  std::string text;
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const std::string name = line.substr(0, line.find_first_of("\t:"));
    for (const char *field : kFields) {
      if (name == field) text += line + "\n";
    }
  }
  return text;
}

// One process at a time changes an index.
class FolderLock {
 public:
  explicit FolderLock(const fs::path &folder)
      : descriptor_(::open((folder / ".lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644)) {
    if (descriptor_ >= 0) ::flock(descriptor_, LOCK_EX);
  }
  ~FolderLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  FolderLock(const FolderLock &) = delete;
  FolderLock &operator=(const FolderLock &) = delete;

 private:
  int descriptor_;
};

}  // namespace

std::string machine_facts(const Client &client) {
  Json facts = {{"version", kVersion},
                {"plugin_build", client.plugin().build()},
                {"pjrt_api", client.plugin().api_version()},
                {"stablehlo", client.plugin().stablehlo_current()},
                {"platform", client.platform()},
                {"platform_version", client.platform_version()},
                {"device_kind", client.device_kind()}};
  if (client.on_cpu()) {
    facts["processor"] = sha256_hex(processor());
    // XLA:CPU cuts work into as many pieces as there are threads when it compiles.
    facts["threads"] = std::thread::hardware_concurrency();
  }
  return to_text(facts);
}

CompiledCache::CompiledCache(fs::path root, std::string facts, Use use)
    : root_(std::move(root)), facts_(std::move(facts)), use_(use) {
  fingerprint_ = sha256_hex(facts_).substr(0, 32);
  folder_ = root_ / fingerprint_;
  if (use_ == Use::kNone) {
    remark_ = "compiled programs are turned off";
    return;
  }
  load();
}

size_t CompiledCache::count(const std::string &key) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return entries_.count(key);
}

void CompiledCache::load() {
  std::error_code error;
  if (!fs::exists(folder_ / kIndex, error)) {
    if (fs::is_directory(root_, error) && !fs::is_empty(root_, error)) {
      remark_ = "the compiled programs in " + root_.string() +
                " are for another plugin, machine or options: compiling instead";
    }
    return;
  }
  const std::string where = (folder_ / kIndex).string();
  try {
    const File file(folder_ / kIndex);
    if (file.size() > (1 << 24)) refuse(where + ": expected at most 16 MiB");
    const Json index = parse_json(file.read(0, static_cast<size_t>(file.size())), where);
    if (to_text(index.value("facts", Json())) != facts_) refuse(where + ": is for another machine");
    const Place place{&where};
    for (const auto &item : index.at("programs").items()) {
      Entry entry;
      Fields(item.value(), place)
          .read("file", entry.file)
          .read("bytes", entry.bytes)
          .read("sha256", entry.sha256)
          .done();
      if (!is_bundle_path(entry.file) || entry.file.find('/') != std::string::npos) {
        refuse(where + ": expected the name of a file, got another path");
      }
      entries_[item.key()] = entry;
    }
  } catch (const std::exception &reason) {
    entries_.clear();
    remark_ = std::string(reason.what()) + ": compiling instead";
  }
}

std::optional<std::string> CompiledCache::read(const std::string &key) {
  Entry entry;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = entries_.find(key);
    if (use_ == Use::kNone || found == entries_.end()) return std::nullopt;
    entry = found->second;
  }
  const fs::path path = folder_ / entry.file;
  try {
    const File file(path);
    std::string bytes = file.read(0, static_cast<size_t>(file.size()));
    if (file.size() == entry.bytes && sha256_hex(bytes) == entry.sha256) return bytes;
    disappoint("compiled program " + path.string() + " is damaged: compiling instead");
  } catch (const Error &error) {
    disappoint(std::string(error.what()) + ": compiling instead");
  }
  return std::nullopt;
}

bool CompiledCache::write(const std::string &key, std::string_view bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  std::error_code error;
  fs::create_directories(folder_, error);
  if (error) return false;
  const FolderLock folder_lock(folder_);
  const std::string before = remark_;
  const std::map<std::string, Entry> ours = entries_;
  load();  // others may have written since
  remark_ = before;
  entries_.insert(ours.begin(), ours.end());
  const Entry entry{key.substr(0, 32) + ".xla", sha256_hex(bytes),
                    static_cast<int64_t>(bytes.size())};
  if (!write_atomically(folder_ / entry.file, bytes)) return false;
  entries_[key] = entry;
  Json programs = Json::object();
  for (const auto &[name, kept] : entries_) {
    programs[name] = {{"file", kept.file}, {"bytes", kept.bytes}, {"sha256", kept.sha256}};
  }
  const Json index = {{"facts", Json::parse(facts_)}, {"programs", programs}};
  return write_atomically(folder_ / kIndex, index.dump(1) + "\n");
}

std::string CompiledCache::remark() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return remark_;
}

void CompiledCache::disappoint(const std::string &why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (remark_.empty()) remark_ = why;
}

}  // namespace gemma3
