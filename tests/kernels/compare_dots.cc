// Every form of the dot products that this processor runs gives what the plain one gives.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include "dots.h"

using namespace gemma3;

namespace {

// Not a multiple of how many outputs are added up together.
constexpr size_t kOutputs = 7;

std::mt19937 source(7);

int number(int low, int high) { return std::uniform_int_distribution<int>(low, high)(source); }

// Rows of activations for each kind of weights, the largest that there can be first.
struct Rows {
  Rows(int rows, size_t inputs) {
    const size_t stride = arranged_size(inputs);
    floats.resize(rows * stride);
    eightfold.resize(rows * stride / kGroup * kInt8Steps);
    fourfold.resize(rows * stride / kGroup * kInt4Steps);
    unsigned_bytes.resize(rows * stride);
    packed_order.resize(rows * stride);
    offsets.resize(rows * stride / kBlock * kOffsets);
    for (int r = 0; r < rows; ++r) {
      std::vector<int8_t> numbers(inputs);
      std::vector<float> plain(inputs);
      for (size_t i = 0; i < inputs; ++i) {
        numbers[i] = i < kGroup ? 127 : number(-127, 127);
        plain[i] = number(-1000, 1000) / 1000.0f;
      }
      float *eight = &eightfold[r * stride / kGroup * kInt8Steps];
      float *four = &fourfold[r * stride / kGroup * kInt4Steps];
      for (size_t g = 0; g < inputs / kGroup; ++g) {
        std::fill_n(eight + g * kInt8Steps, kInt8Steps, 0.5f + g % 3);
        std::fill_n(four + g * kInt4Steps, kInt4Steps, 0.5f + g % 3);
      }
      int32_t *offsets_of_row = &offsets[r * stride / kBlock * kOffsets];
      arrange_for_bfloat16(plain.data(), inputs, &floats[r * stride]);
      arrange_for_int8(numbers.data(), inputs, &unsigned_bytes[r * stride]);
      arrange_for_int4(numbers.data(), inputs, &packed_order[r * stride], offsets_of_row);
      for_bfloat16.push_back({&floats[r * stride], nullptr, nullptr});
      for_int8.push_back({&unsigned_bytes[r * stride], eight, nullptr});
      for_int4.push_back({&packed_order[r * stride], four, offsets_of_row});
    }
  }
  std::vector<float> floats, eightfold, fourfold;
  std::vector<int32_t> offsets;
  std::vector<uint8_t> unsigned_bytes;
  std::vector<int8_t> packed_order;
  std::vector<Activations> for_bfloat16, for_int8, for_int4;
};

struct Weights {
  explicit Weights(size_t inputs)
      : bfloat16(kOutputs * inputs),
        group_scale(kOutputs * inputs / kGroup),
        int8(kOutputs * inputs),
        packed(kOutputs * inputs / 2),
        scale(kOutputs) {
    for (auto &value : bfloat16) value = number(0x3C00, 0x3F80) | number(0, 1) << 15;
    for (auto &value : group_scale) value = number(0x3C00, 0x3F80) | number(0, 1) << 15;
    for (auto &value : int8) value = number(-127, 127);
    for (auto &value : packed) value = number(0, 255);
    for (auto &value : scale) value = number(1, 100) / 50.0f;
    for (size_t i = 0; i < kGroup; ++i) int8[i] = -128;
    for (size_t i = 0; i < kGroup / 2; ++i) packed[i] = 0;
  }
  std::vector<uint16_t> bfloat16, group_scale;
  std::vector<int8_t> int8;
  std::vector<uint8_t> packed;
  std::vector<float> scale;
};

bool same(const char *kind, Dots form, Dots plain, const std::vector<Activations> &x,
          const void *weights, const void *scale, size_t inputs) {
  const int rows = static_cast<int>(x.size());
  std::vector<float> expected(rows * kOutputs), got(expected.size());
  plain(x.data(), rows, weights, scale, inputs, kOutputs, expected.data(), kOutputs);
  form(x.data(), rows, weights, scale, inputs, kOutputs, got.data(), kOutputs);
  float largest = 0;
  for (float value : expected) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < got.size(); ++i) {
    if (std::fabs(got[i] - expected[i]) <= 1e-4f * largest) continue;
    std::printf("%s, %zu inputs, %d rows: %g, expected %g\n", kind, inputs, rows, got[i],
                expected[i]);
    return false;
  }
  return true;
}

}  // namespace

int main() {
  const auto forms = runnable_forms();
  for (size_t inputs : {32, 64, 96, 128, 160, 640, 2048}) {
    const Weights weights(inputs);
    for (int rows = 1; rows <= kTileRows; ++rows) {
      const Rows x(rows, inputs);
      for (const Forms &form : forms) {
        if (!same("bfloat16", form.bfloat16, kPlainForms.bfloat16, x.for_bfloat16,
                  weights.bfloat16.data(), nullptr, inputs) ||
            !same("int8", form.int8, kPlainForms.int8, x.for_int8, weights.int8.data(),
                  weights.scale.data(), inputs) ||
            !same("int4", form.int4, kPlainForms.int4, x.for_int4, weights.packed.data(),
                  weights.group_scale.data(), inputs)) {
          return 1;
        }
      }
    }
  }
  std::printf("%zu forms\n", forms.size());
  return 0;
}
