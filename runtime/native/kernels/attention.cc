// gemma3_attention: softmax attention of one new token a row over a cache, through XLA's FFI.
//
//   gemma3_attention(query f32 [B,N,H], new key, new value [B,K,H], keys, values [B,K,S,H],
//                    seen bool [B,S]; scale, cap f32) -> f32 [B,N,H]
//
// Keys and values are bfloat16, or int8 followed by the scales of all four, f32 [B,K], [B,K],
// [B,K,S], [B,K,S]. N is a multiple of K, and H of 32. `seen` says which slots the new token sees;
// it sees itself. Scores are multiplied by `scale`, and where `cap` is not 0 become
// cap * tanh(score / cap). Chunks of slots are read by several threads and met in one softmax.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "dots.h"
#include "handler.h"
#include "memory.h"
#include "numbers.h"
#include "share.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Slots whose keys and values one task reads: an eighth of a megabyte of the 270M.
constexpr size_t kSlotsOfTask = 256;
// A call that sees fewer numbers than this is done by the calling thread.
constexpr size_t kWorthSharing = 1 << 16;
// Bytes of values that are on their way while keys are read.
constexpr size_t kPrefetched = 1 << 14;

// Keys and values of some slots of a head; scales null for bfloat16.
struct Slots {
  const char *keys, *values;
  const float *key_scales, *value_scales;
  const bool *seen;  // null: all of them
  size_t count;
};

// What a call is about.
struct Sizes {
  size_t rows, heads, kv_heads, slots, head;
  bool int8;
  float scale, cap;

  size_t group() const { return heads / kv_heads; }
  size_t bytes() const { return head * (int8 ? 1 : 2); }  // of a key or a value
};

// A softmax over some slots, of the query heads that share a head of the cache.
struct Part {
  std::vector<float> peak, total, mixed;  // [G], [G], [G][H]

  // This part and another one as if their slots had been met together.
  void add(const Part &other, size_t head) {
    for (size_t g = 0; g < peak.size(); ++g) {
      const float high = std::max(peak[g], other.peak[g]);
      const float mine = std::exp(peak[g] - high), theirs = std::exp(other.peak[g] - high);
      total[g] = total[g] * mine + other.total[g] * theirs;
      for (size_t i = g * head; i < (g + 1) * head; ++i) {
        mixed[i] = mixed[i] * mine + other.mixed[i] * theirs;
      }
      peak[g] = high;
    }
  }
};

// The query heads of a call, laid out for the keys.
class Queries {
 public:
  Queries(const Sizes &sizes, const float *query) : stride_(arranged_size(sizes.head)) {
    const size_t count = sizes.rows * sizes.heads;
    numbers_.resize(count * stride_);
    for (size_t q = 0; q < count; ++q) {
      float *to = numbers_.data() + q * stride_;
      const float *from = query + q * sizes.head;
      if (sizes.int8) {
        std::copy_n(from, sizes.head, to);
      } else {
        arrange_for_bfloat16(from, sizes.head, to);
      }
      heads_.push_back({to, nullptr, nullptr});
    }
  }
  const Activations *head(size_t q) const { return heads_.data() + q; }

 private:
  size_t stride_;
  Aligned<float> numbers_;
  std::vector<Activations> heads_;
};

// The softmax over `slots`, of which at least one is seen.
Part attend(const Sizes &sizes, const Activations *queries, const Slots &slots) {
  const Forms &forms = fastest_forms();
  const size_t group = sizes.group();
  Part part = {std::vector<float>(group), std::vector<float>(group),
               std::vector<float>(group * sizes.head)};
  std::vector<float> scores(group * slots.count);
  prefetch(slots.values, std::min(kPrefetched, slots.count * sizes.bytes()));
  const Dots dots = sizes.int8 ? forms.float_by_int8 : forms.bfloat16;
  for (size_t g = 0; g < group; g += kTileRows) {
    const int rows = static_cast<int>(std::min<size_t>(kTileRows, group - g));
    dots(queries + g, rows, slots.keys, nullptr, sizes.head, slots.count,
         scores.data() + g * slots.count, slots.count);
  }
  const Softmax softmax = {sizes.scale, sizes.cap, slots.key_scales, slots.value_scales,
                           slots.seen};
  for (size_t g = 0; g < group; ++g) {
    forms.weigh(softmax, slots.count, scores.data() + g * slots.count, &part.peak[g],
                &part.total[g]);
  }
  const Mix mix = sizes.int8 ? forms.mix_int8 : forms.mix_bfloat16;
  mix(scores.data(), slots.count, static_cast<int>(group), slots.values, slots.count, sizes.head,
      part.mixed.data());
  return part;
}

// The seen slots of a row from `first` to `last`, without those unseen at both ends.
std::pair<size_t, size_t> seen_range(const bool *seen, size_t first, size_t last) {
  while (first < last && !seen[first]) ++first;
  while (first < last && !seen[last - 1]) --last;
  return {first, last};
}

// A call: its arrays, and where a softmax over a stretch of slots begins.
struct Call {
  Sizes sizes;
  const char *new_keys, *new_values, *keys, *values;
  const float *new_key_scales, *new_value_scales, *key_scales, *value_scales;
  const bool *seen;
  float *result;

