// The dot products with AVX2.
#include "dots.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "mix.h"
#include "numbers.h"

#define GEMMA3_AVX2 __attribute__((target("avx2,fma")))

namespace gemma3 {
namespace {

GEMMA3_AVX2 inline float added_up(__m256 sum) {
  float lanes[8], total = 0;
  _mm256_storeu_ps(lanes, sum);
  for (float lane : lanes) total += lane;
  return total;
}

// A word of 32 bits holds two weights: the upper half of a float, and another above it.
GEMMA3_AVX2 void avx2_bfloat16(const Activations *x, int rows, const void *weights, const void *,
                               size_t inputs, size_t outputs, float *total, size_t stride) {
  const auto *numbers = static_cast<const uint16_t *>(weights);
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xFFFF0000u));
  for (size_t o = 0; o < outputs; ++o) {
    __m256 sums[kTileRows] = {};
    for (size_t g = 0; g < inputs; g += kGroup) {
      for (size_t half = 0; half < 2; ++half) {
        const auto *at = reinterpret_cast<const __m256i *>(numbers + o * inputs + g) + half;
        const __m256i words = _mm256_loadu_si256(at);
        const __m256 low = _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
        const __m256 high = _mm256_castsi256_ps(_mm256_and_si256(words, upper));
        for (int r = 0; r < rows; ++r) {
          const float *even = static_cast<const float *>(x[r].numbers) + g + 8 * half;
          sums[r] = _mm256_fmadd_ps(low, _mm256_loadu_ps(even), sums[r]);
          sums[r] = _mm256_fmadd_ps(high, _mm256_loadu_ps(even + kGroup / 2), sums[r]);
        }
      }
    }
    for (int r = 0; r < rows; ++r) total[r * stride + o] = added_up(sums[r]);
  }
}

// Products of pairs stay within 16 bits: |weight| is at most 128 and |x| at most 127.
GEMMA3_AVX2 inline __m256i signed_products(__m256i weight, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x, weight));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

GEMMA3_AVX2 void avx2_int8(const Activations *x, int rows, const void *weights, const void *scale,
                           size_t inputs, size_t outputs, float *total, size_t stride) {
  const auto *numbers = static_cast<const int8_t *>(weights);
  const __m256i added = _mm256_set1_epi8(static_cast<char>(128));
  for (size_t o = 0; o < outputs; ++o) {
    __m256 sums[kTileRows] = {};
    for (size_t i = 0; i < inputs; i += kGroup) {
      const auto *at = reinterpret_cast<const __m256i *>(numbers + o * inputs + i);
      const __m256i weight = _mm256_loadu_si256(at);
      for (int r = 0; r < rows; ++r) {
        const auto *bytes = static_cast<const uint8_t *>(x[r].numbers) + i;
        const __m256i row =
            _mm256_xor_si256(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(bytes)), added);
        const __m256 part = _mm256_cvtepi32_ps(signed_products(weight, row));
        const __m256 steps = _mm256_loadu_ps(x[r].steps + i / kGroup * kInt8Steps);
        sums[r] = _mm256_fmadd_ps(part, steps, sums[r]);
      }
    }
    for (int r = 0; r < rows; ++r) {
      total[r * stride + o] = added_up(sums[r]) * static_cast<const float *>(scale)[o];
    }
  }
}

GEMMA3_AVX2 void avx2_int4(const Activations *x, int rows, const void *weights, const void *scale,
                           size_t inputs, size_t outputs, float *total, size_t stride) {
  const auto *packed = static_cast<const uint8_t *>(weights);
  const auto *scales = static_cast<const uint16_t *>(scale);
  const size_t groups = inputs / kGroup, half = kGroup / 2;
  const __m256i nibble = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);
  const auto at = [](const void *p) { return _mm_loadu_si128(static_cast<const __m128i *>(p)); };
  for (size_t o = 0; o < outputs; ++o) {
    for (int r = 0; r < rows; ++r) {
      __m256 sum = _mm256_setzero_ps();
      for (size_t g = 0; g < groups; ++g) {
        const size_t place = g % (kBlock / kGroup);
        const int8_t *low = static_cast<const int8_t *>(x[r].numbers) +
                            g / (kBlock / kGroup) * kBlock + place * half;
        const __m256i inputs_of_group = _mm256_set_m128i(at(low + kBlock / 2), at(low));
        const __m128i bytes = at(packed + (o * groups + g) * half);
        const __m256i both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
        const __m256i numbers = _mm256_sub_epi8(_mm256_and_si256(both, nibble), eight);
        const __m256i part = signed_products(numbers, inputs_of_group);
        const float steps = from_bfloat16(scales[o * groups + g]) * x[r].steps[g * kInt4Steps];
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(part), _mm256_set1_ps(steps), sum);
      }
      total[r * stride + o] = added_up(sum);
    }
  }
}

GEMMA3_VECTORISED(GEMMA3_AVX2)
GEMMA3_VECTORISED_MIX(GEMMA3_AVX2)

}  // namespace

const Forms kAvx2Forms = {avx2_bfloat16, avx2_int8, avx2_int4, float_by_int8,
                          mix_bfloat16,  mix_int8,  weigh,     round_row};

}  // namespace gemma3

#endif  // __x86_64__
