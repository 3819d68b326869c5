#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "error.h"

namespace gemma3 {
namespace {

// Logits divided by these stay finite in float32, and differences of 1e-3 stay decisive.
constexpr float kLeastTemperature = 1e-6f, kMostTemperature = 1e6f, kLeastTopP = 1e-30f;

void check(bool holds, const char *name, const char *expected, float got) {
  if (!holds) {
    refuse(std::string(name) + ": expected " + expected + ", got " + std::to_string(got));
  }
}

template <typename T, typename Value>
HostArray column(const char *dtype, const std::vector<gemma3_sampling> &rows, Value value) {
  HostArray array(dtype, {static_cast<int64_t>(rows.size())});
  std::transform(rows.begin(), rows.end(), array.data<T>(), value);
  return array;
}

float temperature_of(const gemma3_sampling &row) {
  if (row.temperature == 0) return 0;
  return std::clamp(row.temperature, kLeastTemperature, kMostTemperature);
}

}  // namespace

void check_sampling(const gemma3_sampling &row) {
  check(std::isfinite(row.temperature) && row.temperature >= 0, "temperature",
        "a finite number of at least 0 (0 is greedy)", row.temperature);
  check(row.top_k >= 0, "top-k", "at least 0 (0 is off)", static_cast<float>(row.top_k));
  check(row.top_p >= 0 && row.top_p <= 1, "top-p", "between 0 and 1 (0 and 1 are off)", row.top_p);
  check(row.min_p >= 0 && row.min_p <= 1, "min-p", "between 0 and 1 (0 is off)", row.min_p);
}

HostArrays sampling_inputs(const std::vector<gemma3_sampling> &rows) {
  HostArrays inputs;
  inputs.push_back(column<float>("float32", rows, temperature_of));
  inputs.push_back(column<int32_t>("int32", rows, [](auto &row) { return row.top_k; }));
  inputs.push_back(column<float>("float32", rows, [](auto &row) {
    return row.top_p == 0 ? 1.0f : std::max(row.top_p, kLeastTopP);
  }));
  inputs.push_back(column<float>("float32", rows, [](auto &row) { return row.min_p; }));
  inputs.push_back(column<uint32_t>("uint32", rows, [](auto &row) { return row.seed; }));
  return inputs;
}

std::vector<gemma3_sampling> sampling_of(const gemma3_sampling *sampling, size_t count,
                                         size_t rows) {
  if (sampling == nullptr) return std::vector<gemma3_sampling>(rows);
  if (count > 1 && count != rows) {
    refuse("sampling: expected 1 or " + std::to_string(rows) + " of them, got " +
           std::to_string(count));
  }
  for (size_t i = 0; i < std::max<size_t>(count, 1); ++i) check_sampling(sampling[i]);
  if (count > 1) return {sampling, sampling + count};
  return std::vector<gemma3_sampling>(rows, *sampling);
}

TopTokens top_tokens(const float *logits, int64_t vocab, uint32_t count) {
  std::vector<int32_t> order(static_cast<size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  const size_t wanted = std::min<size_t>(count, order.size());
  const auto likelier = [&](int32_t a, int32_t b) {
    // NaN is the likeliest, as the largest on a device is; an order needs a place for it.
    const bool unknown = std::isnan(logits[a]);
    if (unknown || std::isnan(logits[b])) {
      return unknown && (!std::isnan(logits[b]) || a < b);
    }
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(wanted),
                    order.end(), likelier);
  order.resize(wanted);
  if (wanted == 0) return {};
  const double most = logits[order.front()];
  double sum = 0;
  for (int64_t i = 0; i < vocab; ++i) sum += std::exp(static_cast<double>(logits[i]) - most);
  const double normaliser = std::log(sum);
  TopTokens top{order, {}};
  for (int32_t token : order) {
    top.logprobs.push_back(static_cast<double>(logits[token]) - most - normaliser);
  }
  return top;
}

}  // namespace gemma3
