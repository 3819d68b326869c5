// gemma3_cached_attention: what lies between the projections of a layer's attention, through XLA's
// FFI: RMSNorm and rotation of queries and keys, softmax attention over the cache and the tokens of
// the call, and the cache with these tokens written to it.
//
//   gemma3_cached_attention(query f32 [B,T,N*H], key, value f32 [B,T,K*H],
//                           query norm, key norm [H], cos, sin f32 [B,T,H/2],
//                           start, length s32 [B], keys, values [B,K,S,H],
//                           key scales, value scales f32 [B,K,S] beside int8, groups s32 [B,T];
//                           epsilon, scale, cap f32, reach s32, ring, grouped bool)
//       -> f32 [B,T,N*H], keys, values, key scales, value scales
//
// N is a multiple of K, and H of 32. Keys and values of the cache are bfloat16, or int8 with a
// scale for each; their results are the very arrays that come in. Norms are float or bfloat16, and
// what multiplies a number is 1 more. A row has `length` tokens, at positions start, start + 1,
// ...; those after them are padding, give 0 and are not written. A token sees itself, the reach - 1
// before it and, where `grouped`, what follows in its image: groups are images, negative for text.
// A ring keeps position p in slot p % S, another cache in slot p. Scores are multiplied by `scale`
// and, where `cap` is not 0, become cap * tanh(score / cap).

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <utility>
#include <vector>

#include "layer.h"
#include "dots.h"
#include "handler.h"
#include "memory.h"
#include "numbers.h"
#include "operand.h"
#include "share.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Slots whose keys and values one task of a single token reads: of the 270M an eighth of a MB.
constexpr size_t kSlotsOfTask = 256;
// A call that sees fewer numbers than this is done by the calling thread.
constexpr size_t kWorthSharing = 1 << 16;
// Bytes of values that are on their way while keys are read.
constexpr size_t kPrefetched = 1 << 14;
// Query rows of a task of many tokens, where there are so many.
constexpr size_t kRowsOfTask = 64;
// Tokens whose keys and values are made by one task, and that a task attends with at least.
constexpr size_t kTokensOfTask = 16;

// A call: its sizes, its arrays.
struct Call {
  size_t rows, tokens, heads, kv_heads, slots, head;
  bool int8, ring;
  int32_t reach;
  float epsilon, scale, cap;
  const float *query, *key, *value, *cos, *sin;
  const int32_t *start, *length, *groups;  // groups may be null
  char *keys, *values;
  float *key_scales, *value_scales;
  float *result;
  std::vector<float> query_gains, key_gains;

  size_t group() const { return heads / kv_heads; }
  size_t bytes() const { return head * (int8 ? 1 : 2); }  // of a key or a value
  size_t valid(size_t row) const {
    return static_cast<size_t>(std::clamp<int32_t>(length[row], 0, static_cast<int32_t>(tokens)));
  }
  const float *cos_of(size_t row, size_t token) const {
    return cos + (row * tokens + token) * head / 2;
  }
  const float *sin_of(size_t row, size_t token) const {
    return sin + (row * tokens + token) * head / 2;
  }
  // A query head of a token as it meets keys.
  void make_query(size_t row, size_t token, size_t which, float *to) const {
    const Norm norm = {query_gains.data(), epsilon, scale};
    const float *from = query + ((row * tokens + token) * heads + which) * head;
    fastest_layer_forms().norm_and_turn(from, norm, cos_of(row, token), sin_of(row, token), head,
                                         to);
  }
};

// Numbers as the cache keeps them; `scale` is of int8.
void keep(const float *numbers, size_t count, bool int8, char *to, float *scale) {
  if (!int8) {
    for (size_t i = 0; i < count; ++i) {
      const uint16_t bits = to_bfloat16(numbers[i]);
      std::memcpy(to + 2 * i, &bits, sizeof bits);
    }
    return;
  }
  float peak = 0;
  for (size_t i = 0; i < count; ++i) peak = std::max(peak, std::fabs(numbers[i]));
  const float step = std::max(peak, 1e-30f) / 127.0f;
  for (size_t i = 0; i < count; ++i) {
    to[i] = static_cast<char>(static_cast<int8_t>(std::nearbyint(numbers[i] / step)));
  }
  *scale = step;
}

