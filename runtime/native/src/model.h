// A bundle on the devices of one mesh: weights in place, programs compiled when first needed.
#ifndef GEMMA3_SRC_MODEL_H_
#define GEMMA3_SRC_MODEL_H_

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "bundle.h"
#include "cancel.h"
#include "client.h"
#include "compiled_cache.h"
#include "grid.h"
#include "loaded_program.h"
#include "weights.h"

namespace gemma3 {

// gemma3_options, with what was left out empty.
struct OpenOptions {
  std::string bundle, plugin, mesh, platform, cache_dir, client_options, kernels;
  std::string manifest_sha256, key;
  std::shared_ptr<const Bundle> opened;  // null: `bundle` is to be opened
  const PJRT_Api *pjrt_api = nullptr;    // null: `plugin` is to be loaded
  unsigned threads = 0;                  // 0: as many as there are cores
  int32_t log_level = GEMMA3_LOG_INFO;
  const gemma3_cancel *cancel = nullptr;
  gemma3_log_fn log = nullptr;
  void *log_user = nullptr;
  uint64_t flags = 0;
};

// What opening comes to before a weight or program is touched: the bundle, the mesh and the
// plugin's devices. `report`, gemma3_check's, is filled as far as it goes.
struct Opening {
  Opening(const OpenOptions &options, Json &report);

  std::shared_ptr<const Bundle> bundle;
  const MeshRecord *record = nullptr;
  std::unique_ptr<Client> client;
  std::vector<const Program *> programs;  // portable ones of the mesh and platform
  std::vector<const Program *> kernels;   // programs of variant "kernels"
};

// Threads may share it.
class Model {
 public:
  explicit Model(const OpenOptions &options);
  ~Model() = default;
  Model(const Model &) = delete;
  Model &operator=(const Model &) = delete;

  const Bundle &bundle() const { return *bundle_; }
  const Manifest &manifest() const { return bundle_->manifest(); }
  const Mesh &mesh() const { return record_->mesh; }
  const Client &client() const { return *client_; }
  const Grid &grid() const { return grid_; }

  // The program of a bucket of the grid, compiled or loaded when first asked for. Throws Error.
  const LoadedProgram &program(const Bucket &bucket);
  // Several at once, as many as there are threads. `between` is called on those threads.
  void prepare(const std::set<Bucket> &buckets, const Between &between = {});
  // All of them, and keeps what is not kept yet; the number of files written.
  uint32_t compile_all(const Between &between = {});

  // The tensors of the cache of a group of rows, and an empty cache on the devices.
  const std::vector<Tensor> &cache_of(GroupShape shape) const;
  std::vector<Shards> new_cache(GroupShape shape) const;

  // The sampling parameters that all programs which draw tokens take.
  const std::set<std::string> &sampling_inputs() const { return sampling_inputs_; }

  Json info() const;
  Json stats() const;
  gemma3_sizes sizes() const;
  void count_call(bool in_place);
  // A remark for the log of the options. From any thread.
  void log(int32_t level, const std::string &message) const;
  // Throws Error (GEMMA3_CANCELLED) when the cancel of the options is set.
  void throw_if_cancelled() const { throw_if_set(options_.cancel); }

 private:
  struct Slot {
    const Program *record = nullptr;
    const Program *portable = nullptr;  // what `record` gives way to where it cannot be compiled
    std::mutex mutex;
    std::unique_ptr<LoadedProgram> program;
  };

  void load_kernels(const OpenOptions &options, const std::vector<const Program *> &programs);
  Slot &slot(const Bucket &bucket);
  void load(Slot &slot);
  bool keep(const Slot &slot);
  std::vector<const Shards *> weights_of(const Program &program) const;
  std::vector<DevicePort> weight_ports(const Program &program) const;
  std::string entry_of(const Program &program) const;
  void log_opening() const;
  void log_second(const Bucket &bucket, const std::exception &error) const;
  void give_back_memory() const;
  void log_remark();

  OpenOptions options_;
  double open_s_ = 0;
  std::shared_ptr<const Bundle> bundle_;
  const MeshRecord *record_;
  std::unique_ptr<Client> client_;
  std::unique_ptr<CompiledCache> compiled_;
  std::unique_ptr<WeightStore> weights_;
  std::map<Bucket, Slot> slots_;
  std::set<std::string> sampling_inputs_;
  Grid grid_;
  mutable std::mutex log_mutex_;
  bool remarked_ = false;
  mutable std::mutex stats_mutex_;
  double compile_s_ = 0, load_s_ = 0;
  std::atomic<uint64_t> compiled_count_{0}, loaded_count_{0}, written_count_{0};
  std::atomic<uint64_t> calls_{0}, in_place_{0};
  std::atomic<bool> with_kernels_{false};  // whether a program that was loaded calls them
};

// What gemma3_check tells; throws Error like Model's constructor would, `report` filled before.
void check_opening(const OpenOptions &options, Json &report);

// Seconds of a clock that only goes forward.
double seconds();
// For people: "1.25 s".
std::string shown_seconds(double seconds);

}  // namespace gemma3

#endif  // GEMMA3_SRC_MODEL_H_
