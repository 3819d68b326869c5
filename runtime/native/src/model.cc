#include "model.h"

#include <chrono>
#include <deque>
#include <exception>
#include <system_error>
#include <thread>
#include <utility>

#include "convention.h"
#include "error.h"
#include "freed_memory.h"
#include "json.h"
#include "kernels.h"
#include "sampling_table.h"
#include "sha256.h"
#include "user_key.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

CompiledCache::Use use_of(uint64_t flags) {
  if ((flags & GEMMA3_NO_CACHE) != 0) return CompiledCache::Use::kNone;
  if ((flags & GEMMA3_CACHE_READ_ONLY) != 0) return CompiledCache::Use::kRead;
  return CompiledCache::Use::kReadWrite;
}

// In the bundle, or else in a folder of the user, unless the caller names a place.
std::unique_ptr<CompiledCache> open_cache(const OpenOptions &options, const Client &client) {
  constexpr char kFolder[] = "compiled";
  const fs::path user = user_folder();
  std::vector<fs::path> places;
  if (options.cache_dir.empty()) {
    places.push_back(fs::path(options.bundle) / kFolder);
    if (!user.empty()) places.push_back(user / kFolder);
  } else {
    std::error_code error;  // the caller's own links are followed
    const fs::path named = fs::weakly_canonical(options.cache_dir, error);
    places.push_back(error ? fs::path(options.cache_dir) : named);
  }
  // A plugin that is not told of a number of threads takes what it thinks best.
  const unsigned threads = (options.flags & GEMMA3_KEEP_ENVIRONMENT) != 0 ? 0 : options.threads;
  return std::make_unique<CompiledCache>(places, user,
                                         machine_identity(client, options.client_options, threads),
                                         use_of(options.flags));
}

// What the cache calls compiled code of a program: its bucket, for people, and what the code depends
// on: the program, the mesh it was partitioned for and the signature that was compared with it.
std::string entry_name(const Bundle &bundle, const Program &program, const std::string &options) {
  Sha256 digest;
  const auto add = [&](const std::string &text) { digest.update(text.data(), text.size() + 1); };
  add(bundle.record(program.stablehlo).sha256);
  add(options);
  add(program.variant);
  const Mesh &mesh = bundle.mesh(program.mesh).mesh;
  for (const Axis &axis : mesh.axes) add(axis.name + "=" + std::to_string(axis.size));
  const auto add_tensor = [&](const Shape &shape, const std::string &dtype, const Spec &spec) {
    add(dtype + to_text(Json(shape)) + to_text(Json(spec)));
  };
  const auto &specs = bundle.mesh(program.mesh).weight_specs;
  for (const std::string &name : bundle.manifest().weight_sets.at(program.weights)) {
    add_tensor(bundle.weight(name).shape, bundle.weight(name).dtype, specs.at(name));
  }
  for (const auto *tensors : {&program.inputs, &program.outputs, &program.cache}) {
    for (const Tensor &tensor : *tensors) add_tensor(tensor.shape, tensor.dtype, tensor.spec);
    add("");
  }
  return describe(program.bucket) + "-" + digest.hex().substr(0, 32) + ".xla";
}

}  // namespace

// The sampling parameters that are inputs of every program that draws tokens.
static std::set<std::string> sampling_inputs_of(const std::vector<const Program *> &programs) {
  std::set<std::string> taken;
#define GEMMA3_NAME(name, ...) taken.insert(#name);
  GEMMA3_SAMPLING(GEMMA3_NAME)
#undef GEMMA3_NAME
  for (const Program *program : programs) {
    if (!draws_tokens(program->bucket.program)) continue;
    std::set<std::string> inputs;
    for (const Tensor &input : program->inputs) inputs.insert(input.name);
    for (auto name = taken.begin(); name != taken.end();) {
      name = inputs.count(*name) > 0 ? std::next(name) : taken.erase(name);
    }
  }
  return taken;
}

double seconds() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(now).count();
}

