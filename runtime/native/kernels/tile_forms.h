// The tiles, written once for every kind of processor; see lanes.h.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "dots.h"
#include "lanes.h"
#include "numbers.h"
#include "tiles.h"

namespace gemma3 {
namespace {

// Words of panels that pass while their sums are written back once: those and the weights that they
// meet stay near.
constexpr size_t kWordsAtOnce = 1536;
// Words of weights in a cache line.
constexpr size_t kLine = 16;

template <size_t kHalf, size_t... kLane>
GEMMA3_LANEWISE void exchange(Words &low, Words &high, std::index_sequence<kLane...>) {
  const Words first = low, second = high;
#if defined(__clang__)
  low = __builtin_shufflevector(first, second, (kLane & kHalf ? kLanes + kLane - kHalf : kLane)...);
  high =
      __builtin_shufflevector(first, second, (kLane & kHalf ? kLanes + kLane : kLane + kHalf)...);
#else
  low =
      __builtin_shuffle(first, second, Words{(kLane & kHalf ? kLanes + kLane - kHalf : kLane)...});
  high =
      __builtin_shuffle(first, second, Words{(kLane & kHalf ? kLanes + kLane : kLane + kHalf)...});
#endif
}

// A square of words becomes its mirror image: its quarters change places, then theirs.
template <size_t kHalf = kLanes / 2>
GEMMA3_LANEWISE void transpose(Words (&rows)[kLanes]) {
#pragma GCC unroll 16
  for (size_t i = 0; i < kLanes; ++i) {
    if (i & kHalf) continue;
    exchange<kHalf>(rows[i], rows[i + kHalf], std::make_index_sequence<kLanes>());
  }
  if constexpr (kHalf > 1) transpose<kHalf / 2>(rows);
}

// The sums of so many panels and outputs, in registers: [output][panel][lane] at `sums`. They go on
// from what is there where `more`.
template <typename Kind, size_t kPanels, size_t kOutputs>
GEMMA3_TARGET void add_tile(const uint32_t *x, size_t panel, const char *weights, size_t width,
                            size_t words, bool more, float *sums) {
  Floats total[kPanels][kOutputs];
#pragma GCC unroll 16
  for (size_t o = 0; o < kOutputs; ++o) {
#pragma GCC unroll 8
    for (size_t p = 0; p < kPanels; ++p) total[p][o] = Floats{};
  }
  for (size_t line = 0; line < words; line += kLine) {
#pragma GCC unroll 16
    for (size_t o = 0; o < kOutputs; ++o) {
      __builtin_prefetch(weights + (kOutputs + o) * width + 4 * line, 0, 2);
    }
    for (size_t k = line; k < line + kLine; ++k) {
      Words row[kPanels];
#pragma GCC unroll 8
      for (size_t p = 0; p < kPanels; ++p) row[p] = load_words(x + p * panel + k * kLanes);
#pragma GCC unroll 16
      for (size_t o = 0; o < kOutputs; ++o) {
        uint32_t word;
        std::memcpy(&word, weights + o * width + 4 * k, sizeof word);
        const Words everywhere = Words{} + word;
#pragma GCC unroll 8
        for (size_t p = 0; p < kPanels; ++p) Kind::add(total[p][o], row[p], everywhere);
      }
    }
  }
#pragma GCC unroll 16
  for (size_t o = 0; o < kOutputs; ++o) {
#pragma GCC unroll 8
    for (size_t p = 0; p < kPanels; ++p) {
      float *at = sums + (o * kPanels + p) * kLanes;
      if (more) total[p][o] += load(at);
      std::memcpy(at, &total[p][o], sizeof(Floats));
    }
  }
}

// All the sums of so many panels and up to kOutputsOfTile outputs.
template <typename Kind, size_t kPanels>
GEMMA3_TARGET void add_tiles(const uint32_t *x, const char *weights, size_t words, size_t outputs,
                             float *sums) {
  constexpr size_t kMost = kWordsAtOnce / kPanels / kLine * kLine;
  const size_t panel = words * kLanes, width = 4 * words;
  const size_t whole = outputs - outputs % Kind::kOutputs;
  for (size_t k = 0; k < words; k += kMost) {
    const size_t here = std::min(kMost, words - k);
    const uint32_t *row = x + k * kLanes;
    const char *weight = weights + 4 * k;
    for (size_t o = 0; o < whole; o += Kind::kOutputs) {
      add_tile<Kind, kPanels, Kind::kOutputs>(row, panel, weight + o * width, width, here, k > 0,
                                              sums + o * kPanels * kLanes);
    }
    for (size_t o = whole; o < outputs; ++o) {
      add_tile<Kind, kPanels, 1>(row, panel, weight + o * width, width, here, k > 0,
                                 sums + o * kPanels * kLanes);
    }
  }
}

// Sums [output][lane], `between` apart, of a panel become results, a row after the other.
GEMMA3_TARGET void write_panel(const float *sums, size_t between, size_t rows, const float *scale,
                               size_t outputs, float *total, size_t stride) {
  for (size_t first = 0; first < outputs; first += kLanes) {
    const size_t here = std::min(kLanes, outputs - first);
    Words square[kLanes];
#pragma GCC unroll 16
    for (size_t i = 0; i < kLanes; ++i) {
      const size_t o = std::min(first + i, outputs - 1);
      const Floats values = load(sums + o * between);
      square[i] = (Words)(scale == nullptr ? values : values * scale[o]);
    }
    transpose(square);
    if (here == kLanes && rows == kLanes) {
#pragma GCC unroll 16
      for (size_t r = 0; r < kLanes; ++r) {
        std::memcpy(total + r * stride + first, &square[r], sizeof(Words));
      }
    } else {
      for (size_t r = 0; r < rows; ++r) {
        std::memcpy(total + r * stride + first, &square[r], here * sizeof(float));
      }
    }
  }
}

template <typename Kind>
GEMMA3_TARGET void multiply(const uint32_t *panels, size_t rows, const void *weights,
                            const float *scale, size_t words, size_t outputs, float *total,
                            size_t stride) {
  static constexpr decltype(&add_tiles<Kind, 1>) kByPanels[] = {
      add_tiles<Kind, 1>, add_tiles<Kind, 2>, add_tiles<Kind, 3>};
  constexpr size_t kMost = sizeof kByPanels / sizeof *kByPanels;
  alignas(64) float sums[kOutputsOfTile * kMost * kLanes];
  const size_t count = (rows + kLanes - 1) / kLanes, groups = (count + kMost - 1) / kMost;
  for (size_t group = 0; group < groups; ++group) {
    const size_t first = group * count / groups, here = (group + 1) * count / groups - first;
    kByPanels[here - 1](panels + first * words * kLanes, static_cast<const char *>(weights), words,
                        outputs, sums);
    for (size_t p = 0; p < here; ++p) {
      const size_t r = (first + p) * kLanes;
      write_panel(sums + p * kLanes, here * kLanes, std::min(kLanes, rows - r), scale, outputs,
                  total + r * stride, stride);
    }
  }
}

template <typename Kind>
GEMMA3_TARGET void pack(const float *x, size_t rows, size_t inputs, uint32_t *panel) {
  constexpr size_t kInputs = kLanes * Kind::kInputsOfWord;
  for (size_t i = 0; i < inputs; i += kInputs) {
    Words square[kLanes];
#pragma GCC unroll 16
    for (size_t r = 0; r < kLanes; ++r) {
      square[r] = r < rows ? Kind::words_of(x + r * inputs + i) : Words{};
    }
    transpose(square);
#pragma GCC unroll 16
    for (size_t k = 0; k < kLanes; ++k) {
      std::memcpy(panel + i / Kind::kInputsOfWord * kLanes + k * kLanes, &square[k], sizeof(Words));
    }
  }
}

}  // namespace
}  // namespace gemma3
