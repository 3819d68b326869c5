#include "processor.h"

#include <algorithm>
#include <cmath>

namespace gemma3::images {
namespace {

// Of pan and scan, as transformers' Gemma3Processor sets them.
constexpr int kLeastCrop = 256;
constexpr int kMostCrops = 4;
constexpr double kLeastRatio = 1.2;

// Appends box as [3,size,size] float32, rounded where transformers rounds: after the division by
// 255, in float32.
void append_normalised(const Rgb& picture, const Box& box, const Form& form,
                       std::vector<float>& pixels) {
  const std::vector<uint8_t> square = resize(picture, box, form.size);
  const size_t count = square.size() / 3;
  for (size_t c = 0; c < 3; ++c) {
    for (size_t i = 0; i < count; ++i) {
      const auto unit = static_cast<float>(square[3 * i + c] * (1.0 / 255));
      pixels.push_back((unit - form.mean[c]) / form.deviation[c]);
    }
  }
}

}  // namespace

Picture process(const Rgb& picture, const Form& form, bool pan_and_scan) {
  std::vector<Box> views = {{0, 0, picture.width, picture.height}};
  if (pan_and_scan) {
    const std::vector<Box> crops = crop_boxes(picture.width, picture.height);
    views.insert(views.end(), crops.begin(), crops.end());
  }
  Picture result;
  result.crops = static_cast<int>(views.size()) - 1;
  for (const Box& view : views) append_normalised(picture, view, form, result.pixels);
  return result;
}

std::vector<Box> crop_boxes(int width, int height) {
  const int longer = std::max(width, height), shorter = std::min(width, height);
  const double ratio = static_cast<double>(longer) / shorter;
  if (ratio < kLeastRatio) return {};
  int count = std::min(longer / kLeastCrop, static_cast<int>(std::floor(ratio + 0.5)));
  count = std::min(kMostCrops, std::max(2, count));
  const int columns = width >= height ? count : 1, rows = width >= height ? 1 : count;
  const int wide = (width + columns - 1) / columns, tall = (height + rows - 1) / rows;
  if (std::min(wide, tall) < kLeastCrop) return {};
  std::vector<Box> boxes;
  for (int y = 0; y < tall * rows; y += tall) {
    for (int x = 0; x < wide * columns; x += wide) {
      boxes.push_back({x, y, std::min(x + wide, width), std::min(y + tall, height)});
    }
  }
  return boxes;
}

}  // namespace gemma3::images
