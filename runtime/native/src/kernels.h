// Kernels of a shared library, made known to a plugin through PJRT's FFI extension.
#ifndef GEMMA3_SRC_KERNELS_H_
#define GEMMA3_SRC_KERNELS_H_

#include <set>
#include <string>

#include "client.h"

namespace gemma3 {

// The library of kernels to take: `named`, else what GEMMA3_KERNELS names, else
// libgemma3_kernels.so beside this library or in lib beside its folder. Empty when there is none,
// or when it is to be done without: `named` or the variable is "none".
std::string find_kernels(const std::string &named);

// Registers the handlers that `library` has for the custom calls `targets` with the plugin. Returns
// why the plugin or the library cannot do so, or an empty text. Throws Error (GEMMA3_USAGE) when
// the library cannot be loaded.
std::string register_kernels(const Client &client, const std::string &library,
                             const std::set<std::string> &targets);

}  // namespace gemma3

#endif  // GEMMA3_SRC_KERNELS_H_
