// Products of many rows of activations, tile by tile: rows in the lanes of registers, weights
// broadcast to them in the order in which they lie.
#ifndef GEMMA3_KERNELS_TILES_H_
#define GEMMA3_KERNELS_TILES_H_

#include <cstddef>
#include <cstdint>
#include <vector>

namespace gemma3 {

// Outputs of one call of `multiply` at most: their sums stay in a core's first cache, and whole
// lines of results are written.
constexpr size_t kOutputsOfTile = 64;

// What one kind of processor does. A word of 32 bits is a float, or a pair of bfloat16; activations
// are rounded to bfloat16 by all of them, as model/lowering/forms.py's `narrow_product` does.
struct Tiles {
  size_t lanes;           // rows of a panel
  size_t inputs_of_word;  // 1 or 2

  // Up to `lanes` rows of x become a panel of words [inputs / inputs_of_word][lanes], 0 where there
  // is no row.
  void (*pack)(const float *x, size_t rows, size_t inputs, uint32_t *panel);

  // Weights as they are stored (see Dots) become words [outputs][inputs / inputs_of_word]. bfloat16
  // that come in pairs need not: null. Of int8 the scales are left to `multiply`; int4 times its
  // scale is rounded to bfloat16.
  void (*widen_bfloat16)(const void *weights, size_t inputs, size_t outputs, uint32_t *words);
  void (*widen_int8)(const void *weights, size_t inputs, size_t outputs, uint32_t *words);
  void (*widen_int4)(const void *weights, const void *scale, size_t inputs, size_t outputs,
                     uint32_t *words);

  // total[r * stride + o] = the product of row r, of the panels one after the other, and output o,
  // times scale[o] where there is a scale. Outputs are at most kOutputsOfTile; `weights` are words
  // of any alignment.
  void (*multiply)(const uint32_t *panels, size_t rows, const void *weights, const float *scale,
                   size_t words, size_t outputs, float *total, size_t stride);

  // From how many rows on they are faster than the dot products of the same processor, beside
  // weights of each kind.
  struct {
    size_t bfloat16, int8, int4;
  } fewest_rows;
};

// Those that run on this processor, the fastest first: AVX-512 with bfloat16, AVX-512, AVX2, plain.
std::vector<Tiles> runnable_tiles();

// The fastest of them.
const Tiles &fastest_tiles();

// Of one kind of processor; do not call them on another.
extern const Tiles kPlainTiles;
#if defined(__x86_64__)
extern const Tiles kAvx2Tiles, kAvx512Tiles, kBfloat16Tiles;
#endif

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_TILES_H_
