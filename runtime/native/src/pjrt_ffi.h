// PJRT's FFI extension (xla/pjrt/c/pjrt_c_api_ffi_extension.h), whose header no plugin's wheel
// brings: the structs as of version 3, and only what registering handlers needs.
#ifndef GEMMA3_SRC_PJRT_FFI_H_
#define GEMMA3_SRC_PJRT_FFI_H_

#include <string>

#include "pjrt.h"

namespace gemma3 {

struct FfiRegisterArgs {
  size_t struct_size;
  const char *target_name;
  size_t target_name_size;
  void *handler;  // XLA_FFI_Handler*
  const char *platform_name;
  size_t platform_name_size;
  int traits;
};

struct FfiExtension {
  PJRT_Extension_Base base;
  void *type_register;
  void *user_data_add;
  PJRT_Error *(*register_handler)(FfiRegisterArgs *);
};

// The plugin's extension, or null when it has none that registers handlers.
inline const FfiExtension *ffi_extension(const Plugin &plugin) {
  const auto *found =
      reinterpret_cast<const FfiExtension *>(plugin.extension(PJRT_Extension_Type_FFI));
  if (found == nullptr || found->base.struct_size < sizeof(FfiExtension)) return nullptr;
  return found->register_handler == nullptr ? nullptr : found;
}

// Throws Error when the plugin refuses.
inline void register_handler(const Plugin &plugin, const FfiExtension &extension,
                             const std::string &target, void *handler,
                             const std::string &platform) {
  FfiRegisterArgs args = {};
  args.struct_size = offsetof(FfiRegisterArgs, traits) + sizeof args.traits;
  args.target_name = target.c_str();
  args.target_name_size = target.size();
  args.handler = handler;
  args.platform_name = platform.c_str();
  args.platform_name_size = platform.size();
  plugin.check(extension.register_handler(&args), "registering a kernel");
}

}  // namespace gemma3

#endif  // GEMMA3_SRC_PJRT_FFI_H_
