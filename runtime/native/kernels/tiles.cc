// The tiles in plain C++, and the choice of tiles.
#define GEMMA3_TARGET
#define GEMMA3_LANES 4  // SSE2 and NEON
#include "tile_singles.h"

namespace gemma3 {

const Tiles kPlainTiles = {GEMMA3_SINGLES, {2, 3, 2}};

std::vector<Tiles> runnable_tiles() {
  std::vector<Tiles> found;
#if defined(__x86_64__)
  if (has_bfloat16()) found.push_back(kBfloat16Tiles);
  if (has_avx512()) found.push_back(kAvx512Tiles);
  if (has_avx2()) found.push_back(kAvx2Tiles);
#endif
  found.push_back(kPlainTiles);
  return found;
}

const Tiles &fastest_tiles() {
  static const Tiles chosen = runnable_tiles().front();
  return chosen;
}

}  // namespace gemma3
