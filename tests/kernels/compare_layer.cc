// Every form of layer.h that runs on this processor against the plain one.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "layer.h"
#include "memory.h"
#include "numbers.h"

using gemma3::Aligned;
using gemma3::ChunkTask;
using gemma3::LayerForms;
using gemma3::Stretch;

namespace {

int failures = 0;

void expect_close(const char *what, size_t form, const float *got, const float *expected,
                  size_t count, float tolerance) {
  float worst = 0;
  for (size_t i = 0; i < count; ++i) {
    const float error = std::fabs(got[i] - expected[i]);
    if (!(error <= worst)) worst = error;  // a NaN is worse than all
  }
  if (worst <= tolerance) return;
  std::printf("%s, form %zu: off by %g, expected %g at most\n", what, form, worst, tolerance);
  ++failures;
}

std::vector<float> numbers(size_t count, unsigned seed, float scale = 1.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> made(count);
  for (float &number : made) number = normal(random);
  return made;
}

void compare_rows(const LayerForms &form, size_t index) {
  const LayerForms &plain = gemma3::kPlainLayer;
  for (const size_t size : {32, 96, 640}) {
    const auto x = numbers(size, 1, 4.0f), other = numbers(size, 2), gains = numbers(size, 3);
    const gemma3::Norm norm = {gains.data(), 1e-6f, 0.5f};
    std::vector<float> got(size), expected(size);
    const auto check = [&](const char *what) {
      expect_close(what, index, got.data(), expected.data(), size, 2e-5f);
    };
    form.norm(x.data(), norm, size, got.data());
    plain.norm(x.data(), norm, size, expected.data());
    check("norm");
    form.add_norm(x.data(), norm, other.data(), size, got.data());
    plain.add_norm(x.data(), norm, other.data(), size, expected.data());
    check("add_norm");
    form.norm_and_turn(x.data(), norm, other.data(), gains.data(), size, got.data());
    plain.norm_and_turn(x.data(), norm, other.data(), gains.data(), size, expected.data());
    check("norm_and_turn");
    form.gate(x.data(), other.data(), size, got.data());
    for (size_t i = 0; i < size; ++i) {
      const double v = x[i], inner = std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v);
      expected[i] = static_cast<float>(0.5 * v * (1 + std::tanh(inner)) * other[i]);
    }
    check("gate");
  }
}

// A block of query rows over two stretches, the second of their own tokens.
void compare_chunk(const LayerForms &form, size_t index, size_t head, size_t rows, size_t old,
                   int32_t reach, float cap, bool images) {
  const size_t own = rows;
  Aligned<float> queries, got, expected;
  Aligned<int32_t> places, groups;
  queries.resize(rows * head);
  got.resize(rows * head);
  expected.resize(rows * head);
  places.resize(rows);
  groups.resize(rows);
  const auto drawn = numbers(rows * head, 4, 1.0f / std::sqrt(static_cast<float>(head)));
  for (size_t i = 0; i < rows * head; ++i) queries.data()[i] = drawn[i];
  for (size_t r = 0; r < rows; ++r) {
    places.data()[r] = static_cast<int32_t>(r);
    groups.data()[r] = r > 3 && r < rows - 5 ? 0 : -1;
  }
  const size_t count = old + own;
  const auto keys = numbers(count * head, 5), values = numbers(count * head, 6);
  std::vector<uint16_t> narrow_keys(count * head), narrow_values(count * head);
  for (size_t i = 0; i < count * head; ++i) {
    narrow_keys[i] = gemma3::to_bfloat16(keys[i]);
    narrow_values[i] = gemma3::to_bfloat16(values[i]);
  }
  const Stretch stretches[] = {
      {narrow_keys.data(), narrow_values.data(), nullptr, nullptr, old, -static_cast<int32_t>(old)},
      {narrow_keys.data() + old * head, narrow_values.data() + old * head, nullptr, nullptr, own,
       0}};
  const auto attend = [&](const LayerForms &by, float *result) {
    const ChunkTask task = {head,           rows / by.lanes,
                            queries.data(), places.data(),
                            groups.data(),  images ? groups.data() : nullptr,
                            reach,          cap,
                            false};
    Aligned<char> memory;
    memory.resize(by.chunk_memory(task));
    by.chunk(task, stretches, 2, memory.data(), result);
  };
  attend(gemma3::kPlainLayer, expected.data());
  attend(form, got.data());
  expect_close("chunk", index, got.data(), expected.data(), rows * head, 2e-2f);
}

}  // namespace

int main() {
  const auto forms = gemma3::runnable_layer_forms();
  for (size_t i = 0; i < forms.size(); ++i) {
    compare_rows(forms[i], i);
    compare_chunk(forms[i], i, 32, 16, 5, 1 << 30, 0, false);
    compare_chunk(forms[i], i, 64, 64, 300, 40, 0, true);
    compare_chunk(forms[i], i, 96, 80, 129, 1 << 30, 5.0f, true);
    compare_chunk(forms[i], i, 256, 48, 0, 17, 0, false);
  }
  std::printf("%zu forms, %d failures\n", forms.size(), failures);
  return failures == 0 ? 0 : 1;
}
