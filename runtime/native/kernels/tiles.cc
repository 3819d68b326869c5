// The tiles in plain C++, and the choice of tiles.
#define GEMMA3_TARGET
#define GEMMA3_LANES 4  // SSE2 and NEON
#include "processor.h"
#include "tile_singles.h"

namespace gemma3 {

const Tiles kPlainTiles = {GEMMA3_SINGLES, {2, 3, 2}};

std::vector<Tiles> runnable_tiles() {
#if defined(__x86_64__)
  return runnable<Tiles>(&kBfloat16Tiles, &kAvx512Tiles, &kAvx2Tiles, kPlainTiles);
#else
  return {kPlainTiles};
#endif
}

const Tiles &fastest_tiles() {
  static const Tiles chosen = runnable_tiles().front();
  return chosen;
}

}  // namespace gemma3
