// What a path is that is not a bundle, and what to do with it; as artifacts/not_a_bundle.py.
#ifndef GEMMA3_SRC_NOT_A_BUNDLE_H_
#define GEMMA3_SRC_NOT_A_BUNDLE_H_

#include <string>

namespace gemma3 {

// Why `path`, a file, nothing, or a folder without a manifest, is not a bundle: one line.
std::string not_a_bundle(const std::string &path);

}  // namespace gemma3

#endif  // GEMMA3_SRC_NOT_A_BUNDLE_H_
