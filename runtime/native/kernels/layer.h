// What lies between the products of a layer, in the widest form this processor has.
#ifndef GEMMA3_KERNELS_LAYER_H_
#define GEMMA3_KERNELS_LAYER_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gemma3 {

// A block of query rows of one head of the cache. Places are positions from the chunk's first
// token on, negative before it.
struct ChunkTask {
  size_t head;                  // numbers of a head, a multiple of 32
  size_t panels;                // of as many query rows as the form has lanes
  const float *queries;         // [panels * lanes][head], scaled
  const int32_t *places;        // of each query row
  const int32_t *query_groups;  // image of each query row; not read where `groups` is null
  const int32_t *groups;        // image of the token at each place of the chunk, or null
  int32_t reach;                // how many places a token sees, its own and those before it
  float cap;                    // scores become cap * tanh(score / cap) where it is not 0
  bool int8;                    // what keys and values are; otherwise bfloat16
};

// Keys and values [count][head] that lie one after the other, as their places do.
struct Stretch {
  const void *keys, *values;
  const float *key_scales, *value_scales;  // of each, or null
  size_t count;
  int32_t place;  // of the first
};

// result[row] = softmax attention of the rows of `task` over all stretches. Memory is of
// `chunk_memory` bytes and begins at a cache line, as the arrays of `task` do.
using AttendChunk = void (*)(const ChunkTask &task, const Stretch *stretches, size_t count,
                             void *memory, float *result);

// An RMSNorm: x / rms(x) * gains * scale.
struct Norm {
  const float *gains;  // 1 + the weight of each number
  float epsilon, scale;
};

// What one kind of processor does. Sizes are multiples of 32; a result may be what it is made of.
struct LayerForms {
  size_t lanes;  // query rows of a panel: those whose numbers lie side by side in a register
  AttendChunk chunk;
  size_t (*chunk_memory)(const ChunkTask &task);
  // A head [size] of a token, normed, then rotated by half-split pairs; cos and sin are [size / 2].
  // The result is elsewhere.
  void (*norm_and_turn)(const float *x, const Norm &norm, const float *cos, const float *sin,
                        size_t size, float *result);
  void (*norm)(const float *x, const Norm &norm, size_t size, float *result);
  // gelu_tanh(gate) * up
  void (*gate)(const float *gate, const float *up, size_t size, float *result);
  // residual + the norm of x
  void (*add_norm)(const float *x, const Norm &norm, const float *residual, size_t size,
                   float *result);
};

// Those that run on this processor, the fastest first.
std::vector<LayerForms> runnable_layer_forms();

// The fastest of them.
const LayerForms &fastest_layer_forms();

// The forms of one kind of processor; do not call them on another.
extern const LayerForms kPlainLayer;
#if defined(__x86_64__)
extern const LayerForms kAvx2Layer, kAvx512Layer, kBfloat16Layer;
#endif

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_LAYER_H_
