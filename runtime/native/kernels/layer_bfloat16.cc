// What lies between the products of a layer, with AVX-512 and its products of bfloat16 pairs.
#if defined(__x86_64__)

#include "pairs.h"
#include "chunk.h"
#include "rows.h"

namespace gemma3 {

const LayerForms kBfloat16Layer = {GEMMA3_LAYER(Pairs)};

}  // namespace gemma3

#endif  // __x86_64__
