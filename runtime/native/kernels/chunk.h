// Attention of many query rows over stretches of keys, with a running softmax; see lanes.h.
//
// A panel of query rows lies in the lanes of registers from the first product to the last, so that
// a softmax never adds up lanes; keys and values are read one word at a time, for some panels at
// once.
#ifndef GEMMA3_KERNELS_CHUNK_H_
#define GEMMA3_KERNELS_CHUNK_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "lanes.h"
#include "layer.h"
#include "numbers.h"

namespace gemma3 {
namespace {

// Panels and outputs that are multiplied together: their sums stay in registers.
constexpr size_t kPanelsOfTile = kLanes == 16 ? 4 : 2, kOutputsOfAttend = 6;
// Keys that meet the queries before their weights meet the values.
constexpr size_t kKeysAtOnce = 128;
constexpr float kUnseen = -1e30f;

// The bits of bfloat16 numbers, rounded to even, in the lower halves.
GEMMA3_LANEWISE Words narrowed(const Floats &numbers) {
  const Words bits = (Words)numbers;
  return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
}

// Words of the numbers of each lane.
template <typename Kind>
GEMMA3_LANEWISE Words packed(const Floats *numbers) {
  if constexpr (Kind::kInputsOfWord == 1) {
    return (Words)numbers[0];
  } else {
    return narrowed(numbers[0]) | narrowed(numbers[1]) << 16;
  }
}

// c[panel][output] += a[panel][k] times b[output][k] for all k < depth, all in words.
template <typename Kind, size_t kPanels, size_t kOutputs>
GEMMA3_LANEWISE void tile(const Words *a, size_t panel, const uint32_t *b, size_t output,
                          size_t deeper, size_t depth, bool fresh, Floats *c, size_t c_panel) {
  Floats sums[kPanels][kOutputs];
  for (size_t p = 0; p < kPanels; ++p) {
    for (size_t o = 0; o < kOutputs; ++o) sums[p][o] = fresh ? Floats{} : c[p * c_panel + o];
  }
  for (size_t k = 0; k < depth; ++k) {
    Words rows[kPanels];
#pragma GCC unroll 8
    for (size_t p = 0; p < kPanels; ++p) rows[p] = a[p * panel + k];
#pragma GCC unroll 8
    for (size_t o = 0; o < kOutputs; ++o) {
      const Words everywhere = Words{} + b[o * output + k * deeper];
#pragma GCC unroll 8
      for (size_t p = 0; p < kPanels; ++p) Kind::add(sums[p][o], rows[p], everywhere);
    }
  }
  for (size_t p = 0; p < kPanels; ++p) {
    for (size_t o = 0; o < kOutputs; ++o) c[p * c_panel + o] = sums[p][o];
  }
}

// The same for any number of panels and outputs.
template <typename Kind, size_t kPanels>
GEMMA3_TARGET void multiply_panels(const Words *a, size_t panel, const uint32_t *b, size_t output,
                                   size_t outputs, size_t deeper, size_t depth, bool fresh,
                                   Floats *c, size_t c_panel) {
  size_t o = 0;
  for (; o + kOutputsOfAttend <= outputs; o += kOutputsOfAttend) {
    tile<Kind, kPanels, kOutputsOfAttend>(a, panel, b + o * output, output, deeper, depth, fresh,
                                          c + o, c_panel);
  }
  for (; o + 2 <= outputs; o += 2) {
    tile<Kind, kPanels, 2>(a, panel, b + o * output, output, deeper, depth, fresh, c + o, c_panel);
  }
  for (; o < outputs; ++o) {
    tile<Kind, kPanels, 1>(a, panel, b + o * output, output, deeper, depth, fresh, c + o, c_panel);
  }
}

template <typename Kind>
GEMMA3_LANEWISE void multiply(const Words *a, size_t panel, size_t panels, const uint32_t *b,
                              size_t output, size_t outputs, size_t deeper, size_t depth,
                              bool fresh, Floats *c, size_t c_panel) {
  size_t p = 0;
  for (; p + kPanelsOfTile <= panels; p += kPanelsOfTile) {
    multiply_panels<Kind, kPanelsOfTile>(a + p * panel, panel, b, output, outputs, deeper, depth,
                                         fresh, c + p * c_panel, c_panel);
  }
  for (; p < panels; ++p) {
    multiply_panels<Kind, 1>(a + p * panel, panel, b, output, outputs, deeper, depth, fresh,
                             c + p * c_panel, c_panel);
  }
}

// What a block of queries has met so far, and room for what it meets next.
struct Running {
  Words *queries;        // [panels][head / kInputsOfWord]
  Floats *scores;        // [panels][kKeysAtOnce]
  Words *weights;        // [panels][kKeysAtOnce / kInputsOfWord]
  Floats *mixed;         // [panels][head]
  Floats *peak, *total;  // [panels]
  uint32_t *keys;        // [kKeysAtOnce][head / kInputsOfWord], where keys must be widened
  uint32_t *values;      // [kKeysAtOnce / kInputsOfWord][head]
};

template <typename Kind>
GEMMA3_LANEWISE Running lay_out(const ChunkTask &task, Words *memory) {
  const size_t depth = task.head / Kind::kInputsOfWord, met = kKeysAtOnce / Kind::kInputsOfWord;
  const auto take = [&memory](size_t registers) {
    Words *here = memory;
    memory += registers;
    return here;
  };
  Running room;
  room.queries = take(task.panels * depth);
  room.scores = reinterpret_cast<Floats *>(take(task.panels * kKeysAtOnce));
  room.weights = take(task.panels * met);
  room.mixed = reinterpret_cast<Floats *>(take(task.panels * task.head));
  room.peak = reinterpret_cast<Floats *>(take(task.panels));
  room.total = reinterpret_cast<Floats *>(take(task.panels));
  room.keys = reinterpret_cast<uint32_t *>(take(kKeysAtOnce * depth / kLanes));
  room.values = reinterpret_cast<uint32_t *>(take(met * task.head / kLanes));
  return room;
}

// Rows of queries become words, those of a panel side by side.
template <typename Kind>
GEMMA3_LANEWISE void pack_queries(const ChunkTask &task, Words *words) {
  constexpr size_t kInputs = Kind::kInputsOfWord;
  const size_t depth = task.head / kInputs;
  for (size_t row = 0; row < task.panels * kLanes; ++row) {
    auto *lane = reinterpret_cast<uint32_t *>(words + row / kLanes * depth) + row % kLanes;
    const float *numbers = task.queries + row * task.head;
    for (size_t k = 0; k < depth; ++k) {
      if constexpr (kInputs == 1) {
        std::memcpy(lane + k * kLanes, numbers + k, sizeof *lane);
      } else {
        const uint32_t low = to_bfloat16(numbers[2 * k]), high = to_bfloat16(numbers[2 * k + 1]);
        lane[k * kLanes] = low | high << 16;
      }
    }
  }
}

// A number of the cache as it stands in a word: its float's bits, or their upper half.
template <typename Kind>
GEMMA3_LANEWISE uint32_t bits_of(uint16_t number) {
  return Kind::kInputsOfWord == 2 ? number : static_cast<uint32_t>(number) << 16;
}
template <typename Kind>
GEMMA3_LANEWISE uint32_t bits_of(int8_t number) {
  const float value = number;
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return Kind::kInputsOfWord == 2 ? bits >> 16 : bits;
}

// Keys [count][head] become words in the same order.
template <typename Kind, typename Number>
GEMMA3_LANEWISE const uint32_t *widened_keys(const Number *keys, size_t count, size_t head,
                                             uint32_t *words) {
  if constexpr (Kind::kInputsOfWord == 2 && sizeof(Number) == 2) {
    return reinterpret_cast<const uint32_t *>(keys);
  } else {
    for (size_t i = 0; i < count * head / Kind::kInputsOfWord; ++i) {
      const Number *number = keys + i * Kind::kInputsOfWord;
      words[i] = bits_of<Kind>(number[0]);
      if constexpr (Kind::kInputsOfWord == 2) words[i] |= bits_of<Kind>(number[1]) << 16;
    }
    return words;
  }
}

// Values [count][head] become words [count / kInputsOfWord][head], zeros after the last.
template <typename Kind, typename Number>
GEMMA3_LANEWISE void pack_values(const Number *values, size_t count, size_t head, uint32_t *words) {
  for (size_t s = 0; s < count; s += Kind::kInputsOfWord, words += head) {
    const Number *first = values + s * head, *second = first + head;
    for (size_t i = 0; i < head; ++i) words[i] = bits_of<Kind>(first[i]);
    if (Kind::kInputsOfWord == 2 && s + 1 < count) {
      for (size_t i = 0; i < head; ++i) words[i] |= bits_of<Kind>(second[i]) << 16;
    }
  }
}

// Which lanes see the key at `place`: all bits of theirs.
GEMMA3_LANEWISE Ints seen_by(const ChunkTask &task, size_t panel, int32_t place) {
  const Ints token = reinterpret_cast<const Ints *>(task.places)[panel];
  Ints seen = (token >= place) & (token - task.reach < place);
  if (task.groups != nullptr && place >= 0 && task.groups[place] >= 0) {
    const Ints group = reinterpret_cast<const Ints *>(task.query_groups)[panel];
    seen |= (group == task.groups[place]) & (token < place);
  }
  return seen;
}

// The scores of a panel become weights; what was mixed so far is worth less by what is returned.
template <typename Kind>
GEMMA3_LANEWISE Floats weigh_panel(const ChunkTask &task, const Running &room, size_t panel,
                                   const Stretch &stretch, size_t first, size_t count) {
  Floats *scores = room.scores + panel * kKeysAtOnce;
  Floats peak = room.peak[panel];
  for (size_t s = 0; s < count; ++s) {
    Floats score = scores[s];
    if (stretch.key_scales != nullptr) score *= stretch.key_scales[first + s];
    if (task.cap != 0) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        score[lane] = task.cap * std::tanh(score[lane] / task.cap);
      }
    }
    const Ints seen = seen_by(task, panel, stretch.place + static_cast<int32_t>(first + s));
    score = seen ? score : Floats{} + kUnseen;
    scores[s] = score;
    peak = score > peak ? score : peak;
  }
  const Floats before = exp_of(room.peak[panel] - peak);
  Floats total = room.total[panel] * before;
  Words *weights = room.weights + panel * (kKeysAtOnce / Kind::kInputsOfWord);
  for (size_t s = 0; s < count; s += Kind::kInputsOfWord) {
    Floats numbers[Kind::kInputsOfWord];
    for (size_t n = 0; n < Kind::kInputsOfWord; ++n) {
      const size_t key = s + n;
      numbers[n] = key < count ? exp_of(scores[key] - peak) : Floats{};
      total += numbers[n];
      if (stretch.value_scales != nullptr && key < count) {
        numbers[n] *= stretch.value_scales[first + key];
      }
    }
    weights[s / Kind::kInputsOfWord] = packed<Kind>(numbers);
  }
  room.peak[panel] = peak;
  room.total[panel] = total;
  return before;
}

