#include "kernels.h"

#include <dlfcn.h>

#include "pjrt_ffi.h"

namespace gemma3 {

std::string register_kernels(const Client &client, const std::string &library,
                             const std::set<std::string> &targets) {
  const auto *extension = ffi_extension(client.plugin());
  if (extension == nullptr) {
    return client.plugin().path() + " takes no kernels (it has no FFI extension)";
  }
  // Never unloaded: the plugin keeps the handlers for the life of the process.
  void *opened = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) return library + ": cannot be loaded as a library of kernels";
  for (const std::string &target : targets) {
    void *handler = ::dlsym(opened, target.c_str());
    if (handler == nullptr) return library + ": has no kernel " + target;
    try {
      register_handler(client.plugin(), *extension, target, handler, client.platform());
    } catch (const Error &error) {
      return error.what();
    }
  }
  return "";
}

}  // namespace gemma3
