// Registers full of numbers, as compilers lay them out for any processor. What is made of them is
// written once: a file of its own for each kind of processor includes it after it has defined
// GEMMA3_TARGET, the attribute that names the processor, and GEMMA3_LANES, the words of its
// registers. A function that another kind of processor compiled could not be inlined.
#ifndef GEMMA3_KERNELS_LANES_H_
#define GEMMA3_KERNELS_LANES_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace gemma3 {
namespace {

constexpr size_t kLanes = GEMMA3_LANES;

// Registers, wherever they lie. A cast between them leaves their bits as they are.
typedef uint32_t Words __attribute__((vector_size(4 * GEMMA3_LANES), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * GEMMA3_LANES), may_alias));
typedef float Floats __attribute__((vector_size(4 * GEMMA3_LANES), may_alias));

#define GEMMA3_LANEWISE GEMMA3_TARGET static inline __attribute__((always_inline))

// Arrays of programs begin anywhere.
GEMMA3_LANEWISE Words load_words(const void *from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}
GEMMA3_LANEWISE Floats load(const float *from) { return (Floats)load_words(from); }
GEMMA3_LANEWISE void store(const Floats &numbers, float *to) {
  std::memcpy(to, &numbers, sizeof numbers);
}

// Words that are floats. See pairs.h for others.
struct Singles {
  static constexpr size_t kInputsOfWord = 1;
  static constexpr size_t kOutputs = kLanes == 16 ? 8 : 4;  // what the registers have room for

  GEMMA3_LANEWISE void add(Floats &sum, Words x, Words weight) {
    sum += (Floats)x * (Floats)weight;
  }
  // Rounded to bfloat16.
  GEMMA3_LANEWISE Words words_of(const float *x) {
    const Words bits = load_words(x);
    return (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000u;
  }
};

// exp of numbers up to 0, as exp_below_0 in mix.h.
GEMMA3_LANEWISE Floats exp_of(Floats x) {
  constexpr float kRound = 12582912.0f;
  x = x < -87.0f ? Floats{} - 87.0f : x;
  const Floats whole = (x * 1.44269504f + kRound) - kRound;
  const Floats rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
  Floats value = 1.9875691500e-4f * rest + 1.3981999507e-3f;
  value = value * rest + 8.3334519073e-3f;
  value = value * rest + 4.1665795894e-2f;
  value = value * rest + 1.6666665459e-1f;
  value = value * rest + 5.0000001201e-1f;
  value = value * rest * rest + rest + 1.0f;
  const Ints power = (__builtin_convertvector(whole, Ints) + 127) << 23;
  return value * (Floats)power;
}

}  // namespace
}  // namespace gemma3

#endif  // GEMMA3_KERNELS_LANES_H_