// The queries meet `count` keys of a stretch, from `first` on, and mix in their values.
template <typename Kind, typename Number>
GEMMA3_TARGET void meet(const ChunkTask &task, const Running &room, const Stretch &stretch,
                        size_t first, size_t count) {
  const size_t head = task.head, depth = head / Kind::kInputsOfWord;
  const auto *keys = static_cast<const Number *>(stretch.keys) + first * head;
  const auto *values = static_cast<const Number *>(stretch.values) + first * head;
  const uint32_t *words = widened_keys<Kind>(keys, count, head, room.keys);
  multiply<Kind>(room.queries, depth, task.panels, words, depth, count, 1, depth, true, room.scores,
                 kKeysAtOnce);
  for (size_t p = 0; p < task.panels; ++p) {
    const Floats before = weigh_panel<Kind>(task, room, p, stretch, first, count);
    bool lessens = false;
    for (size_t lane = 0; lane < kLanes; ++lane) lessens |= before[lane] != 1.0f;
    for (size_t i = 0; lessens && i < head; ++i) room.mixed[p * head + i] *= before;
  }
  pack_values<Kind>(values, count, head, room.values);
  const size_t met = (count + Kind::kInputsOfWord - 1) / Kind::kInputsOfWord;
  multiply<Kind>(room.weights, kKeysAtOnce / Kind::kInputsOfWord, task.panels, room.values, 1, head,
                 head, met, false, room.mixed, head);
}

