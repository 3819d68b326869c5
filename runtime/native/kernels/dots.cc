#include "dots.h"

#include <algorithm>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace gemma3 {
namespace {

float from_bfloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

void plain_int4(const Activations *x, int rows, const uint8_t *packed,
                const uint16_t *scale, size_t inputs, float *total) {
  const size_t groups = inputs / kGroup, half = kGroup / 2;
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < kInt4Outputs; ++o) {
      float sum = 0;
      for (size_t g = 0; g < groups; ++g) {
        const size_t block = g * kGroup / kBlock, place = g % (kBlock / kGroup);
        const int8_t *low = x[r].numbers + block * kBlock + place * half;
        const int8_t *high = low + kBlock / 2;
        const uint8_t *bytes = packed + (o * groups + g) * half;
        int32_t part = 0;
        for (size_t i = 0; i < half; ++i) {
          part += low[i] * ((bytes[i] & 15) - 8) + high[i] * ((bytes[i] >> 4) - 8);
        }
        sum += from_bfloat16(scale[o * groups + g]) * x[r].steps[g] * static_cast<float>(part);
      }
      total[r * kInt4Outputs + o] = sum;
    }
  }
}

#if defined(__x86_64__)

#define GEMMA3_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))
#define GEMMA3_AVX2 __attribute__((target("avx2,fma")))

// Factors of four groups, each in the four lanes where the sums of its inputs are.
GEMMA3_AVX512 inline __m512 in_lanes(__m128i factors) {
  const __m512i spread = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  const __m512i wide = _mm512_castsi128_si512(factors);
  return _mm512_castsi512_ps(_mm512_permutexvar_epi32(spread, wide));
}

GEMMA3_AVX512 inline __m512 group_scales(const uint16_t *scale, size_t count) {
  const __mmask8 mask = count >= 4 ? 0xF : static_cast<__mmask8>((1u << count) - 1);
  const __m128i bits = _mm_maskz_loadu_epi16(mask, scale);
  return in_lanes(_mm_slli_epi32(_mm_cvtepu16_epi32(bits), 16));
}

template <int kRows>
GEMMA3_AVX512 void vnni_int4_rows(const Activations *x, const uint8_t *packed,
                                  const uint16_t *scale, size_t inputs, float *total) {
  const __m512i nibble = _mm512_set1_epi8(15), eight = _mm512_set1_epi8(8);
  const size_t groups = inputs / kGroup;
  __m512 sums[kRows][kInt4Outputs];
  for (auto &row : sums) {
    for (auto &sum : row) sum = _mm512_setzero_ps();
  }
  for (size_t g = 0; g < groups; g += 4) {
    const size_t count = std::min<size_t>(4, groups - g);
    const __mmask64 mask = count == 4 ? ~0ULL : (1ULL << (count * 16)) - 1;
    __m512i low_x[kRows], high_x[kRows], excess[kRows];
    __m512 steps[kRows];
    for (int r = 0; r < kRows; ++r) {
      const int8_t *block = x[r].numbers + g * kGroup;
      low_x[r] = _mm512_loadu_si512(block);
      high_x[r] = _mm512_loadu_si512(block + kBlock / 2);
      excess[r] = _mm512_dpbusd_epi32(_mm512_setzero_si512(), eight, low_x[r]);
      excess[r] = _mm512_dpbusd_epi32(excess[r], eight, high_x[r]);
      steps[r] = in_lanes(_mm_castps_si128(_mm_loadu_ps(x[r].steps + g)));
    }
    for (int o = 0; o < kInt4Outputs; ++o) {
      const size_t first = o * groups + g;
      const __m512i bytes = _mm512_maskz_loadu_epi8(mask, packed + first * (kGroup / 2));
      const __m512i low = _mm512_and_si512(bytes, nibble);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
      const __m512 factors = group_scales(scale + first, count);
      for (int r = 0; r < kRows; ++r) {
        __m512i part = _mm512_dpbusd_epi32(_mm512_setzero_si512(), low, low_x[r]);
        part = _mm512_dpbusd_epi32(part, high, high_x[r]);
        part = _mm512_sub_epi32(part, excess[r]);
        const __m512 both = _mm512_mul_ps(factors, steps[r]);
        sums[r][o] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part), both, sums[r][o]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int o = 0; o < kInt4Outputs; ++o) {
      total[r * kInt4Outputs + o] = _mm512_reduce_add_ps(sums[r][o]);
    }
  }
}

