// What is done to rows of activations between the products of a layer; see lanes.h.
#ifndef GEMMA3_KERNELS_ROWS_H_
#define GEMMA3_KERNELS_ROWS_H_

#include <cmath>
#include <cstddef>

#include "lanes.h"
#include "layer.h"

namespace gemma3 {
namespace {

// scale / rms of x [size], a multiple of the lanes.
GEMMA3_LANEWISE float rms_factor(const float *x, size_t size, float epsilon, float scale) {
  Floats squares = {};
  for (size_t i = 0; i < size; i += kLanes) {
    const Floats here = load(x + i);
    squares += here * here;
  }
  float sum = 0;
  for (size_t lane = 0; lane < kLanes; ++lane) sum += squares[lane];
  return scale / std::sqrt(sum / static_cast<float>(size) + epsilon);
}

// See LayerForms.
GEMMA3_TARGET void norm_and_turn_here(const float *x, const Norm &norm, const float *cos,
                                      const float *sin, size_t size, float *result) {
  const float factor = rms_factor(x, size, norm.epsilon, norm.scale);
  const size_t half = size / 2;
  for (size_t i = 0; i < half; i += kLanes) {
    const Floats first = load(x + i) * factor * load(norm.gains + i);
    const Floats second = load(x + half + i) * factor * load(norm.gains + half + i);
    store(first * load(cos + i) - second * load(sin + i), result + i);
    store(second * load(cos + i) + first * load(sin + i), result + half + i);
  }
}

GEMMA3_TARGET void norm_here(const float *x, const Norm &norm, size_t size, float *result) {
  const float factor = rms_factor(x, size, norm.epsilon, norm.scale);
  for (size_t i = 0; i < size; i += kLanes) {
    store(load(x + i) * factor * load(norm.gains + i), result + i);
  }
}

GEMMA3_TARGET void gate_here(const float *gate, const float *up, size_t size, float *result) {
  constexpr float kRoot = 0.7978845608f, kCube = 0.044715f;  // of gelu's tanh form
  for (size_t i = 0; i < size; i += kLanes) {
    const Floats x = load(gate + i);
    const Floats inner = 2.0f * kRoot * (x + kCube * x * x * x);
    // (1 + tanh(inner / 2)) / 2, by way of a power that cannot be too large
    const Floats power = exp_of(inner < 0.0f ? inner : -inner);
    const Floats share = (inner < 0.0f ? power : Floats{} + 1.0f) / (1.0f + power);
    store(x * share * load(up + i), result + i);
  }
}

GEMMA3_TARGET void add_norm_here(const float *x, const Norm &norm, const float *residual,
                                 size_t size, float *result) {
  const float factor = rms_factor(x, size, norm.epsilon, norm.scale);
  for (size_t i = 0; i < size; i += kLanes) {
    store(load(residual + i) + load(x + i) * factor * load(norm.gains + i), result + i);
  }
}

// The LayerForms of a file, in order; `kind` is that of the words of its attention.
#define GEMMA3_LAYER(kind)                                                                    \
  kLanes, attend_chunk_of<kind>, chunk_memory_here, norm_and_turn_here, norm_here, gate_here, \
      add_norm_here

}  // namespace
}  // namespace gemma3

#endif  // GEMMA3_KERNELS_ROWS_H_
