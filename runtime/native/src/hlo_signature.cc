#include "hlo_signature.h"

#include <utility>

#include "protobuf.h"

namespace gemma3 {
namespace {

// xla::PrimitiveType (xla/xla_data.proto).
constexpr std::pair<uint64_t, const char *> kTypes[] = {
    {1, "bool"},     {2, "int8"},     {4, "int32"},     {6, "uint8"},          {8, "uint32"},
    {10, "float16"}, {11, "float32"}, {16, "bfloat16"}, {20, "float8_e4m3fn"},
};
constexpr uint64_t kTuple = 13;

// A ShapeProto: its leaves are appended.
void read_shape(std::string_view bytes, std::vector<DevicePort> &out) {
  DevicePort port;
  bool tuple = false;
  std::vector<std::string_view> parts;
  for (ProtoReader shape(bytes); shape.next();) {
    if (shape.field == 2) {
      tuple = shape.number == kTuple;
      for (const auto &[type, name] : kTypes) {
        if (type == shape.number) port.dtype = name;
      }
    } else if (shape.field == 3) {
      if (shape.bytes.empty()) port.shape.push_back(static_cast<int64_t>(shape.number));
      for (uint64_t size = 0; shape.packed(size);) port.shape.push_back(static_cast<int64_t>(size));
    } else if (shape.field == 4) {
      parts.push_back(shape.bytes);
    }
  }
  if (!tuple) out.push_back(std::move(port));
  for (std::string_view part : parts) {
    if (tuple) read_shape(part, out);
  }
}

}  // namespace

std::optional<HloSignature> parse_signature(std::string_view hlo, bool with_config) {
  if (with_config) {
    for (ProtoReader outer(hlo); outer.next();) {
      if (outer.field == 1) return parse_signature(outer.bytes, false);
    }
    return std::nullopt;
  }
  for (ProtoReader module(hlo); module.next();) {
    if (module.field != 4) continue;  // host_program_shape
    HloSignature signature;
    for (ProtoReader program(module.bytes); program.next();) {
      if (program.field == 1) read_shape(program.bytes, signature.parameters);
      if (program.field == 2) read_shape(program.bytes, signature.results);
    }
    return signature;
  }
  return std::nullopt;
}

std::optional<HloSignature> signature_of(const Plugin &plugin, const Executable &executable) {
  if (!plugin.has(&PJRT_Api::PJRT_Executable_OptimizedProgram)) return std::nullopt;
  GEMMA3_ARGS(LoadedExecutable_GetExecutable, loaded);
  loaded.loaded_executable = executable.get();
  GEMMA3_CALL(plugin, LoadedExecutable_GetExecutable, loaded);
  const Owner<PJRT_Executable> inner(plugin, loaded.executable);
  PJRT_Program program = {};
  program.struct_size = PJRT_Program_STRUCT_SIZE;
  GEMMA3_ARGS(Executable_OptimizedProgram, args);
  args.executable = inner.get();
  args.program = &program;
  std::string code;
  try {
    GEMMA3_CALL(plugin, Executable_OptimizedProgram, args);  // says how long it is
    code.resize(program.code_size);
    program.code = code.data();
    GEMMA3_CALL(plugin, Executable_OptimizedProgram, args);
  } catch (const Error &) {
    return std::nullopt;  // some plugins do not implement it
  }
  const std::string_view format(program.format, program.format_size);
  if (format != "hlo" && format != "hlo_with_config") return std::nullopt;
  return parse_signature(code, format == "hlo_with_config");
}

}  // namespace gemma3