Model::Model(const OpenOptions &options) : options_(options) {
  const double begun = seconds();
  Json report;
  Opening opening(options, report);
  bundle_ = std::move(opening.bundle);
  record_ = opening.record;
  client_ = std::move(opening.client);
  log_opening();
  compiled_ = open_cache(options, *client_);
  std::set<Bucket> buckets;
  for (const Program *program : opening.programs) {
    slots_[program->bucket].record = slots_[program->bucket].portable = program;
    buckets.insert(program->bucket);
  }
  std::vector<const Program *> all = opening.programs;
  all.insert(all.end(), opening.kernels.begin(), opening.kernels.end());
  sampling_inputs_ = sampling_inputs_of(all);
  load_kernels(options, opening.kernels);
  const bool copy = (options.flags & GEMMA3_COPY_WEIGHTS) != 0;
  const bool digests = (options.flags & GEMMA3_VERIFY) != 0 || bundle_->vouched();
  weights_ = std::make_unique<WeightStore>(
      *bundle_, *client_, *record_,
      WeightStore::Source{copy, digests, [this] { throw_if_cancelled(); }});
  for (const auto &[bucket, slot] : slots_) {
    // What only images need waits for the first one.
    if (bucket.program == ProgramName::kEncodeImage) continue;
    for (const Program *program : {slot.record, slot.portable}) weights_of(*program);
  }
  grid_ =
      Grid((fs::path(options.bundle) / "manifest.json").string() + ", mesh " + record_->mesh.name,
           std::move(buckets));
  open_s_ = seconds() - begun;
  log(GEMMA3_LOG_INFO, "weights of " + std::to_string(bundle_->weights_bytes()) +
                           " bytes are in place, " + shown_seconds(open_s_) + " after the start");
}

void Model::load_kernels(const OpenOptions &options, const std::vector<const Program *> &programs) {
  const KernelsFound found = take_kernels(*client_, options.kernels, programs);
  if (!found.programs.empty()) {
    log(GEMMA3_LOG_INFO,
        std::to_string(found.programs.size()) + " programs call the kernels of " + found.library);
  }
  if (!found.problem.empty()) {
    log(GEMMA3_LOG_WARNING, found.problem + ": portable programs are used");
  }
  for (const Program *program : found.programs) slots_[program->bucket].record = program;
}

Model::Slot &Model::slot(const Bucket &bucket) {
  const auto found = slots_.find(bucket);
  if (found == slots_.end()) {
    refuse(grid_.source() + " has no program " + describe(bucket) + "; export the bundle again");
  }
  return found->second;
}

const LoadedProgram &Model::program(const Bucket &bucket) {
  Slot &here = slot(bucket);
  const std::lock_guard<std::mutex> lock(here.mutex);
  if (here.program == nullptr) {
    load(here);
    if (compiled_->use() == CompiledCache::Use::kReadWrite) keep(here);
  }
  return *here.program;
}

std::string Model::entry_of(const Program &program) const {
  return entry_name(*bundle_, program, client_->compile_options(mesh().devices()));
}

void Model::load(Slot &here) {
  const double begun = seconds();
  const Program &record = *here.record;
  if (const auto bytes = compiled_->read(entry_of(record))) {
    try {
      here.program = std::make_unique<LoadedProgram>(
          *client_, mesh(), record, client_->deserialize(*bytes), weights_of(record),
          std::vector<DevicePort>(), program_inputs(record.bucket, manifest()), true);
      if (record.variant == kKernels) with_kernels_ = true;
      give_back_memory();
      loaded_count_ += 1;
      log(GEMMA3_LOG_DEBUG, describe(record.bucket) + " (" + record.variant + ") was loaded in " +
                                shown_seconds(seconds() - begun));
      const std::lock_guard<std::mutex> lock(stats_mutex_);
      load_s_ += seconds() - begun;
      return;
    } catch (const Error &error) {
      compiled_->discard(entry_of(record), std::string(error.what()) + ": compiling instead");
    }
  }
  log_remark();
  const std::string code = bundle_->read(record.stablehlo);
  refuse_calls(record, code);
  try {
    here.program = std::make_unique<LoadedProgram>(
        *client_, mesh(), record, client_->compile(code, mesh().devices()), weights_of(record),
        weight_ports(record), program_inputs(record.bucket, manifest()), false);
  } catch (const Error &error) {
    if (here.record != here.portable) {
      log(GEMMA3_LOG_WARNING,
          "program " + record.stablehlo + ": " + error.what() + ": the portable program is used");
      here.record = here.portable;
      return load(here);
    }
    throw Error(error.status(), "program " + record.stablehlo + " (StableHLO " +
                                    manifest().versions.stablehlo + "; the plugin is of " +
                                    client_->plugin().stablehlo_current() + "): " + error.what());
  }
  if (record.variant == kKernels) with_kernels_ = true;
  give_back_memory();
  compiled_count_ += 1;
  log(GEMMA3_LOG_INFO, describe(record.bucket) + " (" + record.variant + ") was compiled in " +
                           shown_seconds(seconds() - begun));
  const std::lock_guard<std::mutex> lock(stats_mutex_);
  compile_s_ += seconds() - begun;
}

void Model::give_back_memory() const {
  if ((options_.flags & GEMMA3_KEEP_MEMORY) == 0) return_freed_memory(client_->plugin());
}

// Keeps the machine code of a loaded program; whether a file was written.
bool Model::keep(const Slot &here) {
  const std::string name = entry_of(*here.record);
  if (compiled_->has(name)) return false;
  try {
    const std::string bytes = client_->serialize(here.program->executable());
    if (bytes.empty()) fail("the plugin gives no machine code");
    if (compiled_->write(name, bytes)) {
      written_count_ += 1;
      return true;
    }
  } catch (const Error &error) {
    compiled_->disappoint(std::string("compiled programs cannot be kept: ") + error.what());
  }
  log_remark();
  return false;
}

