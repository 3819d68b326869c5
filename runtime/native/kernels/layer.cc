// What lies between the products of a layer in plain C++, and the choice of form.
#define GEMMA3_TARGET
#define GEMMA3_LANES 4  // SSE2 and NEON
#include "chunk.h"
#include "dots.h"
#include "rows.h"

namespace gemma3 {

const LayerForms kPlainLayer = {GEMMA3_LAYER(Singles)};

std::vector<LayerForms> runnable_layer_forms() {
  std::vector<LayerForms> found;
#if defined(__x86_64__)
  if (has_bfloat16()) found.push_back(kBfloat16Layer);
  if (has_avx512()) found.push_back(kAvx512Layer);
  if (has_avx2()) found.push_back(kAvx2Layer);
#endif
  found.push_back(kPlainLayer);
  return found;
}

const LayerForms &fastest_layer_forms() {
  static const LayerForms chosen = runnable_layer_forms().front();
  return chosen;
}

}  // namespace gemma3
