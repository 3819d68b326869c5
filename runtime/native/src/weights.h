// The weights of a bundle on the devices of a mesh.
#ifndef GEMMA3_SRC_WEIGHTS_H_
#define GEMMA3_SRC_WEIGHTS_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "bundle.h"
#include "cancel.h"
#include "client.h"
#include "files.h"

namespace gemma3 {

// Puts weights on their devices. On CPU a device's part that lies in one piece of the file stays the
// mapped file; one that does not, such as a slice of columns, is copied once and shared by the
// devices that replicate it. Other devices get copies, and the file is let go.
class WeightStore {
 public:
  // With `copy` a copy in memory takes the place of the mapped file, and with `digests` too, the
  // digest of what was copied is compared. `between` may throw, to end a call.
  struct Source {
    bool copy = false, digests = false;
    Between between;
  };

  WeightStore(const Bundle &bundle, const Client &client, const MeshRecord &record, Source source)
      : bundle_(bundle), client_(client), record_(record), source_(std::move(source)) {}
  ~WeightStore();
  WeightStore(const WeightStore &) = delete;
  WeightStore &operator=(const WeightStore &) = delete;

  // The weights of these names, in order; those that no call before asked for are placed first.
  // For use by several threads at once.
  std::vector<const Shards *> take(const std::vector<std::string> &names);
  int64_t mapped_bytes() const;
  int64_t copied_bytes() const;

 private:
  struct Free {
    void operator()(uint8_t *memory) const;
  };
  using Memory = std::unique_ptr<uint8_t, Free>;

  void place(const Weight &weight);
  const Mapping &map(const std::string &file);
  std::unique_ptr<Mapping> copy(const std::string &file) const;
  static Memory aligned(size_t bytes);

  const Bundle &bundle_;
  const Client &client_;
  const MeshRecord &record_;
  const Source source_;
  mutable std::mutex mutex_;
  // In order of need: buffers go first, then what they are made of.
  std::map<std::string, std::unique_ptr<Mapping>> mappings_;
  std::vector<Memory> copies_;
  std::map<std::string, Shards> weights_;
  std::vector<Event> done_;
  int64_t mapped_ = 0, copied_ = 0;
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_WEIGHTS_H_
