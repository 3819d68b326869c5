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
      std::vector<int8_t> x(rows * inputs), weight(kInt8Outputs * inputs);
      for (auto &value : x) value = number(-127, 127);
      for (auto &value : weight) value = number(-127, 127);
      std::fill(x.begin(), x.begin() + 32, 127);  // the largest sums there can be
      std::fill(weight.begin(), weight.begin() + 32, -127);
      const size_t stride = arranged_bytes(inputs);
      std::vector<int8_t> arranged(rows * stride);
      for (int r = 0; r < rows; ++r) {
        arrange_for_int4(&x[r * inputs], inputs, &arranged[r * stride]);
      }
      std::vector<uint8_t> packed(kInt4Outputs * inputs / 2);
      std::vector<uint16_t> scale(kInt4Outputs * inputs / kGroup);
      for (auto &value : packed) value = number(0, 255);
      for (auto &value : scale) value = number(0x3C00, 0x3F80) | number(0, 1) << 15;
      std::vector<int32_t> expected(rows * kInt8Outputs), got(expected.size());
      std::vector<float> expected4(rows * kInt4Outputs), got4(expected4.size());
      forms.back().int8(x.data(), rows, weight.data(), inputs, expected.data());
      forms.back().int4(arranged.data(), stride, rows, packed.data(), scale.data(), inputs,
                        expected4.data());
      for (const Dots &form : forms) {
        form.int8(x.data(), rows, weight.data(), inputs, got.data());
        form.int4(arranged.data(), stride, rows, packed.data(), scale.data(), inputs, got4.data());
        for (size_t i = 0; i < got.size(); ++i) {
          if (got[i] != expected[i]) return std::printf("int8 %zu inputs\n", inputs), 1;
        }
        for (size_t i = 0; i < got4.size(); ++i) {
          const float tolerance = 1e-5f * 127 * 8 * static_cast<float>(inputs);
          if (!(std::fabs(got4[i] - expected4[i]) <= tolerance)) {
            return std::printf("int4 %zu inputs: %g, %g\n", inputs, got4[i], expected4[i]), 1;
          }
        }
      }
    }
  }
  std::printf("%zu forms\n", forms.size());
  return 0;
}
