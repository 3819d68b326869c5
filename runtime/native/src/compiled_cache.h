// Compiled programs kept in a folder, for the same plugin, machine and options only.
#ifndef GEMMA3_SRC_COMPILED_CACHE_H_
#define GEMMA3_SRC_COMPILED_CACHE_H_

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "client.h"

namespace gemma3 {

// Everything that machine code depends on besides the program, as JSON: plugin, processor, devices.
std::string machine_facts(const Client &client);

// A folder `root`/<fingerprint>/ with an index of files and their digests. Files of other
// fingerprints are never looked at, and those of this one are compared with their digests.
// Whoever can write there can run code here: the folder is to be trusted like the plugin. Threads
// may share it.
class CompiledCache {
 public:
  enum class Use { kNone, kRead, kReadWrite };

  CompiledCache(std::filesystem::path root, std::string facts, Use use);

  const std::string &fingerprint() const { return fingerprint_; }
  const std::filesystem::path &folder() const { return folder_; }
  Use use() const { return use_; }
  size_t count(const std::string &key) const;

  // The bytes kept for `key`, or nothing.
  std::optional<std::string> read(const std::string &key);
  // Keeps bytes for `key`; false when the folder cannot be written.
  bool write(const std::string &key, std::string_view bytes);

  // One sentence on why compiled programs are not used, empty when nothing is wrong.
  std::string remark() const;
  // To be told when an entry turned out to be of no use.
  void disappoint(const std::string &why);

 private:
  struct Entry {
    std::string file, sha256;
    int64_t bytes = 0;
  };
  void load();

  std::filesystem::path root_, folder_;
  std::string facts_, fingerprint_;
  Use use_;
  mutable std::mutex mutex_;
  std::map<std::string, Entry> entries_;
  std::string remark_;
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_COMPILED_CACHE_H_
