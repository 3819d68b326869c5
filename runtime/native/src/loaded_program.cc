#include "loaded_program.h"

#include <algorithm>
#include <exception>
#include <mutex>
#include <set>
#include <utility>

#include "sharding.h"

namespace gemma3 {
namespace {

std::string show(const std::string &dtype, const Shape &shape) {
  std::string text = dtype + "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i == 0 ? "" : ",") + std::to_string(shape[i]);
  return text + "]";
}

template <typename T>
void fill(HostArray &array, double value) {
  std::fill_n(array.data<T>(), array.size() / sizeof(T), static_cast<T>(value));
}

// An input that nobody here knows, as its manifest entry wants it then.
HostArray filled(const Tensor &input) {
  HostArray array(input.dtype, input.shape);
  const double value = input.neutral.value_or(0);
  if (input.dtype == "float32") fill<float>(array, value);
  if (input.dtype == "int32") fill<int32_t>(array, value);
  if (input.dtype == "uint32") fill<uint32_t>(array, value);
  return array;
}

}  // namespace

HostArray::HostArray(std::string dtype, Shape shape)
    : dtype_(std::move(dtype)),
      shape_(std::move(shape)),
      bytes_(static_cast<size_t>(byte_size(shape_, dtype_))) {}

LoadedProgram::LoadedProgram(const Client &client, const Mesh &mesh, const Program &record,
                             Executable executable, std::vector<const Shards *> weights,
                             std::vector<DevicePort> weight_ports, const std::vector<Port> &known,
                             bool checked)
    : client_(client),
      mesh_(mesh),
      record_(record),
      executable_(std::move(executable)),
      weights_(std::move(weights)),
      devices_(static_cast<size_t>(mesh.devices())),
      known_(known.size()) {
  if (!checked) check_signature(std::move(weight_ports));
  for (const Tensor &input : record_.inputs) {
    const auto port = std::find_if(known.begin(), known.end(),
                                   [&](const Port &p) { return p.name == input.name; });
    sources_.push_back(static_cast<size_t>(port - known.begin()));
    if (port == known.end()) neutral_.push_back(filled(input));
  }
}

// PJRT compares bytes only, so another program of equal sizes would run and give nonsense.
void LoadedProgram::check_signature(std::vector<DevicePort> parameters) const {
  const auto found = signature_of(client_.plugin(), executable_);
  if (!found) return;
  std::vector<DevicePort> results;
  const auto add = [&](std::vector<DevicePort> &ports, const std::vector<Tensor> &tensors) {
    for (const Tensor &tensor : tensors) {
      ports.push_back({tensor.dtype, shard_shape(tensor.shape, tensor.spec, mesh_)});
    }
  };
  add(parameters, record_.inputs);
  add(parameters, record_.cache);
  add(results, record_.outputs);
  add(results, record_.cache);
  const auto compare = [&](const std::vector<DevicePort> &expected,
                           const std::vector<DevicePort> &got, const char *what) {
    for (size_t i = 0; i < std::max(expected.size(), got.size()); ++i) {
      const auto shown = [&](const std::vector<DevicePort> &ports) {
        return i < ports.size() ? show(ports[i].dtype, ports[i].shape) : "none";
      };
      if (i < expected.size() && i < got.size() && got[i] == expected[i]) continue;
      refuse("program " + record_.stablehlo + " does not match its manifest entry: " + what + " " +
             std::to_string(i) + " is " + shown(got) + ", expected " + shown(expected) + " (of " +
             std::to_string(expected.size()) + ", got " + std::to_string(got.size()) +
             "): export the bundle again");
    }
  };
  compare(parameters, found->parameters, "argument");
  compare(results, found->results, "result");
}

std::vector<const HostArray *> LoadedProgram::arrange(const HostArrays &inputs) const {
  if (inputs.size() != known_) fail("a call with another number of inputs");
  std::vector<const HostArray *> arrays;
  size_t neutral = 0;
  for (size_t i = 0; i < sources_.size(); ++i) {
    const Tensor &expected = record_.inputs[i];
    const HostArray &array = sources_[i] < known_ ? inputs[sources_[i]] : neutral_[neutral++];
    if (array.dtype() != expected.dtype || array.shape() != expected.shape) {
      fail("input " + expected.name + ": expected " + show(expected.dtype, expected.shape) +
           ", got " + show(array.dtype(), array.shape()));
    }
    arrays.push_back(&array);
  }
  return arrays;
}

std::vector<Shards> LoadedProgram::run(const HostArrays &inputs, std::vector<Shards> &cache) const {
  const std::vector<const HostArray *> arrays = arrange(inputs);
  if (cache.size() != record_.cache.size()) {
    fail("the cache was lost when an earlier call failed: begin a new session");
  }
  std::vector<Shards> placed;
  for (size_t i = 0; i < arrays.size(); ++i) {
    placed.push_back(distribute(client_, mesh_, record_.inputs[i], arrays[i]->data<uint8_t>()));
  }
  std::vector<std::vector<PJRT_Buffer *>> arguments(devices_), results(devices_);
  for (size_t device = 0; device < devices_; ++device) {
    for (const Shards *weight : weights_) arguments[device].push_back((*weight)[device].get());
    for (const Shards &input : placed) arguments[device].push_back(input[device].get());
    for (const Shards &part : cache) arguments[device].push_back(part[device].get());
    results[device].resize(record_.outputs.size() + cache.size());
  }
  // Whatever happens the cache that went in is used up.
  const std::vector<Shards> given = std::exchange(cache, {});
  execute(arguments, results);
  std::vector<Shards> outputs;
  for (size_t i = 0; i < results[0].size(); ++i) {
    Shards shards;
    for (auto &own : results) shards.emplace_back(client_.plugin(), own[i]);
    (i < record_.outputs.size() ? outputs : cache).push_back(std::move(shards));
  }
  return outputs;
}

void LoadedProgram::execute(const std::vector<std::vector<PJRT_Buffer *>> &arguments,
                            std::vector<std::vector<PJRT_Buffer *>> &results) const {
  std::vector<PJRT_Buffer *const *> argument_lists;
  std::vector<PJRT_Buffer **> output_lists;
  for (const auto &list : arguments) argument_lists.push_back(list.data());
  for (auto &list : results) output_lists.push_back(list.data());
  std::vector<PJRT_Event *> completions(devices_);
  PJRT_ExecuteOptions options = {};
  options.struct_size = PJRT_ExecuteOptions_STRUCT_SIZE;
  GEMMA3_ARGS(LoadedExecutable_Execute, args);
  args.executable = executable_.get();
  args.options = &options;
  args.argument_lists = argument_lists.data();
  args.num_devices = devices_;
  args.num_args = arguments[0].size();
  args.output_lists = output_lists.data();
  // Programs of several devices wait for each other's parts: two that start on them in different
  // orders would wait for ever. So one is done before another begins.
  std::unique_lock<std::mutex> turn(client_.launches(), std::defer_lock);
  if (devices_ > 1) {
    turn.lock();
    args.device_complete_events = completions.data();
  }
  GEMMA3_CALL(client_.plugin(), LoadedExecutable_Execute, args);
  std::vector<Event> events;
  for (PJRT_Event *event : completions) events.emplace_back(client_.plugin(), event);
  for (const Event &event : events) await(client_.plugin(), event, "running a program");
}

void LoadedProgram::wait(const std::vector<Shards> &outputs) const {
  for (const Buffer &buffer : outputs.at(0)) client_.wait(buffer);
}

HostArray LoadedProgram::fetch(const std::vector<Shards> &outputs, size_t index) const {
  const Tensor &tensor = record_.outputs[index];
  HostArray whole(tensor.dtype, tensor.shape);
  collect(client_, mesh_, tensor, outputs[index], whole.data<uint8_t>());
  return whole;
}

Shards distribute(const Client &client, const Mesh &mesh, const Tensor &tensor,
                  const uint8_t *whole) {
  Shards shards;
  const int64_t item = item_size(tensor.dtype);
  std::vector<uint8_t> part;
  for (int64_t device = 0; device < mesh.devices(); ++device) {
    const Block block = shard_block(tensor.shape, tensor.spec, mesh, device);
    const uint8_t *source = whole + block_start(tensor.shape, block, item);
    if (!is_contiguous(tensor.shape, block)) {
      part.resize(static_cast<size_t>(byte_size(block.shape, tensor.dtype)));
      copy_out(whole, tensor.shape, block, item, part.data());
      source = part.data();
    }
    shards.push_back(
        client
            .upload(source, tensor.dtype, block.shape, static_cast<size_t>(device), Handover::kCopy)
            .buffer);
  }
  return shards;
}

void collect(const Client &client, const Mesh &mesh, const Tensor &tensor, const Shards &shards,
             uint8_t *whole) {
  struct Pending {
    Block block;
    std::vector<uint8_t> part;  // empty: written where it belongs
    Event event;
  };
  const int64_t item = item_size(tensor.dtype);
  std::set<Shape> seen;
  std::vector<Pending> pending;
  pending.reserve(shards.size());
  std::exception_ptr failure;
  for (size_t device = 0; device < shards.size(); ++device) {
    Pending next{
        shard_block(tensor.shape, tensor.spec, mesh, static_cast<int64_t>(device)), {}, {}};
    if (!seen.insert(next.block.offset).second) continue;  // a copy of another device's
    const auto bytes = static_cast<size_t>(byte_size(next.block.shape, tensor.dtype));
    uint8_t *out = whole + block_start(tensor.shape, next.block, item);
    if (!is_contiguous(tensor.shape, next.block)) {
      next.part.resize(bytes);
      out = next.part.data();
    }
    try {
      next.event = client.download(shards[device], out, bytes, tensor.shape.size());
    } catch (const Error &) {
      failure = std::current_exception();
      break;
    }
    pending.push_back(std::move(next));
  }
  // All are waited for before one may throw: they write to memory of this call.
  for (Pending &next : pending) {
    try {
      await(client.plugin(), next.event, "running a program");
    } catch (const Error &) {
      failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
  for (Pending &next : pending) {
    if (next.part.empty()) continue;
    copy_in(next.part.data(), tensor.shape, next.block, item, whole);
  }
}

}  // namespace gemma3
