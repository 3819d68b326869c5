// A call of gemma3_cached_attention, and what its parts share.
#ifndef GEMMA3_KERNELS_ATTENTION_CALL_H_
#define GEMMA3_KERNELS_ATTENTION_CALL_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "layer.h"
#include "memory.h"
#include "xla/ffi/api/ffi.h"

namespace gemma3 {

// Its sizes and its arrays; see attention.cc.
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
  // A query head of a token as it meets keys, and a key as it meets queries.
  void make_query(size_t row, size_t token, size_t which, float *to) const {
    const float *from = query + ((row * tokens + token) * heads + which) * head;
    turn(from, query_gains, scale, row, token, to);
  }
  void make_key(size_t row, size_t token, size_t which, float *to) const {
    const float *from = key + ((row * tokens + token) * kv_heads + which) * head;
    turn(from, key_gains, 1.0f, row, token, to);
  }

 private:
  void turn(const float *from, const std::vector<float> &gains, float factor, size_t row,
            size_t token, float *to) const {
    const size_t angles = (row * tokens + token) * head / 2;
    fastest_layer_forms().norm_and_turn(from, {gains.data(), epsilon, factor}, cos + angles,
                                        sin + angles, head, to);
  }
};

// The keys and values of a call's own tokens as the cache keeps them: [B,K,T,H].
class Own {
 public:
  explicit Own(const Call &call);
  // Those of a row's tokens from `first` to `last`.
  void make(size_t row, size_t first, size_t last);
  // Those of `count` tokens of a head of all rows together.
  Stretch stretch(size_t head, size_t token, size_t count);

 private:
  float *scale(size_t which, size_t at);

  const Call &call_;
  Aligned<char> keys_, values_;
  Aligned<float> scales_;
};

// The slots of a head that tokens from `token` on may see, oldest first, as they lie.
std::vector<Stretch> held(const Call &call, size_t head, size_t token);

// The results of a call with one token a row: stretches of the cache are read by several threads
// and met in one softmax.
void attend_one_token(const Call &call, Own &own, xla::ffi::ThreadPool &pool);

// The results of a call with many: blocks of them, of a head each, the longest way back first.
void attend_many_tokens(const Call &call, Own &own, xla::ffi::ThreadPool &pool);

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_ATTENTION_CALL_H_
