// Every form of the dot products that this processor runs gives what the plain one gives.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>

#include "dots.h"

using namespace gemma3;

int main() {
  std::mt19937 random(7);
  const auto number = [&random](int low, int high) {
    return std::uniform_int_distribution<int>(low, high)(random);
  };
  const auto forms = runnable_dots();
  for (size_t inputs : {32, 64, 96, 128, 160, 640, 2048}) {
    for (int rows = 1; rows <= kInt4Rows; ++rows) {
      std::vector<int8_t> x(rows * inputs);
      for (auto &value : x) value = number(-127, 127);
      std::fill(x.begin(), x.begin() + 32, 127);  // the largest sums there can be
      const size_t stride = arranged_bytes(inputs);
      std::vector<int8_t> arranged(rows * stride);
      std::vector<float> steps(rows * stride / kGroup, 0.5f);
      std::vector<Activations> activations;
      for (int r = 0; r < rows; ++r) {
        arrange_for_int4(&x[r * inputs], inputs, &arranged[r * stride]);
        steps[r * stride / kGroup] = 2.0f;
        activations.push_back({&arranged[r * stride], &steps[r * stride / kGroup]});
      }
      std::vector<uint8_t> packed(kInt4Outputs * inputs / 2);
      std::vector<uint16_t> scale(kInt4Outputs * inputs / kGroup);
      for (auto &value : packed) value = number(0, 255);
      std::fill(packed.begin(), packed.begin() + 16, 0);
      for (auto &value : scale) value = number(0x3C00, 0x3F80) | number(0, 1) << 15;
      std::vector<float> expected(rows * kInt4Outputs), got(expected.size());
      forms.back()(activations.data(), rows, packed.data(), scale.data(), inputs, expected.data());
      for (const Int4Dots form : forms) {
        form(activations.data(), rows, packed.data(), scale.data(), inputs, got.data());
        for (size_t i = 0; i < got.size(); ++i) {
          const float tolerance = 1e-5f * 127 * 8 * static_cast<float>(inputs);
          if (!(std::fabs(got[i] - expected[i]) <= tolerance)) {
            return std::printf("%zu inputs: %g, %g\n", inputs, got[i], expected[i]), 1;
          }
        }
      }
    }
  }
  std::printf("%zu forms\n", forms.size());
  return 0;
}
