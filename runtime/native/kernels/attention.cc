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

#include "attention_call.h"
#include "dots.h"
#include "handler.h"
#include "operand.h"
#include "share.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {
namespace {

namespace ffi = xla::ffi;

// Tokens whose keys and values are made by one task.
constexpr size_t kTokensOfTask = 16;

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
  share_if(parts > 1, pool, call.rows * parts, make);
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
  return buffer.element_type() == type && is_mapped(buffer) &&
         std::equal(dimensions.begin(), dimensions.end(), shape.begin(), shape.end());
}

ffi::Error wrong() {
  return ffi::Error::InvalidArgument(
      "gemma3_cached_attention: arrays do not belong together, "
      "or a number is out of range");
}

// Whether the sizes of a call, from which those of all its arrays follow, and its other numbers are
// ones that it can be made with. start, length and groups may be any.
bool has_numbers(ffi::AnyBuffer::Dimensions query, ffi::AnyBuffer::Dimensions keys, float epsilon,
                 float scale, float cap, int32_t reach) {
  if (query.size() != 3 || keys.size() != 4) return false;
  if (!std::all_of(query.begin(), query.end(), is_size)) return false;
  if (!std::all_of(keys.begin(), keys.end(), is_size)) return false;
  return keys[3] % static_cast<int64_t>(kGroup) == 0 && query[2] % (keys[1] * keys[3]) == 0 &&
         std::isfinite(epsilon) && epsilon >= 0 && std::isfinite(scale) && std::isfinite(cap) &&
         cap >= 0 && reach >= 1;
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
    if (!given || !made || !is(*given, ffi::F32, {B, K, S}) || !is(**made, ffi::F32, {B, K, S}) ||
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
  if (!has_numbers(query.dimensions(), keys.dimensions(), epsilon, scale, cap, reach)) {
    return wrong();
  }
  const int64_t B = query.dimensions()[0], T = query.dimensions()[1], width = query.dimensions()[2];
  const int64_t K = keys.dimensions()[1], S = keys.dimensions()[2], H = keys.dimensions()[3];
  Call call = {};
  call.int8 = keys.element_type() == ffi::S8;
  const ffi::DataType type = call.int8 ? ffi::S8 : ffi::BF16;
  if (!is(query, ffi::F32, {B, T, width}) || !is(key, ffi::F32, {B, T, K * H}) ||
      !is(value, ffi::F32, {B, T, K * H}) || !read_gains(query_norm, H, call.query_gains) ||
      !read_gains(key_norm, H, call.key_gains) || !is(cos, ffi::F32, {B, T, H / 2}) ||
      !is(sin, ffi::F32, {B, T, H / 2}) || !is(start, ffi::S32, {B}) ||
      !is(length, ffi::S32, {B}) || !is(keys, type, {B, K, S, H}) ||
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