// The keys and values of a call's own tokens as the cache keeps them: [B,K,T,H].
class Own {
 public:
  explicit Own(const Call &call) : call_(call) {
    const size_t count = call.rows * call.kv_heads * call.tokens;
    keys_.resize(count * call.bytes());
    values_.resize(count * call.bytes());
    if (call.int8) scales_.resize(2 * count);
  }
  // Those of a row's tokens from `first` to `last`.
  void make(size_t row, size_t first, size_t last) {
    const Norm norm = {call_.key_gains.data(), call_.epsilon, 1.0f};
    std::vector<float> turned(call_.head);
    for (size_t token = first; token < last; ++token) {
      for (size_t k = 0; k < call_.kv_heads; ++k) {
        const size_t from = ((row * call_.tokens + token) * call_.kv_heads + k) * call_.head;
        const size_t to = (row * call_.kv_heads + k) * call_.tokens + token;
        fastest_layer_forms().norm_and_turn(call_.key + from, norm, call_.cos_of(row, token),
                                             call_.sin_of(row, token), call_.head, turned.data());
        char *keys = keys_.data() + to * call_.bytes();
        char *values = values_.data() + to * call_.bytes();
        keep(turned.data(), call_.head, call_.int8, keys, scale(0, to));
        keep(call_.value + from, call_.head, call_.int8, values, scale(1, to));
      }
    }
  }
  // Those of `count` tokens of a head of all rows together.
  Stretch stretch(size_t head, size_t token, size_t count) {
    const size_t at = head * call_.tokens + token;
    return {keys_.data() + at * call_.bytes(), values_.data() + at * call_.bytes(), scale(0, at),
            scale(1, at), count, static_cast<int32_t>(token)};
  }

 private:
  float *scale(size_t which, size_t at) {
    if (!call_.int8) return nullptr;
    return scales_.data() + which * call_.rows * call_.kv_heads * call_.tokens + at;
  }

  const Call &call_;
  Aligned<char> keys_, values_;
  Aligned<float> scales_;
};

// The slots of a head that tokens from `token` on may see, oldest first, as they lie.
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
  return {moved(whole.keys), moved(whole.values),
          call.int8 ? whole.key_scales + first : nullptr,
          call.int8 ? whole.value_scales + first : nullptr, count,
          whole.place + static_cast<int32_t>(first)};
}

// One token a row: stretches of the cache are read by several threads and met in one softmax.
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
  if (seen * call.head < kWorthSharing) {
    for (size_t i = 0; i < tasks.size(); ++i) task(i);
  } else {
    share(pool, tasks.size(), task);
  }
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

// What a thread works in, kept from task to task: memory made anew is cleared page by page.
struct Workspace {
  Aligned<float> numbers;
  Aligned<int32_t> places;
  Aligned<char> memory;
};

// The queries of some tokens of a row that share a head of the cache.
class Block {
 public:
  Block(const Call &call, size_t head, size_t first, size_t tokens, Workspace &room)
      : call_(call), row_(head / call.kv_heads), head_(head), first_(first), tokens_(tokens),
        room_(room) {
    const size_t lanes = fastest_layer_forms().lanes;
    const size_t panels = (call.group() * tokens + lanes - 1) / lanes, rows = panels * lanes;
    room.numbers.reserve(2 * rows * call.head);
    room.places.reserve(2 * rows);
    int32_t *places = room.places.data(), *groups = places + rows;
    for (size_t q = 0; q < rows; ++q) {
      const size_t token = std::min(first + q % tokens, call.tokens - 1);
      places[q] = static_cast<int32_t>(token);
      groups[q] = call.groups == nullptr ? 0 : call.groups[row_ * call.tokens + token];
      float *query = room.numbers.data() + q * call.head;
      if (q < call.group() * tokens && first + q % tokens < call.valid(row_)) {
        call.make_query(row_, token, query_head(q), query);
      } else {
        std::fill_n(query, call.head, 0.0f);
      }
    }
    task_ = {call.head, panels, room.numbers.data(), places, groups,
             call.groups == nullptr ? nullptr : call.groups + row_ * call.tokens, call.reach,
             call.cap, call.int8};
  }

  void attend(Own &own) {
    std::vector<Stretch> stretches = held(call_, head_, first_);
    const int64_t reached = static_cast<int64_t>(first_) - call_.reach + 1;
    const size_t begin = static_cast<size_t>(std::max<int64_t>(0, reached));
    const size_t valid = call_.valid(row_);
    const size_t end = call_.groups == nullptr ? std::min(first_ + tokens_, valid) : valid;
    stretches.push_back(own.stretch(head_, begin, end - begin));
    const LayerForms &forms = fastest_layer_forms();
    room_.memory.reserve(forms.chunk_memory(task_));
    float *mixed = room_.numbers.data() + task_.panels * forms.lanes * call_.head;
    forms.chunk(task_, stretches.data(), stretches.size(), room_.memory.data(), mixed);
    for (size_t q = 0; q < call_.group() * tokens_; ++q) {
      const size_t token = first_ + q % tokens_;
      if (token >= valid) continue;
      std::copy_n(mixed + q * call_.head, call_.head,
                  call_.result + ((row_ * call_.tokens + token) * call_.heads + query_head(q)) *
                                     call_.head);
    }
  }

