// The tiles with AVX-512 whose products are of pairs of bfloat16.
#if defined(__x86_64__)

#include "pairs.h"
#include "tile_forms.h"

namespace gemma3 {
namespace {

GEMMA3_LANEWISE __m512 floats_of(__m128i bytes) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

GEMMA3_TARGET void int8_as_pairs(const void *weights, size_t inputs, size_t outputs,
                                 uint32_t *words) {
  const auto *bytes = static_cast<const __m128i *>(weights);
  for (size_t g = 0; g < inputs * outputs / kGroup; ++g, bytes += 2, words += kLanes) {
    const __m512 first = floats_of(_mm_loadu_si128(bytes));
    const Words both = Pairs::pairs(first, floats_of(_mm_loadu_si128(bytes + 1)));
    std::memcpy(words, &both, sizeof both);
  }
}

GEMMA3_TARGET void int4_as_pairs(const void *weights, const void *scale, size_t inputs,
                                 size_t outputs, uint32_t *words) {
  const auto *bytes = static_cast<const __m128i *>(weights);
  const auto *scales = static_cast<const uint16_t *>(scale);
  const __m128i nibble = _mm_set1_epi8(15), eight = _mm_set1_epi8(8);
  for (size_t g = 0; g < inputs * outputs / kGroup; ++g, words += kLanes) {
    const __m128i packed = _mm_loadu_si128(bytes + g);
    const __m128i low = _mm_and_si128(packed, nibble);
    const __m128i high = _mm_and_si128(_mm_srli_epi16(packed, 4), nibble);
    const __m512 factor = _mm512_set1_ps(from_bfloat16(scales[g]));
    const Words both = Pairs::pairs(_mm512_mul_ps(floats_of(_mm_sub_epi8(low, eight)), factor),
                                    _mm512_mul_ps(floats_of(_mm_sub_epi8(high, eight)), factor));
    std::memcpy(words, &both, sizeof both);
  }
}

}  // namespace

const Tiles kBfloat16Tiles = {
    kLanes, 2, pack<Pairs>, nullptr, int8_as_pairs, int4_as_pairs, multiply<Pairs>, {3, 16, 16}};

}  // namespace gemma3

#endif  // __x86_64__
