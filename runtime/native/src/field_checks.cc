#include "manifest_checks.h"

#include <algorithm>
#include <set>

#include "error.h"

namespace gemma3 {
namespace {

constexpr size_t kMaxRank = 8;

}  // namespace

void FieldChecks::refuse(const std::string &path, const std::string &expected,
                         const std::string &got) const {
  refuse_field(where_, path, expected, got);
}

void FieldChecks::refuse_version(const std::string &path, int64_t expected, int64_t got) const {
  gemma3::refuse(GEMMA3_UNKNOWN_VERSION,
                 where_ + ": " + path + ": expected " + std::to_string(expected) + ", got " +
                     std::to_string(got) +
                     "; install the gemma3-export that wrote it, or export the bundle again");
}

void FieldChecks::at_least(const std::string &path, int64_t least, int64_t got) const {
  if (got < least) refuse(path, "at least " + std::to_string(least), std::to_string(got));
}

void FieldChecks::between(const std::string &path, int64_t least, int64_t most, int64_t got) const {
  at_least(path, least, got);
  if (got > most) refuse(path, "at most " + std::to_string(most), std::to_string(got));
}

void FieldChecks::known(const std::string &path, const std::string &name,
                        const Names &names) const {
  if (std::find(names.begin(), names.end(), name) == names.end()) {
    refuse(path, one_of(names), name);
  }
}

void FieldChecks::unique(const std::string &path, const Names &names) const {
  std::set<std::string> seen;
  for (const std::string &name : names) {
    if (!seen.insert(name).second) refuse(path, "each name once", name + " twice");
  }
}

void FieldChecks::bundle_path(const std::string &path, const std::string &got) const {
  if (!is_bundle_path(got)) refuse(path, "a relative path inside the bundle", got);
}

void FieldChecks::dtype(const std::string &path, const std::string &name) const {
  if (item_size(name) == 0) refuse(path, "a known dtype", name);
}

int64_t FieldChecks::array(const std::string &path, const Shape &shape,
                           const std::string &type) const {
  dtype(path + ".dtype", type);
  if (shape.size() > kMaxRank) {
    refuse(path + ".shape", "at most 8 dimensions", std::to_string(shape.size()));
  }
  int64_t bytes = item_size(type);
  for (int64_t size : shape) {
    at_least(path + ".shape", 1, size);
    if (__builtin_mul_overflow(bytes, size, &bytes)) {
      refuse(path + ".shape", "fewer than 2^63 bytes", "more");
    }
  }
  return bytes;
}

void FieldChecks::spec(const std::string &path, const Shape &shape, const Spec &split,
                       const Mesh &mesh) const {
  try {
    shard_shape(shape, split, mesh);
  } catch (const Error &error) {
    gemma3::refuse(where_ + ": " + path + ": " + error.what() + "; re-export the bundle");
  }
}

}  // namespace gemma3
