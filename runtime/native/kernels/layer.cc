// What lies between the products of a layer in plain C++, and the choice of form.
#define GEMMA3_TARGET
#define GEMMA3_LANES 4  // SSE2 and NEON
#include "chunk.h"
#include "processor.h"
#include "rows.h"

namespace gemma3 {

const LayerForms kPlainLayer = {GEMMA3_LAYER(Singles)};

std::vector<LayerForms> runnable_layer_forms() {
#if defined(__x86_64__)
  return runnable<LayerForms>(&kBfloat16Layer, &kAvx512Layer, &kAvx2Layer, kPlainLayer);
#else
  return {kPlainLayer};
#endif
}

const LayerForms &fastest_layer_forms() {
  static const LayerForms chosen = runnable_layer_forms().front();
  return chosen;
}

}  // namespace gemma3
