// Compiled programs kept in folders, for the same plugin, machine and options, by the same user.
#ifndef GEMMA3_SRC_COMPILED_CACHE_H_
#define GEMMA3_SRC_COMPILED_CACHE_H_

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "client.h"

namespace gemma3 {

// What machine code depends on besides the program, as names and values.
using Identity = std::map<std::string, std::string>;

// What identities of this host begin with, where those of others have names of their own.
constexpr char kCompiledHost[] = "libgemma3";

// That of programs compiled by `client`, which was started with `client_options` and `threads`, 0
// being one for each core.
Identity machine_identity(const Client &client, const std::string &client_options,
                          unsigned threads);

// A file of a folder, as the index there records it.
struct CompiledEntry {
  int64_t bytes = 0;
  std::string sha256;
};

// A folder <fingerprint>/ in each of some places, with an index of its files and a code (HMAC) over
// it, as FORMAT.md says. Loading machine code is running it, so an index counts only when its code
// was made with the key of this user: what came with a copied bundle is left alone. Threads and
// processes may share the folders.
class CompiledCache {
 public:
  enum class Use { kNone, kRead, kReadWrite };

  // `places`, the preferred first; the key is in the folder `user`, which may be empty.
  CompiledCache(std::vector<std::filesystem::path> places, std::filesystem::path user,
                Identity identity, Use use);

  const std::string &fingerprint() const { return fingerprint_; }
  Use use() const { return use_; }
  // Where entries are, else where the first will be.
  std::filesystem::path folder() const;
  bool has(const std::string &name) const;

  // The bytes kept as `name`, or nothing.
  std::optional<std::string> read(const std::string &name);
  // Keeps bytes as `name` in the first place that can be written; false when none can.
  bool write(const std::string &name, std::string_view bytes);
  // To be told when an entry was read and is of no use; it is replaced by the next write.
  void discard(const std::string &name, const std::string &why);

  // One sentence on why compiled programs are not used, empty when nothing is wrong.
  std::string remark() const;
  // To be told of something that is wrong; the first remark counts.
  void disappoint(const std::string &why);

 private:
  using Entries = std::map<std::string, CompiledEntry>;
  struct Folder {
    std::filesystem::path path;
    Entries entries;  // of an index of this user
  };
  enum class Index { kOurs, kForeign };

  void look_for_others(const std::filesystem::path &place);
  // The entries of the index in `folder`, none where there is none. kForeign leaves them alone.
  Index read_index(const std::filesystem::path &folder, Entries &entries);
  bool write_into(Folder &folder, const std::string &name, std::string_view bytes);
  std::string index_text(const Entries &entries) const;
  std::string code_of(const Entries &entries) const;
  std::string owner() const;
  void remark_on(const std::string &why);

  std::filesystem::path user_;
  Identity identity_;
  std::string fingerprint_, key_;
  Use use_;
  mutable std::mutex mutex_;
  std::vector<Folder> folders_;
  std::set<std::string> discarded_;
  std::string remark_;
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_COMPILED_CACHE_H_
