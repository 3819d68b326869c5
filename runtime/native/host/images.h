// Images of a command line as normalised pixels.
#pragma once

#include <filesystem>
#include <vector>

#include "processor.h"

namespace gemma3::host {

using images::Picture;

// The images of files, in order; a `.npy` file may bring several. `size` is the side of the
// images the model looks at; `pan_and_scan` follows long pictures by crops of them. Throws
// UsageError.
std::vector<Picture> load_images(const std::vector<std::filesystem::path>& paths, int size,
                                 bool pan_and_scan);

// Normalised pixels [N,3,size,size] float32 in -1..1 from a `.npy` file, one Picture each.
std::vector<Picture> load_npy(const std::filesystem::path& path, int size);

// The bytes of a file; throws UsageError when it cannot be read.
std::vector<uint8_t> read_file(const std::filesystem::path& path);

}  // namespace gemma3::host
