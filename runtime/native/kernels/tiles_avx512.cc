// The tiles with AVX-512 that has no bfloat16.
#if defined(__x86_64__)

#define GEMMA3_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq")))
#define GEMMA3_LANES 16
#include "tile_singles.h"

namespace gemma3 {

// Its dot products of integers are faster for any number of rows.
constexpr size_t kNever = SIZE_MAX;
const Tiles kAvx512Tiles = {GEMMA3_SINGLES, {12, kNever, kNever}};

}  // namespace gemma3

#endif  // __x86_64__
