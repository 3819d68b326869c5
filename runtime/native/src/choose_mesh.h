// Which mesh of a bundle to run on where none is named.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "manifest.h"

namespace gemma3 {

// On an accelerator, of which there are `devices`, the largest mesh that they are enough for, and
// the smallest where they are enough for none. On CPU, and where the platform is not known yet, the
// first mesh of one device, else the first: further devices are virtual there and share its cores.
// Null for a manifest without meshes.
const MeshRecord *choose_mesh(const Manifest &manifest, const std::string &platform,
                              std::optional<int64_t> devices);

}  // namespace gemma3
