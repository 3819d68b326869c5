// Kernels of a shared library, made known to a plugin through PJRT's FFI extension.
#ifndef GEMMA3_SRC_KERNELS_H_
#define GEMMA3_SRC_KERNELS_H_

#include <set>
#include <string>
#include <vector>

#include "client.h"
#include "manifest.h"

namespace gemma3 {

// Whether a manifest may call a custom call so: gemma3_ and then lower-case letters, digits and
// underscores, 64 at most. Of such names only those that this version knows are ever looked up in a
// library; those of another version leave the portable program.
bool is_target_name(const std::string &name);

// What became of the programs of the variant "kernels" of a mesh and platform.
struct KernelsFound {
  std::string library;                    // absolute; empty when there is none
  std::string problem;                    // why the programs below are not all, or empty
  std::vector<const Program *> programs;  // those that can be taken instead of the portable ones
};

// Registers with the plugin what `programs` call. The library is `named`, else what GEMMA3_KERNELS
// names, else libgemma3_kernels.so beside this library or in lib beside its folder; "none", for
// either, takes no program and is no problem. Throws Error (GEMMA3_USAGE) when a library that was
// named cannot be loaded.
KernelsFound take_kernels(const Client &client, const std::string &named,
                          const std::vector<const Program *> &programs);

// Refuses the code of a program that calls anything but what its manifest entry names, a portable
// one anything outside itself: plugins have handlers that were not made for hostile programs. Throws
// Error (GEMMA3_USAGE).
void refuse_calls(const Program &program, const std::string &code);

}  // namespace gemma3

#endif  // GEMMA3_SRC_KERNELS_H_