 private:
  size_t query_head(size_t q) const {
    return head_ % call_.kv_heads * call_.group() + q / tokens_;
  }

  const Call &call_;
  size_t row_, head_, first_, tokens_;
  Workspace &room_;
  ChunkTask task_;
};

// Many tokens: blocks of them, of a head each, the longest way back first.
void attend_many_tokens(const Call &call, Own &own, ffi::ThreadPool &pool) {
  const size_t wanted = kRowsOfTask / call.group() / kTokensOfTask * kTokensOfTask;
  const size_t rows = std::max(wanted, kTokensOfTask);
  const size_t heads = call.rows * call.kv_heads, blocks = (call.tokens + rows - 1) / rows;
  share(pool, heads * blocks, [&](size_t i) {
    const size_t head = i % heads, first = (blocks - 1 - i / heads) * rows;
    if (first >= call.valid(head / call.kv_heads)) return;
    static thread_local Workspace room;
    Block(call, head, first, rows, room).attend(own);
  });
  for (size_t row = 0; row < call.rows; ++row) {
    const size_t width = call.heads * call.head, valid = call.valid(row);
    std::fill_n(call.result + (row * call.tokens + valid) * width, (call.tokens - valid) * width,
                0.0f);
  }
}

// The tokens of a call become part of the cache; of a ring the last ones stay.
void write(const Call &call, Own &own) {
  for (size_t head = 0; head < call.rows * call.kv_heads; ++head) {
    const size_t row = head / call.kv_heads, valid = call.valid(row);
    const size_t first = call.ring && valid > call.slots ? valid - call.slots : 0;
    for (size_t token = first; token < valid; ++token) {
      const size_t position = static_cast<size_t>(call.start[row]) + token;
      const size_t slot = call.ring ? position % call.slots : position;
      if (slot >= call.slots) break;
      const Stretch from = own.stretch(head, token, 1);
      const size_t to = head * call.slots + slot;
      std::memcpy(call.keys + to * call.bytes(), from.keys, call.bytes());
      std::memcpy(call.values + to * call.bytes(), from.values, call.bytes());
      if (!call.int8) continue;
      call.key_scales[to] = *from.key_scales;
      call.value_scales[to] = *from.value_scales;
    }
  }
}

void run(const Call &call, ffi::ThreadPool &pool) {
  Own own(call);
  const size_t parts = (call.tokens + kTokensOfTask - 1) / kTokensOfTask;
  const auto make = [&](size_t i) {
    const size_t row = i / parts, first = i % parts * kTokensOfTask;
    own.make(row, first, std::min(call.valid(row), first + kTokensOfTask));
  };
  if (parts == 1) {
    for (size_t i = 0; i < call.rows; ++i) make(i);
  } else {
    share(pool, call.rows * parts, make);
  }
  if (call.tokens == 1) {
    attend_one_token(call, own, pool);
  } else {
    attend_many_tokens(call, own, pool);
  }
  write(call, own);
}

template <typename Buffer>
bool is(const Buffer &buffer, ffi::DataType type, std::initializer_list<int64_t> shape) {
  const auto dimensions = buffer.dimensions();
  return buffer.element_type() == type &&
         std::equal(dimensions.begin(), dimensions.end(), shape.begin(), shape.end());
}

ffi::Error wrong() {
  return ffi::Error::InvalidArgument("gemma3_cached_attention: arrays do not belong together");
}

using Floats32 = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;

