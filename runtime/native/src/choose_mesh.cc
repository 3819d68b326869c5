#include "choose_mesh.h"

#include <algorithm>
#include <vector>

namespace gemma3 {

const MeshRecord *choose_mesh(const Manifest &manifest, const std::string &platform,
                              std::optional<int64_t> devices) {
  std::vector<const MeshRecord *> records;
  for (const MeshRecord &record : manifest.meshes) {
    const bool lowered = std::any_of(
        manifest.programs.begin(), manifest.programs.end(), [&](const Program &program) {
          return program.mesh == record.mesh.name && program.platform == platform;
        });
    if (lowered || platform.empty()) records.push_back(&record);
  }
  if (records.empty()) return manifest.meshes.empty() ? nullptr : &manifest.meshes.front();
  const auto size = [](const MeshRecord *record) { return record->mesh.devices(); };
  if (platform.empty() || platform == "cpu" || !devices) {
    const auto single = std::find_if(records.begin(), records.end(),
                                     [&](const MeshRecord *one) { return size(one) == 1; });
    return single != records.end() ? *single : records.front();
  }
  const auto smaller = [&](const MeshRecord *a, const MeshRecord *b) { return size(a) < size(b); };
  std::vector<const MeshRecord *> fitting;
  std::copy_if(records.begin(), records.end(), std::back_inserter(fitting),
               [&](const MeshRecord *record) { return size(record) <= *devices; });
  if (fitting.empty()) return *std::min_element(records.begin(), records.end(), smaller);
  return *std::max_element(fitting.begin(), fitting.end(), smaller);
}

}  // namespace gemma3
