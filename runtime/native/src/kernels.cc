#include "kernels.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>

#include "environment.h"
#include "error.h"
#include "pjrt_ffi.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

constexpr char kVariable[] = "GEMMA3_KERNELS", kNone[] = "none";
constexpr char kLibrary[] = "libgemma3_kernels.so";

// Beside this library, or in lib beside the bin that a program with this library in it lies in.
std::string built_with_us() {
  Dl_info info{};
  if (::dladdr(reinterpret_cast<void *>(&built_with_us), &info) == 0) return "";
  std::error_code error;
  const fs::path folder = fs::canonical(info.dli_fname, error).parent_path();
  if (error) return "";
  for (const fs::path &path : {folder / kLibrary, folder.parent_path() / "lib" / kLibrary}) {
    if (fs::exists(path, error)) return path.string();
  }
  return "";
}

}  // namespace

std::string find_kernels(const std::string &named) {
  std::string found = named.empty() ? environment(kVariable) : named;
  if (found.empty()) found = built_with_us();
  return found == kNone ? "" : found;
}

std::string register_kernels(const Client &client, const std::string &library,
                             const std::set<std::string> &targets) {
  const auto *extension = ffi_extension(client.plugin());
  if (extension == nullptr) {
    return client.plugin().path() + " takes no kernels (it has no FFI extension)";
  }
  // Never unloaded: the plugin keeps the handlers for the life of the process.
  void *opened = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    refuse(library + ": expected a library of kernels, got one that cannot be loaded (" +
           ::dlerror() + "); run make native, or set " + kVariable + "=none to do without");
  }
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
