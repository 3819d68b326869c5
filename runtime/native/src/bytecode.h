// What a program calls outside itself, read from its bytes (artifacts/bytecode.py reads the same).
#ifndef GEMMA3_SRC_BYTECODE_H_
#define GEMMA3_SRC_BYTECODE_H_

#include <set>
#include <stdexcept>
#include <string>
#include <string_view>

namespace gemma3 {

// Not the bytecode of a portable program; says in a few words what is wrong.
class BadBytecode : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Targets of the custom calls of a program, and operations that reach outside in other ways. What
// is there counts even if nothing uses it: it is at least what the program can call. A program is a
// portable artifact of StableHLO: MLIR bytecode, in which the names of operations and of targets
// stand as they are. As text, which compilers take too, they can be written in many ways, so that
// is refused. Throws BadBytecode.
std::set<std::string> calls_of(std::string_view code);

}  // namespace gemma3

#endif  // GEMMA3_SRC_BYTECODE_H_
