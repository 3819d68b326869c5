// Pillow's resampling of 8-bit channels (src/libImaging/Resample.c): triangle filter widened by
// the scale, coefficients in fixed point.
#include <algorithm>
#include <cmath>

#include "processor.h"

namespace gemma3::images {
namespace {

constexpr int kPrecision = 32 - 8 - 2;

// The inputs that one output is the weighted sum of.
struct Taps {
  int first = 0;
  std::vector<int32_t> weights;
};

std::vector<Taps> taps(int in, int out) {
  const double scale = static_cast<double>(in) / out, width = std::max(scale, 1.0);
  std::vector<Taps> all(out);
  std::vector<double> weights;
  for (int i = 0; i < out; ++i) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(static_cast<int>(center - width + 0.5), 0);
    const int last = std::min(static_cast<int>(center + width + 0.5), in);
    weights.clear();
    double sum = 0;
    for (int x = 0; x < last - first; ++x) {
      const double distance = std::abs((x + first - center + 0.5) * (1.0 / width));
      weights.push_back(distance < 1.0 ? 1.0 - distance : 0.0);
      sum += weights.back();
    }
    all[i].first = first;
    for (const double weight : weights) {
      const double part = sum != 0.0 ? weight / sum : weight;
      all[i].weights.push_back(static_cast<int32_t>(0.5 + part * (1 << kPrecision)));
    }
  }
  return all;
}

// Sum of `taps` over RGB pixels that lie `step` bytes apart.
void mix(const uint8_t* in, size_t step, const std::vector<int32_t>& weights, uint8_t* out) {
  int32_t sum[3] = {1 << (kPrecision - 1), 1 << (kPrecision - 1), 1 << (kPrecision - 1)};
  for (const int32_t weight : weights) {
    for (int c = 0; c < 3; ++c) sum[c] += in[c] * weight;
    in += step;
  }
  for (int c = 0; c < 3; ++c) {
    out[c] = static_cast<uint8_t>(std::clamp(sum[c] >> kPrecision, 0, 255));
  }
}

// RGB pixels in rows; what one pass makes and the next takes.
struct Plane {
  int width, height;
  std::vector<uint8_t> pixels;

  Plane(int w, int h) : width(w), height(h), pixels(size_t{3} * w * h) {}
  uint8_t* at(int x, int y) { return &pixels[size_t{3} * (size_t{1} * width * y + x)]; }
};

// A pass that changes no size is left out, as in Pillow.
Plane across(Plane in, int width) {
  if (in.width == width) return in;
  const std::vector<Taps> columns = taps(in.width, width);
  Plane out(width, in.height);
  for (int y = 0; y < in.height; ++y) {
    for (int x = 0; x < width; ++x) {
      mix(in.at(columns[x].first, y), 3, columns[x].weights, out.at(x, y));
    }
  }
  return out;
}

Plane down(Plane in, int height) {
  if (in.height == height) return in;
  const std::vector<Taps> rows = taps(in.height, height);
  Plane out(in.width, height);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < in.width; ++x) {
      mix(in.at(x, rows[y].first), size_t{3} * in.width, rows[y].weights, out.at(x, y));
    }
  }
  return out;
}

// Which pass Pillow 13 begins with, found by trying; older ones always begin with the rows. Both
// orders agree within a level of a byte.
bool begins_with_columns(int width, int height, int size) {
  return height > size && height - size > 2 * (width - size);
}

}  // namespace

std::vector<uint8_t> resize(const Rgb& picture, const Box& box, int size) {
  Plane view(box.right - box.left, box.bottom - box.top);
  for (int y = 0; y < view.height; ++y) {
    std::copy_n(picture.at(box.left, box.top + y), size_t{3} * view.width, view.at(0, y));
  }
  const bool columns_first = begins_with_columns(view.width, view.height, size);
  return columns_first ? across(down(std::move(view), size), size).pixels
                       : down(across(std::move(view), size), size).pixels;
}

}  // namespace gemma3::images
