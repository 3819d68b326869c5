// Kernels of a shared library, made known to a plugin through PJRT's FFI extension.
#ifndef GEMMA3_SRC_KERNELS_H_
#define GEMMA3_SRC_KERNELS_H_

#include <set>
#include <string>

#include "client.h"

namespace gemma3 {

// Registers the handlers that `library` has for the custom calls `targets` with the plugin. Returns
// why that cannot be done, or an empty text.
std::string register_kernels(const Client &client, const std::string &library,
                             const std::set<std::string> &targets);

}  // namespace gemma3

#endif  // GEMMA3_SRC_KERNELS_H_
