// The tiles with AVX2.
#if defined(__x86_64__)

#define GEMMA3_TARGET __attribute__((target("avx2,fma")))
#define GEMMA3_LANES 8
#include "tile_forms.h"

namespace gemma3 {

const Tiles kAvx2Tiles = kSingles;

}  // namespace gemma3

#endif  // __x86_64__
