#include "client.h"

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <sstream>

#include "environment.h"
#include "protobuf.h"

namespace gemma3 {
namespace {

PJRT_Buffer_Type type_of(const std::string &dtype) {
  constexpr std::pair<const char *, PJRT_Buffer_Type> kTypes[] = {
      {"float32", PJRT_Buffer_Type_F32}, {"bfloat16", PJRT_Buffer_Type_BF16},
      {"float16", PJRT_Buffer_Type_F16}, {"int32", PJRT_Buffer_Type_S32},
      {"uint32", PJRT_Buffer_Type_U32},  {"int8", PJRT_Buffer_Type_S8},
      {"uint8", PJRT_Buffer_Type_U8},    {"float8_e4m3fn", PJRT_Buffer_Type_F8E4M3FN},
      {"bool", PJRT_Buffer_Type_PRED},
  };
  for (const auto &[name, type] : kTypes) {
    if (dtype == name) return type;
  }
  return PJRT_Buffer_Type_INVALID;
}

// Options of PJRT_Client_Create out of "name=value,...". The texts are kept beside them.
class NamedValues {
 public:
  void add_text(const std::string &text) {
    std::istringstream items(text);
    for (std::string item; std::getline(items, item, ',');) {
      const size_t equals = item.find('=');
      if (equals == std::string::npos || equals == 0) {
        refuse("client options: expected name=value,name=value, got " + text);
      }
      add(item.substr(0, equals), item.substr(equals + 1));
    }
  }

  void add_number(const std::string &name, int64_t number) {
    PJRT_NamedValue &value = append(name, PJRT_NamedValue_kInt64);
    value.int64_value = number;
  }

  const std::vector<PJRT_NamedValue> &values() const { return values_; }

 private:
  void add(const std::string &name, const std::string &text) {
    char *end = nullptr;
    const long long number = std::strtoll(text.c_str(), &end, 10);
    if (!text.empty() && *end == '\0') return add_number(name, number);
    const float fraction = std::strtof(text.c_str(), &end);
    if (!text.empty() && *end == '\0') {
      append(name, PJRT_NamedValue_kFloat).float_value = fraction;
    } else if (text == "true" || text == "false") {
      append(name, PJRT_NamedValue_kBool).bool_value = text == "true";
    } else {
      const std::string &kept = texts_.emplace_back(text);
      PJRT_NamedValue &value = append(name, PJRT_NamedValue_kString);
      value.string_value = kept.c_str();
      value.value_size = kept.size();
    }
  }

  PJRT_NamedValue &append(const std::string &name, PJRT_NamedValue_Type type) {
    const std::string &kept = texts_.emplace_back(name);
    PJRT_NamedValue value = {};
    value.struct_size = PJRT_NamedValue_STRUCT_SIZE;
    value.name = kept.c_str();
    value.name_size = kept.size();
    value.type = type;
    value.value_size = 1;
    return values_.emplace_back(value);
  }