// See LayerForms: of Singles, which need the most.
GEMMA3_TARGET size_t chunk_memory_here(const ChunkTask &task) {
  const size_t queries = task.panels * (2 * task.head + 2 * kKeysAtOnce + 2);
  return (queries + 2 * kKeysAtOnce * task.head / kLanes) * sizeof(Words);
}

// See AttendChunk.
template <typename Kind>
GEMMA3_TARGET void attend_chunk_of(const ChunkTask &task, const Stretch *stretches, size_t count,
                                   void *memory, float *result) {
  const Running room = lay_out<Kind>(task, static_cast<Words *>(memory));
  pack_queries<Kind>(task, room.queries);
  for (size_t p = 0; p < task.panels; ++p) {
    room.peak[p] = Floats{} + kUnseen;
    room.total[p] = Floats{};
  }
  std::fill_n(room.mixed, task.panels * task.head, Floats{});
  for (size_t i = 0; i < count; ++i) {
    const Stretch &stretch = stretches[i];
    for (size_t first = 0; first < stretch.count; first += kKeysAtOnce) {
      const size_t here = std::min(kKeysAtOnce, stretch.count - first);
      if (task.int8) {
        meet<Kind, int8_t>(task, room, stretch, first, here);
      } else {
        meet<Kind, uint16_t>(task, room, stretch, first, here);
      }
    }
  }
  for (size_t p = 0; p < task.panels; ++p) {
    const Floats share = 1.0f / room.total[p];
    for (size_t i = 0; i < task.head; ++i) room.mixed[p * task.head + i] *= share;
    const auto *mixed = reinterpret_cast<const float *>(room.mixed + p * task.head);
    for (size_t lane = 0; lane < kLanes; ++lane) {
      float *row = result + (p * kLanes + lane) * task.head;
      for (size_t i = 0; i < task.head; ++i) row[i] = mixed[i * kLanes + lane];
    }
  }
}

}  // namespace
}  // namespace gemma3

#endif  // GEMMA3_KERNELS_CHUNK_H_
