#include "attention_call.h"

#include <cmath>
#include <cstring>

#include "numbers.h"

namespace gemma3 {
namespace {

// Numbers as the cache keeps them; `scale` is of int8. Of numbers that are not all finite it is NaN
// or infinite, so that what is read back says so.
void keep(const float *numbers, size_t count, bool int8, char *to, float *scale) {
  if (!int8) {
    for (size_t i = 0; i < count; ++i) {
      const uint16_t bits = to_bfloat16(numbers[i]);
      std::memcpy(to + 2 * i, &bits, sizeof bits);
    }
    return;
  }
  float peak = 1e-30f;
  for (size_t i = 0; i < count; ++i) {
    const float size = std::fabs(numbers[i]);
    if (size > peak || std::isnan(size)) peak = size;  // nothing is more than a NaN
  }
  const float step = peak / 127.0f;
  for (size_t i = 0; i < count; ++i) {
    const float steps = std::nearbyint(numbers[i] / step);
    const bool fits = std::fabs(steps) <= 127.0f;  // not where the quotient is NaN
    to[i] = static_cast<char>(fits ? static_cast<int8_t>(steps) : int8_t{0});
  }
  *scale = step;
}

}  // namespace

Own::Own(const Call &call) : call_(call) {
  const size_t count = call.rows * call.kv_heads * call.tokens;
  keys_.resize(count * call.bytes());
  values_.resize(count * call.bytes());
  if (call.int8) scales_.resize(2 * count);
}

void Own::make(size_t row, size_t first, size_t last) {
  std::vector<float> turned(call_.head);
  for (size_t token = first; token < last; ++token) {
    for (size_t k = 0; k < call_.kv_heads; ++k) {
      const size_t from = ((row * call_.tokens + token) * call_.kv_heads + k) * call_.head;
      const size_t to = (row * call_.kv_heads + k) * call_.tokens + token;
      call_.make_key(row, token, k, turned.data());
      char *keys = keys_.data() + to * call_.bytes();
      char *values = values_.data() + to * call_.bytes();
      keep(turned.data(), call_.head, call_.int8, keys, scale(0, to));
      keep(call_.value + from, call_.head, call_.int8, values, scale(1, to));
    }
  }
}

Stretch Own::stretch(size_t head, size_t token, size_t count) {
  const size_t at = head * call_.tokens + token;
  return {keys_.data() + at * call_.bytes(),
          values_.data() + at * call_.bytes(),
          scale(0, at),
          scale(1, at),
          count,
          static_cast<int32_t>(token)};
}

float *Own::scale(size_t which, size_t at) {
  if (!call_.int8) return nullptr;
  return scales_.data() + which * call_.rows * call_.kv_heads * call_.tokens + at;
}

std::vector<Stretch> held(const Call &call, size_t head, size_t token) {
  const size_t row = head / call.kv_heads, slots = call.slots;
  const int64_t start = call.start[row], size = static_cast<int64_t>(slots);
  const int64_t reached = start + static_cast<int64_t>(token) - call.reach + 1;
  const int64_t end = call.ring ? start : std::min(start, size);
  std::vector<Stretch> found;
  for (int64_t at = std::max<int64_t>({0, reached, end - size}); at < end;) {
    const size_t slot = static_cast<size_t>(at % size);
    const size_t count = std::min(slots - slot, static_cast<size_t>(end - at));
    const size_t place = head * slots + slot;
    found.push_back({call.keys + place * call.bytes(), call.values + place * call.bytes(),
                     call.int8 ? call.key_scales + place : nullptr,
                     call.int8 ? call.value_scales + place : nullptr, count,
                     static_cast<int32_t>(at - start)});
    at += static_cast<int64_t>(count);
  }
  return found;
}

}  // namespace gemma3
