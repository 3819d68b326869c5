// What lies between the products of a layer, with AVX2.
#if defined(__x86_64__)

#define GEMMA3_TARGET __attribute__((target("avx2,fma")))
#define GEMMA3_LANES 8
#include "chunk.h"
#include "rows.h"

namespace gemma3 {

const LayerForms kAvx2Layer = {GEMMA3_LAYER(Singles)};

}  // namespace gemma3

#endif  // __x86_64__
