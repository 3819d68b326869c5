#include "compiled_cache.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>

#include "error.h"
#include "files.h"
#include "json.h"
#include "sha256.h"
#include "user_key.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

constexpr char kIndexName[] = "index.json";
constexpr int kVersion = 1;
constexpr int64_t kMostIndexBytes = 1 << 24;
constexpr std::chrono::seconds kLongestWait(10);
constexpr std::chrono::milliseconds kBetweenTries(20);

// One process at a time changes a folder.
class FolderLock {
 public:
  explicit FolderLock(const fs::path &folder)
      : descriptor_(
            ::open((folder / ".lock").c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644)) {
    locked_ = descriptor_ >= 0 && wait();
  }
  ~FolderLock() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  FolderLock(const FolderLock &) = delete;
  FolderLock &operator=(const FolderLock &) = delete;

  bool locked() const { return locked_; }

 private:
  // Not for ever: whoever can read the folder can hold the lock.
  bool wait() const {
    using std::chrono::steady_clock;
    const auto last = steady_clock::now() + kLongestWait;
    while (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
      if ((errno != EWOULDBLOCK && errno != EINTR) || steady_clock::now() > last) return false;
      std::this_thread::sleep_for(kBetweenTries);
    }
    return true;
  }

  int descriptor_;
  bool locked_ = false;
};

// The name of a file in the folder itself.
bool is_plain_name(const std::string &name) {
  return is_bundle_path(name) && name.find('/') == std::string::npos;
}

Json read_json(const fs::path &path) {
  const File file(path);
  if (file.size() > kMostIndexBytes) refuse(path.string() + ": expected at most 16 MiB");
  return parse_json(file.read(0, static_cast<size_t>(file.size())), path.string());
}

std::string fingerprint_of(const Identity &identity) {
  std::string text;
  for (const auto &[name, value] : identity) text += name + "=" + value + "\n";
  return sha256_hex(text).substr(0, 32);
}

// Removes what processes left that died while writing; the folder is locked.
void remove_partial_files(const fs::path &folder) {
  std::error_code error;
  std::vector<fs::path> partial;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    if (name.rfind(kPartial, 0) == 0) partial.push_back(entry->path());
  }
  for (const fs::path &path : partial) fs::remove(path, error);
}

}  // namespace

CompiledCache::CompiledCache(std::vector<fs::path> places, fs::path user, Identity identity,
                             Use use)
    : user_(std::move(user)), identity_(std::move(identity)), use_(use) {
  fingerprint_ = fingerprint_of(identity_);
  for (const fs::path &place : places) folders_.push_back({place / fingerprint_, {}});
  if (use_ == Use::kNone) {
    remark_ = "compiled programs are turned off";
    return;
  }
  key_ = read_user_key(user_);
  for (Folder &folder : folders_) {
    if (read_index(folder.path, folder.entries) == Index::kForeign) {
      remark_on("the compiled programs in " + folder.path.string() +
                " were not made by this user: compiling instead");
    }
  }
  const auto empty = [](const Folder &folder) { return folder.entries.empty(); };
  if (std::all_of(folders_.begin(), folders_.end(), empty)) look_for_others(places.front());
}

// Says so where this host has kept programs for something else.
void CompiledCache::look_for_others(const fs::path &place) {
  std::error_code error;
  for (fs::directory_iterator entry(place, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().filename() == fingerprint_) continue;
    try {
      const Json index = read_json(entry->path() / kIndexName);
      if (index.at("identity").at("host") != kCompiledHost) continue;
    } catch (const std::exception &) {
      continue;  // no index, or that of another host: none of our business
    }
    return remark_on("the compiled programs in " + place.string() +
                     " are for another plugin, machine or options: compiling instead");
  }
}

CompiledCache::Index CompiledCache::read_index(const fs::path &folder, Entries &entries) {
  entries.clear();
  const fs::path path = folder / kIndexName;
  std::error_code error;
  const fs::file_status status = fs::symlink_status(path, error);
  if (status.type() == fs::file_type::not_found) return Index::kOurs;
  if (status.type() != fs::file_type::regular || key_.empty()) return Index::kForeign;
  try {
    const Json index = read_json(path);
    if (index.at("owner") != owner() || index.at("version") != kVersion) return Index::kForeign;
    Entries found;
    const std::string where = path.string();
    const Place place{&where};
    for (const auto &item : index.at("entries").items()) {
      if (!is_plain_name(item.key())) refuse(where + ": expected names of files");
      CompiledEntry &entry = found[item.key()];
      Fields(item.value(), place).read("bytes", entry.bytes).read("sha256", entry.sha256).done();
    }
    if (equal_in_constant_time(index.at("mac").get<std::string>(), code_of(found))) {
      entries = std::move(found);
      return Index::kOurs;
    }
  } catch (const std::exception &) {
    // Not an index at all.
  }
  remark_on(path.string() + " is damaged: compiling instead");
  return Index::kOurs;
}

