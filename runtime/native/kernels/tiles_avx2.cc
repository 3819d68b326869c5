// The tiles with AVX2.
#if defined(__x86_64__)

#define GEMMA3_TARGET __attribute__((target("avx2,fma")))
#define GEMMA3_LANES 8
#include "tile_singles.h"

namespace gemma3 {

const Tiles kAvx2Tiles = {GEMMA3_SINGLES, {10, 24, 12}};

}  // namespace gemma3

#endif  // __x86_64__