  // Slots `first` to `last` of head `head` of all rows together.
  Slots held(size_t head, size_t first, size_t last) const {
    const size_t at = head * sizes.slots + first, bytes = sizes.bytes();
    return {keys + at * bytes, values + at * bytes,
            key_scales == nullptr ? nullptr : key_scales + at,
            value_scales == nullptr ? nullptr : value_scales + at,
            seen + head / sizes.kv_heads * sizes.slots + first, last - first};
  }
  Slots own(size_t head) const {
    const size_t bytes = sizes.bytes();
    return {new_keys + head * bytes, new_values + head * bytes,
            new_key_scales == nullptr ? nullptr : new_key_scales + head,
            new_value_scales == nullptr ? nullptr : new_value_scales + head, nullptr, 1};
  }
};

void run(const Call &call, const float *query, ffi::ThreadPool &pool) {
  struct Stretch {
    size_t head, first, last;
  };
  const Sizes &sizes = call.sizes;
  const size_t heads = sizes.rows * sizes.kv_heads, group = sizes.group();
  std::vector<Stretch> stretches;
  size_t seen = 0;
  for (size_t head = 0; head < heads; ++head) {
    const bool *row = call.seen + head / sizes.kv_heads * sizes.slots;
    for (size_t at = 0; at < sizes.slots; at += kSlotsOfTask) {
      const auto range = seen_range(row, at, std::min(sizes.slots, at + kSlotsOfTask));
      if (range.first == range.second) continue;
      stretches.push_back({head, range.first, range.second});
      seen += range.second - range.first;
    }
  }
  const Queries queries(sizes, query);
  std::vector<Part> parts(stretches.size());
  const auto task = [&](size_t i) {
    const Stretch &here = stretches[i];
    parts[i] = attend(sizes, queries.head(here.head * group),
                      call.held(here.head, here.first, here.last));
  };
  if (seen * sizes.head < kWorthSharing) {
    for (size_t i = 0; i < stretches.size(); ++i) task(i);
  } else {
    share(pool, stretches.size(), task);
  }
  for (size_t head = 0, next = 0; head < heads; ++head) {
    Part whole = attend(sizes, queries.head(head * group), call.own(head));
    for (; next < stretches.size() && stretches[next].head == head; ++next) {
      whole.add(parts[next], sizes.head);
    }
    float *result = call.result + head * group * sizes.head;
    for (size_t i = 0; i < group * sizes.head; ++i) {
      result[i] = whole.mixed[i] / whole.total[i / sizes.head];
    }
  }
}

template <typename Buffer>
bool is(const Buffer &buffer, ffi::DataType type, std::initializer_list<int64_t> shape) {
  const auto dimensions = buffer.dimensions();
  return buffer.element_type() == type &&
         std::equal(dimensions.begin(), dimensions.end(), shape.begin(), shape.end());
}

const float *floats(const ffi::AnyBuffer &buffer) {
  return static_cast<const float *>(buffer.untyped_data());
}

ffi::Error attention(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> query, ffi::AnyBuffer new_key,
                     ffi::AnyBuffer new_value, ffi::AnyBuffer keys, ffi::AnyBuffer values,
                     ffi::Buffer<ffi::PRED> seen, ffi::RemainingArgs scales, float scale,
                     float cap, ffi::ResultBuffer<ffi::F32> result) {
  const auto wrong = ffi::Error::InvalidArgument("gemma3_attention: shapes do not belong together");
  if (query.dimensions().size() != 3 || keys.dimensions().size() != 4) return wrong;
  const int64_t B = query.dimensions()[0], N = query.dimensions()[1], H = query.dimensions()[2];
  const int64_t K = keys.dimensions()[1], S = keys.dimensions()[2];
  const bool int8 = scales.size() == 4;
  const ffi::DataType type = int8 ? ffi::S8 : ffi::BF16;
  if (H % static_cast<int64_t>(kGroup) || K == 0 || N % K || (!int8 && scales.size() != 0) ||
      !is(new_key, type, {B, K, H}) || !is(new_value, type, {B, K, H}) ||
      !is(keys, type, {B, K, S, H}) || !is(values, type, {B, K, S, H}) ||
      !is(seen, ffi::PRED, {B, S}) || !is(*result, ffi::F32, {B, N, H})) {
    return wrong;
  }
  const float *found[4] = {};
  for (size_t i = 0; i < scales.size(); ++i) {
    const auto array = scales.get<ffi::AnyBuffer>(i);
    if (!array || !(i < 2 ? is(*array, ffi::F32, {B, K}) : is(*array, ffi::F32, {B, K, S}))) {
      return wrong;
    }
    found[i] = floats(*array);
  }
  const auto bytes = [](const ffi::AnyBuffer &b) {
    return static_cast<const char *>(b.untyped_data());
  };
  const Sizes sizes = {static_cast<size_t>(B), static_cast<size_t>(N), static_cast<size_t>(K),
                       static_cast<size_t>(S), static_cast<size_t>(H), int8, scale, cap};
  const Call call = {sizes, bytes(new_key), bytes(new_value), bytes(keys), bytes(values),
                     found[0], found[1], found[2], found[3],
                     static_cast<const bool *>(seen.untyped_data()), result->typed_data()};
  run(call, query.typed_data(), pool);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gemma3

GEMMA3_KERNEL(gemma3_attention, gemma3::attention,
              xla::ffi::Ffi::Bind()
                  .Ctx<xla::ffi::ThreadPool>()
                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                  .Arg<xla::ffi::AnyBuffer>()
                  .Arg<xla::ffi::AnyBuffer>()
                  .Arg<xla::ffi::AnyBuffer>()
                  .Arg<xla::ffi::AnyBuffer>()
                  .Arg<xla::ffi::Buffer<xla::ffi::PRED>>()
                  .RemainingArgs()
                  .Attr<float>("scale")
                  .Attr<float>("cap")
                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>())
