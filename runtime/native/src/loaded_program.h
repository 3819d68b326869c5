// A compiled program with its weights bound: a function of inputs and the donated cache.
#ifndef GEMMA3_SRC_LOADED_PROGRAM_H_
#define GEMMA3_SRC_LOADED_PROGRAM_H_

#include <string>
#include <vector>

#include "client.h"
#include "convention.h"
#include "hlo_signature.h"
#include "manifest.h"

namespace gemma3 {

// A tensor in the memory of the host, row-major.
class HostArray {
 public:
  HostArray(std::string dtype, Shape shape);  // zeros
  template <typename T>
  T *data() {
    return reinterpret_cast<T *>(bytes_.data());
  }
  template <typename T>
  const T *data() const {
    return reinterpret_cast<const T *>(bytes_.data());
  }
  const std::string &dtype() const { return dtype_; }
  const Shape &shape() const { return shape_; }
  size_t size() const { return bytes_.size(); }

 private:
  std::string dtype_;
  Shape shape_;
  std::vector<uint8_t> bytes_;
};

using HostArrays = std::vector<HostArray>;

class LoadedProgram {
 public:
  // `weights` in the order of the program's weight set; they outlive the program. Throws Error when
  // the executable takes or gives other tensors than the manifest says, of weights `weight_ports`
  // (`checked` skips it: it was found right when it was compiled). `known` are the inputs that
  // `run` will be given.
  LoadedProgram(const Client &client, const Mesh &mesh, const Program &record,
                Executable executable, std::vector<const Shards *> weights,
                std::vector<DevicePort> weight_ports, const std::vector<Port> &known, bool checked);

  const Program &record() const { return record_; }
  const Executable &executable() const { return executable_; }

  // Runs the program. `inputs` are those that are known, in their order: the program gets those that
  // it takes, and others of its own their neutral values. `cache` is given away and replaced by the cache that comes back; when the
  // call fails it is empty. Throws Error.
  std::vector<Shards> run(const HostArrays &inputs, std::vector<Shards> &cache) const;

  // Waits until a run that gave these outputs is done; throws Error when it failed.
  void wait(const std::vector<Shards> &outputs) const;
  // Output `index` of a run as a whole tensor in the memory of the host; waits for it.
  HostArray fetch(const std::vector<Shards> &outputs, size_t index) const;

 private:
  void check_signature(std::vector<DevicePort> parameters) const;
  // The arrays of the program's inputs, each checked.
  std::vector<const HostArray *> arrange(const HostArrays &inputs) const;
  void execute(const std::vector<std::vector<PJRT_Buffer *>> &arguments,
               std::vector<std::vector<PJRT_Buffer *>> &results) const;

  const Client &client_;
  const Mesh &mesh_;
  const Program &record_;
  Executable executable_;
  std::vector<const Shards *> weights_;
  size_t devices_;
  size_t known_;                 // inputs that `run` is given
  std::vector<size_t> sources_;  // for each input of the program which of them; `known_`: none
  HostArrays neutral_;           // what it gets instead, in order
};

// A whole tensor of the host on the devices of a mesh, each with its part.
Shards distribute(const Client &client, const Mesh &mesh, const Tensor &tensor,
                  const uint8_t *whole);
// The whole tensor out of its parts; waits for them.
void collect(const Client &client, const Mesh &mesh, const Tensor &tensor, const Shards &shards,
             uint8_t *whole);

}  // namespace gemma3

#endif  // GEMMA3_SRC_LOADED_PROGRAM_H_
