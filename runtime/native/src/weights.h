// The weights of a bundle on the devices of a mesh.
#ifndef GEMMA3_SRC_WEIGHTS_H_
#define GEMMA3_SRC_WEIGHTS_H_

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "bundle.h"
#include "client.h"
#include "files.h"

namespace gemma3 {

// Puts weights on their devices. On CPU a device's part that lies in one piece of the file stays the
// mapped file; one that does not, such as a slice of columns, is copied once and shared by the
// devices that replicate it. Other devices get copies, and the file is let go.
class WeightStore {
 public:
  WeightStore(const Bundle &bundle, const Client &client, const MeshRecord &record)
      : bundle_(bundle), client_(client), record_(record) {}
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
  static Memory aligned(size_t bytes);

  const Bundle &bundle_;
  const Client &client_;
  const MeshRecord &record_;
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
