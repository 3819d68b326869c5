// The tiles of every kind of processor that this one can be give the product with activations that
// are rounded to bfloat16, whatever is left over of rows, outputs and inputs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "dots.h"
#include "numbers.h"
#include "tiles.h"

using namespace gemma3;

namespace {

constexpr size_t kRows[] = {1, 7, 15, 16, 17, 33, 48, 63, 64, 65, 130}, kMostRows = 130;
constexpr size_t kOutputs[] = {1, 5, 6, 7, 48, 64};
// What is written beyond the last output of a row is somebody else's.
constexpr size_t kStride = kOutputsOfTile + 1;
constexpr float kUntouched = -12345.0f;

std::mt19937 source(7);

int number(int low, int high) { return std::uniform_int_distribution<int>(low, high)(source); }

float rounded(float value) { return from_bfloat16(to_bfloat16(value)); }

// Rows, the weights of each kind as they are stored, and what they come to.
struct Case {
  explicit Case(size_t count)
      : inputs(count),
        x(kMostRows * inputs),
        bfloat16(kOutputsOfTile * inputs),
        group_scale(kOutputsOfTile * inputs / kGroup),
        int8(kOutputsOfTile * inputs),
        packed(kOutputsOfTile * inputs / 2),
        scale(kOutputsOfTile) {
    for (auto &value : x) value = static_cast<float>(number(-100000, 100000)) / 7e4f;
    for (auto &value : bfloat16) value = number(0x3C00, 0x3F80) | number(0, 1) << 15;
    for (auto &value : group_scale) value = number(0x3C00, 0x3F80) | number(0, 1) << 15;
    for (auto &value : int8) value = number(-128, 127);
    for (auto &value : packed) value = number(0, 255);
    for (auto &value : scale) value = number(1, 100) / 50.0f;
    of_bfloat16 =
        product([&](size_t o, size_t i) { return from_bfloat16(bfloat16[o * inputs + i]); });
    of_int8 = product([&](size_t o, size_t i) { return int8[o * inputs + i] * scale[o]; });
    of_int4 = product([&](size_t o, size_t i) {
      const size_t group = (o * inputs + i) / kGroup, half = kGroup / 2;
      const uint8_t byte = packed[group * half + i % half];
      const int value = (i % kGroup < half ? byte & 15 : byte >> 4) - 8;
      return rounded(static_cast<float>(value) * from_bfloat16(group_scale[group]));
    });
  }

  template <typename Weight>
  std::vector<float> product(Weight weight) const {
    std::vector<float> weights(kOutputsOfTile * inputs), result(kMostRows * kOutputsOfTile);
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = weight(i / inputs, i % inputs);
    std::vector<float> row(inputs);
    for (size_t r = 0; r < kMostRows; ++r) {
      for (size_t i = 0; i < inputs; ++i) row[i] = rounded(x[r * inputs + i]);
      for (size_t o = 0; o < kOutputsOfTile; ++o) {
        double sum = 0;
        for (size_t i = 0; i < inputs; ++i) sum += double{row[i]} * weights[o * inputs + i];
        result[r * kOutputsOfTile + o] = static_cast<float>(sum);
      }
    }
    return result;
  }

  size_t inputs;
  std::vector<float> x;
  std::vector<uint16_t> bfloat16, group_scale;
  std::vector<int8_t> int8;
  std::vector<uint8_t> packed;
  std::vector<float> scale;
  std::vector<float> of_bfloat16, of_int8, of_int4;
};

bool same(const char *kind, const Tiles &tiles, const Case &all,
          const std::vector<uint32_t> &panels, const void *words, const float *scale,
          const std::vector<float> &expected) {
  float largest = 0;
  for (float value : expected) largest = std::max(largest, std::fabs(value));
  for (size_t rows : kRows) {
    for (size_t outputs : kOutputs) {
      std::vector<float> got(rows * kStride, kUntouched);
      tiles.multiply(panels.data(), rows, words, scale, all.inputs / tiles.inputs_of_word, outputs,
                     got.data(), kStride);
      for (size_t i = 0; i < got.size(); ++i) {
        const size_t r = i / kStride, o = i % kStride;
        const float wanted = o < outputs ? expected[r * kOutputsOfTile + o] : kUntouched;
        if (std::fabs(got[i] - wanted) <= (o < outputs ? 1e-5f * largest : 0)) continue;
        std::printf("%s, %zu lanes of %zu: %zu rows, %zu outputs, %zu inputs: ", kind, tiles.lanes,
                    tiles.inputs_of_word, rows, outputs, all.inputs);
        std::printf("%g at %zu, %zu, expected %g\n", got[i], r, o, wanted);
        return false;
      }
    }
  }
  return true;
}

bool right(const Tiles &tiles, const Case &all) {
  const size_t words = all.inputs / tiles.inputs_of_word, panel = words * tiles.lanes;
  std::vector<uint32_t> panels((kMostRows + tiles.lanes - 1) / tiles.lanes * panel);
  for (size_t r = 0; r < kMostRows; r += tiles.lanes) {
    tiles.pack(all.x.data() + r * all.inputs, std::min(tiles.lanes, kMostRows - r), all.inputs,
               panels.data() + r * words);
  }
  std::vector<uint32_t> wide(kOutputsOfTile * words);
  const void *plain = all.bfloat16.data();
  if (tiles.widen_bfloat16 != nullptr) {
    tiles.widen_bfloat16(plain, all.inputs, kOutputsOfTile, wide.data());
    plain = wide.data();
  }
  if (!same("bfloat16", tiles, all, panels, plain, nullptr, all.of_bfloat16)) return false;
  tiles.widen_int8(all.int8.data(), all.inputs, kOutputsOfTile, wide.data());
  if (!same("int8", tiles, all, panels, wide.data(), all.scale.data(), all.of_int8)) return false;
  tiles.widen_int4(all.packed.data(), all.group_scale.data(), all.inputs, kOutputsOfTile,
                   wide.data());
  return same("int4", tiles, all, panels, wide.data(), nullptr, all.of_int4);
}

}  // namespace

int main() {
  const auto tiles = runnable_tiles();
  for (size_t inputs : {32, 96, 640, 2048}) {
    const Case all(inputs);
    for (const Tiles &kind : tiles) {
      if (!right(kind, all)) return 1;
    }
  }
  std::printf("%zu kinds of tiles\n", tiles.size());
  return 0;
}
