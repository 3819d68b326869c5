#include "images.h"

#include <algorithm>
#include <cmath>

#include "error.h"

namespace gemma3::host {
namespace {

// Of pan and scan, as transformers' Gemma3Processor sets them.
constexpr int kLeastCrop = 256;
constexpr int kMostCrops = 4;
constexpr double kLeastRatio = 1.2;

// Appends box as [3,size,size] float32 in -1..1, rounded where transformers rounds: after the
// division by 255, in float32.
void append_normalised(const Rgb& picture, const Box& box, int size, std::vector<float>& pixels) {
  const std::vector<uint8_t> square = resize(picture, box, size);
  const size_t count = size_t{1} * size * size;
  for (int c = 0; c < 3; ++c) {
    for (size_t i = 0; i < count; ++i) {
      const auto unit = static_cast<float>(square[3 * i + c] * (1.0 / 255));
      pixels.push_back((unit - 0.5F) / 0.5F);
    }
  }
}

Picture process(const Rgb& picture, int size, bool pan_and_scan) {
  std::vector<Box> views = {{0, 0, picture.width, picture.height}};
  if (pan_and_scan) {
    const std::vector<Box> crops = crop_boxes(picture.width, picture.height);
    views.insert(views.end(), crops.begin(), crops.end());
  }
  Picture result;
  result.crops = static_cast<int>(views.size()) - 1;
  for (const Box& view : views) append_normalised(picture, view, size, result.pixels);
  return result;
}

bool is_npy(const std::filesystem::path& path) {
  std::string suffix = path.extension().string();
  std::transform(suffix.begin(), suffix.end(), suffix.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return suffix == ".npy";
}

}  // namespace

std::vector<Picture> load_images(const std::vector<std::filesystem::path>& paths, int size,
                                 bool pan_and_scan) {
  std::vector<Picture> pictures;
  for (const std::filesystem::path& path : paths) {
    if (is_npy(path)) {
      for (Picture& one : load_npy(path, size)) pictures.push_back(std::move(one));
    } else {
      pictures.push_back(process(load_rgb(path), size, pan_and_scan));
    }
  }
  return pictures;
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

}  // namespace gemma3::host
