// The calling convention of programs (artifacts/convention.py): names, dtypes and shapes.
#ifndef GEMMA3_SRC_CONVENTION_H_
#define GEMMA3_SRC_CONVENTION_H_

#include <optional>
#include <string>
#include <vector>

#include "manifest.h"

namespace gemma3 {

constexpr int64_t kStopTokens = 8;       // that a row of `generate` takes; unused ones are -1
constexpr int32_t kIgnoredLabel = -100;  // a position that `score` leaves out

// An argument or result before it is placed on a mesh.
struct Port {
  std::string name;
  Shape shape;
  std::string dtype;
  std::optional<double> neutral = {};  // of an input that a host may leave to this value
};

// The inputs of a program that this host knows, in the order in which it gives them.
std::vector<Port> program_inputs(const Bucket &bucket, const Manifest &manifest);
// The outputs of a program, before the cache.
std::vector<Port> program_outputs(const Bucket &bucket, const Manifest &manifest);
// The cache of `batch` rows.
std::vector<Port> cache_tensors(const CacheLayout &layout, int64_t batch);

bool draws_tokens(ProgramName program);
bool keeps_cache(ProgramName program);
// Only in bundles that take images; `takes_images`: reads texts that have images in them.
bool sees_images(ProgramName program);
bool takes_images(ProgramName program);

}  // namespace gemma3

#endif  // GEMMA3_SRC_CONVENTION_H_