// Takes from `arguments` and `results` what follows the cache: scales, then groups.
bool take_rest(ffi::RemainingArgs &arguments, ffi::RemainingRets &results, bool grouped,
               Call &call) {
  const int64_t B = call.rows, K = call.kv_heads, S = call.slots, T = call.tokens;
  const size_t scales = call.int8 ? 2 : 0;
  if (arguments.size() != scales + (grouped ? 1 : 0) || results.size() != scales) return false;
  for (size_t i = 0; i < scales; ++i) {
    const auto given = arguments.get<ffi::AnyBuffer>(i);
    auto made = results.get<ffi::AnyBuffer>(i);
    if (!given || !made || !is(*given, ffi::F32, {B, K, S}) ||
        !is(**made, ffi::F32, {B, K, S}) ||
        given->untyped_data() != (*made)->untyped_data()) {
      return false;
    }
    (i == 0 ? call.key_scales : call.value_scales) = static_cast<float *>((*made)->untyped_data());
  }
  if (!grouped) return true;
  const auto groups = arguments.get<ffi::AnyBuffer>(scales);
  if (!groups || !is(*groups, ffi::S32, {B, T})) return false;
  call.groups = static_cast<const int32_t *>(groups->untyped_data());
  return true;
}

ffi::Error attention(ffi::ThreadPool pool, Floats32 query, Floats32 key, Floats32 value,
                     ffi::AnyBuffer query_norm, ffi::AnyBuffer key_norm, Floats32 cos, Floats32 sin,
                     Integers start, Integers length, ffi::AnyBuffer keys, ffi::AnyBuffer values,
                     ffi::RemainingArgs arguments, float epsilon, float scale, float cap,
                     int32_t reach, bool ring, bool grouped, ffi::ResultBuffer<ffi::F32> result,
                     ffi::Result<ffi::AnyBuffer> new_keys, ffi::Result<ffi::AnyBuffer> new_values,
                     ffi::RemainingRets results) {
  if (query.dimensions().size() != 3 || keys.dimensions().size() != 4) return wrong();
  const int64_t B = query.dimensions()[0], T = query.dimensions()[1], width = query.dimensions()[2];
  const int64_t K = keys.dimensions()[1], S = keys.dimensions()[2], H = keys.dimensions()[3];
  if (H == 0 || H % static_cast<int64_t>(kGroup) || K == 0 || S == 0 || width % (K * H)) {
    return wrong();
  }
  Call call = {};
  call.int8 = keys.element_type() == ffi::S8;
  const ffi::DataType type = call.int8 ? ffi::S8 : ffi::BF16;
  if (!is(key, ffi::F32, {B, T, K * H}) || !is(value, ffi::F32, {B, T, K * H}) ||
      !read_gains(query_norm, H, call.query_gains) || !read_gains(key_norm, H, call.key_gains) ||
      !is(cos, ffi::F32, {B, T, H / 2}) || !is(sin, ffi::F32, {B, T, H / 2}) ||
      !is(start, ffi::S32, {B}) || !is(length, ffi::S32, {B}) || !is(keys, type, {B, K, S, H}) ||
      !is(values, type, {B, K, S, H}) || !is(*result, ffi::F32, {B, T, width}) ||
      keys.untyped_data() != new_keys->untyped_data() ||
      values.untyped_data() != new_values->untyped_data()) {
    return wrong();
  }
  call.rows = B, call.tokens = T, call.heads = width / H, call.kv_heads = K;
  call.slots = S, call.head = H, call.ring = ring, call.reach = reach;
  call.epsilon = epsilon, call.scale = scale, call.cap = cap;
  call.query = query.typed_data(), call.key = key.typed_data(), call.value = value.typed_data();
  call.cos = cos.typed_data(), call.sin = sin.typed_data();
  call.start = start.typed_data(), call.length = length.typed_data();
  call.keys = static_cast<char *>(keys.untyped_data());
  call.values = static_cast<char *>(values.untyped_data());
  call.result = result->typed_data();
  if (!take_rest(arguments, results, grouped, call)) return wrong();
  run(call, pool);
  return ffi::Error::Success();
}

}  // namespace
}  // namespace gemma3

GEMMA3_KERNEL(gemma3_cached_attention, gemma3::attention,
              xla::ffi::Ffi::Bind()
                  .Ctx<xla::ffi::ThreadPool>()
                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                  .Arg<xla::ffi::AnyBuffer>()
                  .Arg<xla::ffi::AnyBuffer>()
                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()
                  .Arg<xla::ffi::Buffer<xla::ffi::S32>>()
                  .Arg<xla::ffi::AnyBuffer>()
                  .Arg<xla::ffi::AnyBuffer>()
                  .RemainingArgs()
                  .Attr<float>("epsilon")
                  .Attr<float>("scale")
                  .Attr<float>("cap")
                  .Attr<int32_t>("reach")
                  .Attr<bool>("ring")
                  .Attr<bool>("grouped")
                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                  .Ret<xla::ffi::AnyBuffer>()
                  .Ret<xla::ffi::AnyBuffer>()
                  .RemainingRets())
