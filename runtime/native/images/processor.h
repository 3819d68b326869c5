// Gemma 3's image processor: pictures to normalised pixels; runtime/images/files.py.
#pragma once

#include <string>
#include <vector>

#include "picture.h"

namespace gemma3::images {

// Left, top, right and bottom of a rectangle of pixels; right and bottom are outside it.
struct Box {
  int left, top, right, bottom;
};

// How a model wants its images: channels between 0 and 1, less `mean`, divided by `deviation`.
struct Form {
  int size = 0;  // of a side
  float mean[3] = {0.5F, 0.5F, 0.5F};
  float deviation[3] = {0.5F, 0.5F, 0.5F};
};

// One image of a prompt: its pixels, and after them those of its pan and scan crops.
struct Picture {
  int crops = 0;
  std::vector<float> pixels;  // [1 + crops, 3, size, size]
};

// A picture as the model looks at it; `pan_and_scan` follows a long one by crops of it.
Picture process(const Rgb& picture, const Form& form, bool pan_and_scan);

// Pan and scan: the parts a long picture is shown in besides the whole, in reading order.
std::vector<Box> crop_boxes(int width, int height);

// `box` of a picture resized to size x size, the aspect not kept: Pillow's antialiased bilinear
// filter to the bit, [size, size, 3].
std::vector<uint8_t> resize(const Rgb& picture, const Box& box, int size);

}  // namespace gemma3::images
