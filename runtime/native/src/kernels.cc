#include "kernels.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <filesystem>
#include <system_error>

#include "bytecode.h"
#include "environment.h"
#include "error.h"
#include "pjrt_ffi.h"

namespace gemma3 {
namespace {

namespace fs = std::filesystem;

constexpr char kVariable[] = "GEMMA3_KERNELS", kNone[] = "none";
constexpr char kLibrary[] = "libgemma3_kernels.so";
constexpr char kPrefix[] = "gemma3_";
constexpr size_t kLongestName = 64, kLongestList = 300;

// All that is ever looked up in a library: artifacts/kernels.py has the same.
constexpr const char *kTargets[] = {
    "gemma3_bfloat16_linear",
    "gemma3_cached_attention",
    "gemma3_int4_linear",
    "gemma3_int8_linear",
};

bool is_known(const std::string &target) {
  return std::find(std::begin(kTargets), std::end(kTargets), target) != std::end(kTargets);
}

// For people: what is no plain character is shown as `?`.
std::string joined(const std::vector<std::string> &names) {
  std::string text;
  for (const std::string &name : names) {
    text += text.empty() ? "" : ", ";
    for (char c : name.substr(0, kLongestName)) text += c >= ' ' && c <= '~' ? c : '?';
  }
  return text.substr(0, kLongestList);
}

// Beside this library, or in lib beside the bin that a program with this library in it lies in.
std::string built_with_us() {
  const fs::path folder = own_file().parent_path();
  if (folder.empty()) return "";
  std::error_code error;
  for (const fs::path &path : {folder / kLibrary, folder.parent_path() / "lib" / kLibrary}) {
    if (fs::exists(path, error)) return path.string();
  }
  return "";
}

// A path as it was given means the current folder, and never the search path of libraries.
std::string absolute(const std::string &path) {
  std::error_code error;
  const fs::path found = fs::absolute(path, error);
  return error ? path : found.string();
}

void *load(const std::string &library) {
  // Never unloaded: the plugin keeps the handlers for the life of the process.
  void *opened = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (opened == nullptr) {
    refuse(library + ": expected a library of kernels, got one that cannot be loaded (" +
           ::dlerror() + "); run make native, or set " + kVariable + "=none to do without");
  }
  return opened;
}

// The function of this very library: dlsym looks in what the library needs as well, the C library
// among it. Null when it has none.
void *own_function(void *opened, const std::string &name) {
  void *found = ::dlsym(opened, name.c_str());
  link_map *library = nullptr, *owner = nullptr;
  Dl_info info{};
  if (found == nullptr || ::dlinfo(opened, RTLD_DI_LINKMAP, &library) != 0 ||
      ::dladdr1(found, &info, reinterpret_cast<void **>(&owner), RTLD_DL_LINKMAP) == 0) {
    return nullptr;
  }
  return owner == library ? found : nullptr;
}

// Registers the handlers that a library has for `wanted`, and adds them to `registered`; why the
// plugin or the library does not take all, or an empty text.
std::string register_all(const Client &client, const std::string &library,
                         const std::set<std::string> &wanted, std::set<std::string> &registered) {
  const auto *extension = ffi_extension(client.plugin());
  if (extension == nullptr) {
    return client.plugin().path() + " takes no kernels (it has no FFI extension)";
  }
  void *opened = load(library);
  std::string problem;
  for (const std::string &target : wanted) {
    void *handler = own_function(opened, target);
    if (handler == nullptr) {
      problem = library + ": has no kernel " + target;
      continue;
    }
    try {
      register_handler(client.plugin(), *extension, target, handler, client.platform());
      registered.insert(target);
    } catch (const Error &error) {
      problem = error.what();
    }
  }
  return problem;
}

}  // namespace

bool is_target_name(const std::string &name) {
  if (name.size() > kLongestName || name.rfind(kPrefix, 0) != 0) return false;
  return name.size() > sizeof kPrefix - 1 && std::all_of(name.begin(), name.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
         });
}

void refuse_calls(const Program &program, const std::string &code) {
  const std::vector<std::string> &named = program.custom_calls;
  const auto refuse_that = [&](const std::string &got) {
    refuse("program " + program.stablehlo + ": expected one that calls " +
           (named.empty() ? "nothing outside itself" : joined(named)) +
           ", as its manifest entry says, got " + got + "; export the bundle again");
  };
  std::vector<std::string> others;
  try {
    for (const std::string &call : calls_of(code)) {
      if (std::find(named.begin(), named.end(), call) == named.end()) others.push_back(call);
    }
  } catch (const BadBytecode &error) {
    refuse_that(error.what());
  }
  if (!others.empty()) refuse_that("one that calls " + joined(others));
}

KernelsFound take_kernels(const Client &client, const std::string &named,
                          const std::vector<const Program *> &programs) {
  KernelsFound found;
  const std::string choice = named.empty() ? environment(kVariable) : named;
  if (programs.empty() || choice == kNone) return found;
  found.library = choice.empty() ? built_with_us() : absolute(choice);
  if (found.library.empty()) {
    found.problem = std::string("the bundle has programs with C++ kernels and there is no ") +
                    kLibrary + " here (run make native, install a platform wheel, or set " +
                    kVariable + " to its path or to none)";
    return found;
  }
  std::set<std::string> wanted, registered;
  for (const Program *program : programs) {
    for (const std::string &target : program->custom_calls) {
      if (is_known(target)) {
        wanted.insert(target);
      } else {
        found.problem = "the bundle calls " + target +
                        ", a kernel of another version (export it again with this one)";
      }
    }
  }
  const std::string problem = register_all(client, found.library, wanted, registered);
  if (!problem.empty()) found.problem = problem;
  for (const Program *program : programs) {
    const auto &calls = program->custom_calls;
    const bool all = std::all_of(calls.begin(), calls.end(), [&](const std::string &target) {
      return registered.count(target) != 0;
    });
    if (all) found.programs.push_back(program);
  }
  return found;
}

}  // namespace gemma3
