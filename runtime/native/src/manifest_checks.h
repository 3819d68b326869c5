// What the checks of a manifest have in common: refusals that name the field.
#ifndef GEMMA3_SRC_MANIFEST_CHECKS_H_
#define GEMMA3_SRC_MANIFEST_CHECKS_H_

#include <string>
#include <vector>

#include "manifest.h"

namespace gemma3 {

// Token ids, positions and sizes of a call are int32 on the device.
constexpr int64_t kMaxSize = INT32_MAX;

// Checks of fields of one manifest, named `where` in errors; each throws Error (GEMMA3_USAGE).
class FieldChecks {
 public:
  using Names = std::vector<std::string>;

  explicit FieldChecks(const std::string &where) : where_(where) {}

  [[noreturn]] void refuse(const std::string &path, const std::string &expected,
                           const std::string &got) const;
  // For what another version of the format may say.
  [[noreturn]] void refuse_version(const std::string &path, int64_t expected, int64_t got) const;
  void at_least(const std::string &path, int64_t least, int64_t got) const;
  void between(const std::string &path, int64_t least, int64_t most, int64_t got) const;
  void known(const std::string &path, const std::string &name, const Names &names) const;
  void unique(const std::string &path, const Names &names) const;
  void bundle_path(const std::string &path, const std::string &got) const;
  void dtype(const std::string &path, const std::string &name) const;
  // Returns the bytes of the array.
  int64_t array(const std::string &path, const Shape &shape, const std::string &type) const;
  void spec(const std::string &path, const Shape &shape, const Spec &split, const Mesh &mesh) const;

 private:
  const std::string &where_;
};

// What must hold of the programs, once everything else does.
void check_programs(const Manifest &manifest, const std::string &where);

}  // namespace gemma3

#endif  // GEMMA3_SRC_MANIFEST_CHECKS_H_