GEMMA3_AVX512 void vnni_int4(const Activations *x, int rows, const uint8_t *packed,
                             const uint16_t *scale, size_t inputs, float *total) {
  switch (rows) {
    case 1: return vnni_int4_rows<1>(x, packed, scale, inputs, total);
    case 2: return vnni_int4_rows<2>(x, packed, scale, inputs, total);
    case 3: return vnni_int4_rows<3>(x, packed, scale, inputs, total);
    default: return vnni_int4_rows<4>(x, packed, scale, inputs, total);
  }
}

// Products of pairs stay within 16 bits: |weight| is at most 127 and so is |x|.
GEMMA3_AVX2 inline __m256i signed_products(__m256i weight, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weight), _mm256_sign_epi8(x, weight));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

GEMMA3_AVX2 void avx2_int4(const Activations *x, int rows, const uint8_t *packed,
                           const uint16_t *scale, size_t inputs, float *total) {
  const size_t groups = inputs / kGroup, half = kGroup / 2;
  const __m256i nibble = _mm256_set1_epi8(15), eight = _mm256_set1_epi8(8);
  for (int r = 0; r < rows; ++r) {
    for (int o = 0; o < kInt4Outputs; ++o) {
      __m256 sum = _mm256_setzero_ps();
      for (size_t g = 0; g < groups; ++g) {
        const size_t place = g % (kBlock / kGroup);
        const int8_t *low = x[r].numbers + g / (kBlock / kGroup) * kBlock + place * half;
        const auto at = [](const void *p) {
          return _mm_loadu_si128(static_cast<const __m128i *>(p));
        };
        const __m256i inputs_of_group = _mm256_set_m128i(at(low + kBlock / 2), at(low));
        const __m128i bytes = at(packed + (o * groups + g) * half);
        const __m256i both = _mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes);
        const __m256i numbers = _mm256_sub_epi8(_mm256_and_si256(both, nibble), eight);
        const __m256i part = signed_products(numbers, inputs_of_group);
        const float steps = from_bfloat16(scale[o * groups + g]) * x[r].steps[g];
        const __m256 factor = _mm256_set1_ps(steps);
        sum = _mm256_fmadd_ps(_mm256_cvtepi32_ps(part), factor, sum);
      }
      float lanes[8], added = 0;
      _mm256_storeu_ps(lanes, sum);
      for (float lane : lanes) added += lane;
      total[r * kInt4Outputs + o] = added;
    }
  }
}

#endif  // __x86_64__

}  // namespace

std::vector<Int4Dots> runnable_dots() {
  std::vector<Int4Dots> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    found.push_back(vnni_int4);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    found.push_back(avx2_int4);
  }
#endif
  found.push_back(plain_int4);
  return found;
}

Int4Dots int4_dots() {
  static const Int4Dots chosen = runnable_dots().front();
  return chosen;
}

void arrange_for_int4(const int8_t *x, size_t inputs, int8_t *arranged) {
  constexpr size_t half = kGroup / 2;
  std::memset(arranged, 0, arranged_bytes(inputs));
  for (size_t g = 0; g * kGroup < inputs; ++g) {
    const int8_t *group = x + g * kGroup;
    int8_t *low = arranged + g / (kBlock / kGroup) * kBlock + g % (kBlock / kGroup) * half;
    std::memcpy(low, group, half);
    std::memcpy(low + kBlock / 2, group + half, half);
  }
}

}  // namespace gemma3
