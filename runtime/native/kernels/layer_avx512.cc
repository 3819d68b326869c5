// What lies between the products of a layer, with AVX-512 that has no bfloat16.
#if defined(__x86_64__)

#define GEMMA3_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define GEMMA3_LANES 16
#include "chunk.h"
#include "rows.h"

namespace gemma3 {

const LayerForms kAvx512Layer = {GEMMA3_LAYER(Singles)};

}  // namespace gemma3

#endif  // __x86_64__