void Model::prepare(const std::set<Bucket> &buckets, const Between &between) {
  std::deque<Bucket> waiting(buckets.begin(), buckets.end());
  std::mutex mutex;
  std::exception_ptr failure;
  const auto work = [&] {
    while (true) {
      Bucket bucket;
      {
        const std::lock_guard<std::mutex> lock(mutex);
        if (waiting.empty() || failure) return;
        bucket = waiting.front();
        waiting.pop_front();
      }
      try {
        throw_if_cancelled();
        if (between) between();
        program(bucket);
      } catch (const std::exception &error) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (failure) log_second(bucket, error);
        if (!failure) failure = std::current_exception();
      }
    }
  };
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  const size_t most = options_.threads > 0 ? options_.threads : cores;
  std::vector<std::thread> threads;
  try {
    while (threads.size() + 1 < std::min(most, buckets.size())) threads.emplace_back(work);
  } catch (const std::system_error &) {
    // Fewer threads then: this one works in any case.
  }
  work();
  for (std::thread &thread : threads) thread.join();
  if (failure) std::rethrow_exception(failure);
}

uint32_t Model::compile_all(const Between &between) {
  prepare(grid_.buckets(), between);
  uint32_t written = 0;
  for (auto &[bucket, here] : slots_) {
    throw_if_cancelled();
    if (between) between();
    const std::lock_guard<std::mutex> lock(here.mutex);
    written += keep(here) ? 1 : 0;
    if (!compiled_->has(entry_of(*here.record))) {
      fail(compiled_->folder().string() + ": " + compiled_->remark());
    }
  }
  return written;
}

std::vector<const Shards *> Model::weights_of(const Program &program) const {
  return weights_->take(manifest().weight_sets.at(program.weights));
}

// The weights of a program as its devices must take them.
std::vector<DevicePort> Model::weight_ports(const Program &program) const {
  std::vector<DevicePort> ports;
  for (const std::string &name : manifest().weight_sets.at(program.weights)) {
    const Weight &weight = bundle_->weight(name);
    ports.push_back(
        {weight.dtype, shard_shape(weight.shape, record_->weight_specs.at(name), mesh())});
  }
  return ports;
}

const std::vector<Tensor> &Model::cache_of(GroupShape shape) const {
  static const std::vector<Tensor> none;
  for (const auto &[bucket, here] : slots_) {
    if (bucket.batch == shape.batch && bucket.cache == shape.cache && keeps_cache(bucket.program)) {
      return here.portable->cache;  // equal in all variants
    }
  }
  return none;
}

std::vector<Shards> Model::new_cache(GroupShape shape) const {
  std::vector<Shards> cache;
  for (const Tensor &tensor : cache_of(shape)) {
    const HostArray zeros(tensor.dtype, shard_shape(tensor.shape, tensor.spec, mesh()));
    Shards shards;
    for (int64_t device = 0; device < mesh().devices(); ++device) {
      shards.push_back(client_
                           ->upload(zeros.data<uint8_t>(), tensor.dtype, zeros.shape(),
                                    static_cast<size_t>(device), Handover::kCopy)
                           .buffer);
    }
    cache.push_back(std::move(shards));
  }
  return cache;
}

void Model::count_call(bool in_place) {
  calls_ += 1;
  in_place_ += in_place ? 1 : 0;
}

void check_opening(const OpenOptions &options, Json &report) {
  const Opening opening(options, report);
  const std::unique_ptr<CompiledCache> cache = open_cache(options, *opening.client);
  const std::string compile_options =
      opening.client->compile_options(opening.record->mesh.devices());
  std::set<Bucket> compiled;  // in whichever variant
  for (const auto *programs : {&opening.programs, &opening.kernels}) {
    for (const Program *program : *programs) {
      const std::string name = entry_name(*opening.bundle, *program, compile_options);
      if (cache->has(name)) compiled.insert(program->bucket);
    }
  }
  report["compiled"] = {{"fingerprint", cache->fingerprint()},
                        {"folder", cache->folder().string()},
                        {"programs", compiled.size()}};
  if (opening.kernels.empty()) return;
  const KernelsFound found = take_kernels(*opening.client, options.kernels, opening.kernels);
  const auto text_or_null = [](const std::string &text) {
    return text.empty() ? Json() : Json(text);
  };
  report["kernels"] = {{"library", text_or_null(found.library)},
                       {"programs", found.programs.size()},
                       {"of", opening.kernels.size()},
                       {"problem", text_or_null(found.problem)}};
}

}  // namespace gemma3
