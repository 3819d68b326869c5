#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>

#include "error.h"
#include "model.h"

namespace gemma3 {
namespace {

// Zero members have their defaults: what is off at another number is off at 0 as well.
void check(const char *name, double value, double neutral, double least, double most,
           bool above_least, const char *expected) {
  if (value == 0 && neutral != 0) return;
  if (value >= least && value <= most && !(above_least && value == least)) return;
  refuse(std::string(name) + ": expected " + expected + ", got " + std::to_string(value));
}

double fed(double value, double neutral, double least_fed, double most_fed) {
  if (value == neutral || (value == 0 && neutral != 0)) return neutral;
  return std::clamp(value, least_fed, most_fed);
}

}  // namespace

void check_sampling(const Model &model, const gemma3_sampling &row) {
  const std::set<std::string> &taken = model.sampling_inputs();
#define CHECK(name, type, dtype, neutral, least, most, above_least, least_fed, most_fed, expected, \
              ...)                                                                                 \
  check(#name, static_cast<double>(row.name), neutral, least, most, above_least, expected);        \
  if (fed(static_cast<double>(row.name), neutral, least_fed, most_fed) != (neutral) &&             \
      taken.count(#name) == 0) {                                                                   \
    refuse(#name ": the programs of " + model.grid().source() +                                    \
           " take no such input; export the checkpoint again");                                    \
  }
  GEMMA3_SAMPLING(CHECK)
#undef CHECK
}

HostArrays sampling_inputs(const std::vector<gemma3_sampling> &rows) {
  HostArrays inputs;
  const auto count = static_cast<int64_t>(rows.size());
#define COLUMN(name, type, dtype, neutral, least, most, above_least, least_fed, most_fed, ...) \
  inputs.emplace_back(dtype, Shape{count});                                                    \
  std::transform(rows.begin(), rows.end(), inputs.back().data<type>(),                         \
                 [](const gemma3_sampling &row) {                                              \
                   return static_cast<type>(                                                   \
                       fed(static_cast<double>(row.name), neutral, least_fed, most_fed));      \
                 });
  GEMMA3_SAMPLING(COLUMN)
#undef COLUMN
  return inputs;
}

std::vector<gemma3_sampling> sampling_of(const Model &model, const gemma3_sampling *sampling,
                                         size_t count, size_t rows) {
  if (sampling == nullptr) return std::vector<gemma3_sampling>(rows);
  if (count > 1 && count != rows) {
    refuse("sampling: expected 1 or " + std::to_string(rows) + " of them, got " +
           std::to_string(count));
  }
  for (size_t i = 0; i < std::max<size_t>(count, 1); ++i) check_sampling(model, sampling[i]);
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
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(wanted), order.end(),
                    likelier);
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