  std::deque<std::string> texts_;  // addresses stay when it grows
  std::vector<PJRT_NamedValue> values_;
};

}  // namespace

Client::Client(const PluginSource &source, const ClientSettings &settings) {
  PluginEnvironment environment;
  const bool first = !source.is_started();
  if (!settings.keep_environment) ignored_flags_ = environment.change(first, settings.threads);
  plugin_ = std::make_unique<Plugin>(source);
  create(settings.options, settings.cpu_devices);
  describe();
  if (first && on_cpu()) settle();
}

void Client::create(const std::string &options, int64_t cpu_devices) {
  // Only CPU plugins know the option, and only a client tells what a plugin is for.
  for (const bool counted : {true, false}) {
    NamedValues values;
    values.add_text(options);
    if (counted) values.add_number("cpu_device_count", cpu_devices);
    GEMMA3_ARGS(Client_Create, args);
    args.create_options = values.values().data();
    args.num_options = values.values().size();
    try {
      GEMMA3_CALL(*plugin_, Client_Create, args);
    } catch (const Error &) {
      if (counted) continue;
      throw;
    }
    client_ = Owner<PJRT_Client>(*plugin_, args.client);
    return;
  }
}

void Client::describe() {
  GEMMA3_ARGS(Client_PlatformName, name);
  name.client = client_.get();
  GEMMA3_CALL(*plugin_, Client_PlatformName, name);
  platform_.assign(name.platform_name, name.platform_name_size);
  if (platform_ == "gpu") platform_ = "cuda";
  GEMMA3_ARGS(Client_PlatformVersion, version);
  version.client = client_.get();
  GEMMA3_CALL(*plugin_, Client_PlatformVersion, version);
  version_.assign(version.platform_version, version.platform_version_size);
  GEMMA3_ARGS(Client_AddressableDevices, devices);
  devices.client = client_.get();
  GEMMA3_CALL(*plugin_, Client_AddressableDevices, devices);
  for (size_t i = 0; i < devices.num_addressable_devices; ++i) {
    GEMMA3_ARGS(Device_GetDescription, device);
    device.device = devices.addressable_devices[i];
    GEMMA3_CALL(*plugin_, Device_GetDescription, device);
    GEMMA3_ARGS(DeviceDescription_Id, id);
    id.device_description = device.device_description;
    GEMMA3_CALL(*plugin_, DeviceDescription_Id, id);
    GEMMA3_ARGS(DeviceDescription_Kind, kind);
    kind.device_description = device.device_description;
    GEMMA3_CALL(*plugin_, DeviceDescription_Kind, kind);
    kind_.assign(kind.device_kind, kind.device_kind_size);
    devices_.push_back(device.device);
    ids_.push_back(id.id);
  }
}

// Makes XLA read its flags now, while the environment is as we want it: it does so when it first
// compiles.
void Client::settle() const {
  constexpr char kNothing[] =
      "module @nothing { func.func public @main() -> tensor<i32> { "
      "%0 = stablehlo.constant dense<0> : tensor<i32> return %0 : tensor<i32> } }";
  compile(kNothing, 1);
}

std::string Client::compile_options(int64_t devices) const {
  ProtoWriter build;
  build.number(4, 1);                               // num_replicas
  build.number(5, static_cast<uint64_t>(devices));  // num_partitions
  ProtoWriter assignment;
  assignment.number(1, 1).number(2, static_cast<uint64_t>(devices));
  if (devices > 1) build.number(6, 1);  // use_spmd_partitioning
  for (int64_t device = 0; device < devices; ++device) {
    const auto id = static_cast<uint64_t>(ids_[static_cast<size_t>(device)]);
    assignment.message(3, ProtoWriter().number(1, id).bytes());
  }
  build.message(9, assignment.bytes());  // device_assignment
  if (devices > 1) build.number(19, 1);  // use_shardy_partitioner
  return ProtoWriter().message(3, build.bytes()).bytes();
}

Executable Client::compile(std::string_view stablehlo, int64_t devices) const {
  std::string code(stablehlo);
  PJRT_Program program = {};
  program.struct_size = PJRT_Program_STRUCT_SIZE;
  program.code = code.data();
  program.code_size = code.size();
  program.format = "mlir";
  program.format_size = 4;
  const std::string options = compile_options(devices);
  GEMMA3_ARGS(Client_Compile, args);
  args.client = client_.get();
  args.program = &program;
  args.compile_options = options.data();
  args.compile_options_size = options.size();
  GEMMA3_CALL(*plugin_, Client_Compile, args);
  return Executable(*plugin_, args.executable);
}

std::string Client::serialize(const Executable &executable) const {
  if (!plugin_->has(&PJRT_Api::PJRT_Executable_Serialize)) return "";
  GEMMA3_ARGS(LoadedExecutable_GetExecutable, loaded);
  loaded.loaded_executable = executable.get();
  GEMMA3_CALL(*plugin_, LoadedExecutable_GetExecutable, loaded);
  const Owner<PJRT_Executable> inner(*plugin_, loaded.executable);
  GEMMA3_ARGS(Executable_Serialize, args);
  args.executable = inner.get();
  GEMMA3_CALL(*plugin_, Executable_Serialize, args);
  std::string bytes(args.serialized_bytes, args.serialized_bytes_size);
  args.serialized_executable_deleter(args.serialized_executable);
  return bytes;
}

Executable Client::deserialize(std::string_view bytes) const {
  GEMMA3_ARGS(Executable_DeserializeAndLoad, args);
  args.client = client_.get();
  args.serialized_executable = bytes.data();
  args.serialized_executable_size = bytes.size();
  GEMMA3_CALL(*plugin_, Executable_DeserializeAndLoad, args);
  return Executable(*plugin_, args.loaded_executable);
}

Upload Client::upload(const void *data, const std::string &dtype, const Shape &shape, size_t device,
                      Handover how) const {
  GEMMA3_ARGS(Client_BufferFromHostBuffer, args);
  args.client = client_.get();
  args.data = data;
  args.type = type_of(dtype);
  args.dims = shape.data();
  args.num_dims = shape.size();
  args.device = devices_[device];
  if (how == Handover::kCopy) {
    args.host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableOnlyDuringCall;
  } else {
    args.host_buffer_semantics = on_cpu()
                                     ? PJRT_HostBufferSemantics_kImmutableZeroCopy
                                     : PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes;
  }
  GEMMA3_CALL(*plugin_, Client_BufferFromHostBuffer, args);
  Upload upload{Buffer(*plugin_, args.buffer), Event(*plugin_, args.done_with_host_buffer)};
  if (how == Handover::kCopy) upload.done.reset();
  return upload;
}

Event Client::download(const Buffer &buffer, void *out, size_t bytes, size_t rank) const {
  std::vector<int64_t> minor_to_major(rank);
  for (size_t i = 0; i < rank; ++i) minor_to_major[i] = static_cast<int64_t>(rank - 1 - i);
  PJRT_Buffer_MemoryLayout layout = {};
  layout.struct_size = PJRT_Buffer_MemoryLayout_STRUCT_SIZE;
  layout.type = PJRT_Buffer_MemoryLayout_Type_Tiled;
  layout.tiled.struct_size = PJRT_Buffer_MemoryLayout_Tiled_STRUCT_SIZE;
  layout.tiled.minor_to_major = minor_to_major.data();
  layout.tiled.minor_to_major_size = rank;
  GEMMA3_ARGS(Buffer_ToHostBuffer, args);
  args.src = buffer.get();
  args.host_layout = &layout;
  args.dst = out;
  args.dst_size = bytes;
  GEMMA3_CALL(*plugin_, Buffer_ToHostBuffer, args);
  return Event(*plugin_, args.event);
}

void Client::wait(const Buffer &buffer) const {
  GEMMA3_ARGS(Buffer_ReadyEvent, args);
  args.buffer = buffer.get();
  GEMMA3_CALL(*plugin_, Buffer_ReadyEvent, args);
  await(*plugin_, Event(*plugin_, args.event), "running a program");
}

uintptr_t Client::address(const Buffer &buffer) const {
  if (!on_cpu() || !plugin_->has(&PJRT_Api::PJRT_Buffer_UnsafePointer)) return 0;
  GEMMA3_ARGS(Buffer_UnsafePointer, args);
  args.buffer = buffer.get();
  GEMMA3_CALL(*plugin_, Buffer_UnsafePointer, args);
  return args.buffer_pointer;
}

}  // namespace gemma3
