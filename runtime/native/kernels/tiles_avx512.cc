// The tiles with AVX-512 that has no bfloat16.
#if defined(__x86_64__)

#define GEMMA3_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define GEMMA3_LANES 16
#include "tile_forms.h"

namespace gemma3 {

const Tiles kAvx512Tiles = kSingles;

}  // namespace gemma3

#endif  // __x86_64__
