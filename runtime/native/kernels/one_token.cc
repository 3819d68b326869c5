// Attention of one token a row.
#include <algorithm>
#include <cmath>
#include <vector>

#include "attention_call.h"
#include "dots.h"
#include "numbers.h"
#include "share.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Slots whose keys and values one task reads: of the 270M an eighth of a MB.
constexpr size_t kSlotsOfTask = 256;
// A call that sees fewer numbers than this is done by the calling thread.
constexpr size_t kWorthSharing = 1 << 16;
// Bytes of values that are on their way while keys are read.
constexpr size_t kPrefetched = 1 << 14;

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

// The queries of a call with one token a row, laid out for the keys.
class Queries {
 public:
  explicit Queries(const Call &call) : stride_(arranged_size(call.head)) {
    const size_t count = call.rows * call.heads;
    numbers_.resize(count * stride_);
    std::vector<float> turned(call.head);
    for (size_t q = 0; q < count; ++q) {
      float *to = numbers_.data() + q * stride_;
      call.make_query(q / call.heads, 0, q % call.heads, call.int8 ? to : turned.data());
      if (!call.int8) arrange_for_bfloat16(turned.data(), call.head, to);
      heads_.push_back({to, nullptr, nullptr});
    }
  }
  const Activations *head(size_t q) const { return heads_.data() + q; }

 private:
  size_t stride_;
  Aligned<float> numbers_;
  std::vector<Activations> heads_;
};

// The softmax of one token over a stretch that it sees.
Part attend(const Call &call, const Activations *queries, const Stretch &slots) {
  const Forms &forms = fastest_forms();
  const size_t group = call.group();
  Part part = {std::vector<float>(group), std::vector<float>(group),
               std::vector<float>(group * call.head)};
  std::vector<float> scores(group * slots.count);
  prefetch(slots.values, std::min(kPrefetched, slots.count * call.bytes()));
  const Dots dots = call.int8 ? forms.float_by_int8 : forms.bfloat16;
  for (size_t g = 0; g < group; g += kTileRows) {
    const int rows = static_cast<int>(std::min<size_t>(kTileRows, group - g));
    dots(queries + g, rows, slots.keys, nullptr, call.head, slots.count,
         scores.data() + g * slots.count, slots.count);
  }
  const Softmax softmax = {call.cap, slots.key_scales, slots.value_scales};
  for (size_t g = 0; g < group; ++g) {
    forms.weigh(softmax, slots.count, scores.data() + g * slots.count, &part.peak[g],
                &part.total[g]);
  }
  const Mix mix = call.int8 ? forms.mix_int8 : forms.mix_bfloat16;
  mix(scores.data(), slots.count, static_cast<int>(group), slots.values, slots.count, call.head,
      part.mixed.data());
  return part;
}

// `count` slots of a stretch, from `first` on.
Stretch cut(const Call &call, const Stretch &whole, size_t first, size_t count) {
  const auto moved = [&](const void *from) {
    return static_cast<const char *>(from) + first * call.bytes();
  };
  return {moved(whole.keys),
          moved(whole.values),
          call.int8 ? whole.key_scales + first : nullptr,
          call.int8 ? whole.value_scales + first : nullptr,
          count,
          whole.place + static_cast<int32_t>(first)};
}

}  // namespace

void attend_one_token(const Call &call, Own &own, ffi::ThreadPool &pool) {
  struct Task {
    size_t head;
    Stretch slots;
  };
  const size_t heads = call.rows * call.kv_heads, group = call.group();
  std::vector<Task> tasks;
  size_t seen = 0;
  for (size_t head = 0; head < heads; ++head) {
    if (call.valid(head / call.kv_heads) == 0) continue;
    for (const Stretch &stretch : held(call, head, 0)) {
      for (size_t at = 0; at < stretch.count; at += kSlotsOfTask) {
        tasks.push_back({head, cut(call, stretch, at, std::min(kSlotsOfTask, stretch.count - at))});
      }
      seen += stretch.count;
    }
  }
  const Queries queries(call);
  std::vector<Part> parts(tasks.size());
  const auto task = [&](size_t i) {
    parts[i] = attend(call, queries.head(tasks[i].head * group), tasks[i].slots);
  };
  share_if(seen * call.head >= kWorthSharing, pool, tasks.size(), task);
  for (size_t head = 0, next = 0; head < heads; ++head) {
    float *result = call.result + head * group * call.head;
    if (call.valid(head / call.kv_heads) == 0) {
      std::fill_n(result, group * call.head, 0.0f);
      continue;
    }
    Part whole = attend(call, queries.head(head * group), own.stretch(head, 0, 1));
    for (; next < tasks.size() && tasks[next].head == head; ++next) {
      whole.add(parts[next], call.head);
    }
    for (size_t i = 0; i < group * call.head; ++i) {
      result[i] = whole.mixed[i] / whole.total[i / call.head];
    }
  }
}

}  // namespace gemma3
