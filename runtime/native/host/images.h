// Images of a prompt as normalised pixels, as Gemma 3's image processor makes them;
// runtime/images/files.py.
#pragma once

#include <filesystem>
#include <vector>

#include "picture.h"

namespace gemma3::host {

// Left, top, right and bottom of a rectangle of pixels; right and bottom are outside it.
struct Box {
  int left, top, right, bottom;
};

// One image of a prompt: its pixels, and after them those of its pan and scan crops.
struct Picture {
  int crops = 0;
  std::vector<float> pixels;  // [1 + crops, 3, size, size] in -1..1
};

// The images of files, in order; a `.npy` file may bring several. `size` is the side of the
// images the model looks at; `pan_and_scan` follows long pictures by crops of them. Throws
// UsageError.
std::vector<Picture> load_images(const std::vector<std::filesystem::path>& paths, int size,
                                 bool pan_and_scan);

// Normalised pixels [N,3,size,size] float32 in -1..1 from a `.npy` file, one Picture each.
std::vector<Picture> load_npy(const std::filesystem::path& path, int size);

// Pan and scan: the parts a long picture is shown in besides the whole, in reading order.
std::vector<Box> crop_boxes(int width, int height);

// `box` of a picture resized to size x size, the aspect not kept: Pillow's antialiased bilinear
// filter to the bit, [size, size, 3].
std::vector<uint8_t> resize(const Rgb& picture, const Box& box, int size);

}  // namespace gemma3::host
