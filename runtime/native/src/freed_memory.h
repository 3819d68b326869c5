// What loading a program needed for a moment, given back to the system.
#ifndef GEMMA3_SRC_FREED_MEMORY_H_
#define GEMMA3_SRC_FREED_MEMORY_H_

#include "pjrt.h"

namespace gemma3 {

// Returns freed heap pages and lets go of the pages of the plugin's own code. Compiling, and reading
// machine code, takes hundreds of MB that glibc would keep, and touches tens of MB of a compiler
// that decoding never enters; what is used again is read back from the page cache.
void return_freed_memory(const Plugin &plugin);

}  // namespace gemma3

#endif  // GEMMA3_SRC_FREED_MEMORY_H_