fs::path CompiledCache::folder() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  for (const Folder &folder : folders_) {
    if (!folder.entries.empty()) return folder.path;
  }
  return folders_.front().path;
}

bool CompiledCache::has(const std::string &name) const {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto holds = [&name](const Folder &folder) { return folder.entries.count(name) > 0; };
  return discarded_.count(name) == 0 && std::any_of(folders_.begin(), folders_.end(), holds);
}

std::optional<std::string> CompiledCache::read(const std::string &name) {
  if (use_ == Use::kNone || !has(name)) return std::nullopt;
  std::vector<std::pair<fs::path, CompiledEntry>> candidates;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    for (const Folder &folder : folders_) {
      const auto found = folder.entries.find(name);
      if (found != folder.entries.end()) candidates.emplace_back(folder.path / name, found->second);
    }
  }
  std::string last;
  for (const auto &[path, entry] : candidates) {
    last = path.string();
    try {
      const File file(path);
      if (file.size() != entry.bytes) continue;
      std::string bytes = file.read(0, static_cast<size_t>(file.size()));
      if (sha256_hex(bytes) == entry.sha256) return bytes;
    } catch (const Error &) {
      // Gone or unreadable: as good as damaged.
    }
  }
  discard(name, "compiled program " + last + " is damaged: compiling instead");
  return std::nullopt;
}

bool CompiledCache::write(const std::string &name, std::string_view bytes) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (key_.empty()) key_ = make_user_key(user_);
  if (key_.empty()) {
    remark_on("compiled programs cannot be kept: " + why_no_key(user_));
    return false;
  }
  for (Folder &folder : folders_) {
    if (!write_into(folder, name, bytes)) continue;
    discarded_.erase(name);
    return true;
  }
  remark_on("compiled programs cannot be kept in " + folders_.back().path.string());
  return false;
}

bool CompiledCache::write_into(Folder &folder, const std::string &name, std::string_view bytes) {
  std::error_code error;
  // A link would lead out of the bundle.
  if (fs::is_symlink(folder.path.parent_path(), error) || fs::is_symlink(folder.path, error)) {
    return false;
  }
  fs::create_directories(folder.path, error);
  if (error) return false;
  const FolderLock lock(folder.path);
  if (!lock.locked()) return false;
  remove_partial_files(folder.path);
  Entries entries;  // others may have written since
  if (read_index(folder.path, entries) == Index::kForeign) return false;
  if (!write_atomically(folder.path / name, bytes)) return false;
  entries[name] = {static_cast<int64_t>(bytes.size()), sha256_hex(bytes)};
  if (!write_atomically(folder.path / kIndexName, index_text(entries))) return false;
  folder.entries = std::move(entries);
  return true;
}

std::string CompiledCache::index_text(const Entries &entries) const {
  Json listed = Json::object();
  for (const auto &[name, entry] : entries) {
    listed[name] = {{"bytes", entry.bytes}, {"sha256", entry.sha256}};
  }
  const Json index = {{"version", kVersion},
                      {"identity", identity_},
                      {"entries", listed},
                      {"owner", owner()},
                      {"mac", code_of(entries)}};
  return index.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

std::string CompiledCache::code_of(const Entries &entries) const {
  std::string message =
      "gemma3-export compiled " + std::to_string(kVersion) + "\n" + fingerprint_ + "\n";
  for (const auto &[name, entry] : entries) {
    message += name + " " + std::to_string(entry.bytes) + " " + entry.sha256 + "\n";
  }
  return hmac_sha256_hex(key_, message);
}

std::string CompiledCache::owner() const { return sha256_hex(key_).substr(0, 16); }

void CompiledCache::discard(const std::string &name, const std::string &why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  discarded_.insert(name);
  remark_on(why);
}

std::string CompiledCache::remark() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return remark_;
}

void CompiledCache::disappoint(const std::string &why) {
  const std::lock_guard<std::mutex> lock(mutex_);
  remark_on(why);
}

// The first remark is the reason for what follows.
void CompiledCache::remark_on(const std::string &why) {
  if (remark_.empty()) remark_ = why;
}

}  // namespace gemma3
