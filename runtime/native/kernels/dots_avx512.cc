// The dot products with AVX-512, those of integers with VNNI.
#include "dots.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#include "mix.h"
#include "numbers.h"

#define GEMMA3_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")))

namespace gemma3 {
namespace {

// The sums of the lanes of four registers, in order.
GEMMA3_AVX512 inline __m128 four_totals(const __m512 (&sums)[4]) {
  const __m512 first =
      _mm512_add_ps(_mm512_unpacklo_ps(sums[0], sums[1]), _mm512_unpackhi_ps(sums[0], sums[1]));
  const __m512 second =
      _mm512_add_ps(_mm512_unpacklo_ps(sums[2], sums[3]), _mm512_unpackhi_ps(sums[2], sums[3]));
  const __m512 lanes =
      _mm512_add_ps(_mm512_shuffle_ps(first, second, 0x44), _mm512_shuffle_ps(first, second, 0xEE));
  const __m256 upper = _mm512_extractf32x8_ps(lanes, 1);
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(lanes), upper);
  return _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
}

// A word of 32 bits holds two bfloat16 numbers: the upper half of a float, and another above it.
GEMMA3_AVX512 inline void floats_of(__m512i words, __m512 &low, __m512 &high) {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000u));
  low = _mm512_castsi512_ps(_mm512_slli_epi32(words, 16));
  high = _mm512_castsi512_ps(_mm512_and_si512(words, upper));
}

struct Bfloat16 {
  static size_t weight_bytes(size_t inputs) { return 2 * inputs; }
  static size_t scale_bytes(size_t) { return 0; }

  template <int kRows>
  GEMMA3_AVX512 static void add(const Activations *x, const char *weights, const char *,
                                size_t inputs, __m512 (&sums)[kRows]) {
    __m512 odd[kRows];
    for (int r = 0; r < kRows; ++r) odd[r] = _mm512_setzero_ps();
    for (size_t i = 0; i < inputs; i += kGroup) {
      __m512 low, high;
      floats_of(_mm512_loadu_si512(weights + 2 * i), low, high);
      for (int r = 0; r < kRows; ++r) {
        const float *row = static_cast<const float *>(x[r].numbers) + i;
        sums[r] = _mm512_fmadd_ps(low, _mm512_loadu_ps(row), sums[r]);
        odd[r] = _mm512_fmadd_ps(high, _mm512_loadu_ps(row + kGroup / 2), odd[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) sums[r] = _mm512_add_ps(sums[r], odd[r]);
  }

  GEMMA3_AVX512 static __m128 scaled(__m128 totals, const char *, __mmask8) { return totals; }
};

// VNNI multiplies unsigned by signed bytes, so that x comes with 128 added to it.
struct Int8 {
  static size_t weight_bytes(size_t inputs) { return inputs; }
  static size_t scale_bytes(size_t) { return sizeof(float); }

  template <int kRows>
  GEMMA3_AVX512 static void add(const Activations *x, const char *weights, const char *,
                                size_t inputs, __m512 (&sums)[kRows]) {
    constexpr size_t kWidth = 2 * kGroup;
    const __m512i added = _mm512_set1_epi8(static_cast<char>(128)), zero = _mm512_setzero_si512();
    for (size_t i = 0; i < inputs; i += kWidth) {
      const __mmask64 mask = inputs - i >= kWidth ? ~0ULL : (1ULL << kGroup) - 1;
      const __m512i numbers = _mm512_maskz_loadu_epi8(mask, weights + i);
      const __m512i less = _mm512_sub_epi32(zero, _mm512_dpbusd_epi32(zero, added, numbers));
      for (int r = 0; r < kRows; ++r) {
        const auto *row = static_cast<const uint8_t *>(x[r].numbers) + i;
        const __m512i part = _mm512_dpbusd_epi32(less, _mm512_loadu_si512(row), numbers);
        const __m512 steps = _mm512_loadu_ps(x[r].steps + i / kGroup * kInt8Steps);
        sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part), steps, sums[r]);
      }
    }
  }

  GEMMA3_AVX512 static __m128 scaled(__m128 totals, const char *scale, __mmask8 mask) {
    return _mm_mul_ps(totals, _mm_maskz_loadu_ps(mask, scale));
  }
};

struct Int4 {
  static size_t weight_bytes(size_t inputs) { return inputs / 2; }
  static size_t scale_bytes(size_t inputs) { return inputs / kGroup * sizeof(uint16_t); }

  // Scales of up to four groups, each in the four lanes where the sums of its inputs are.
  GEMMA3_AVX512 static __m512 in_lanes(const char *scale, size_t count) {
    const __m512i spread = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    const __mmask8 mask = count >= 4 ? 0xF : static_cast<__mmask8>((1u << count) - 1);
    const __m128i bits = _mm_maskz_loadu_epi16(mask, scale);
    const __m512i wide = _mm512_castsi128_si512(_mm_slli_epi32(_mm_cvtepu16_epi32(bits), 16));
    return _mm512_castsi512_ps(_mm512_permutexvar_epi32(spread, wide));
  }

  template <int kRows>
  GEMMA3_AVX512 static void add(const Activations *x, const char *weights, const char *scale,
                                size_t inputs, __m512 (&sums)[kRows]) {
    const __m512i nibble = _mm512_set1_epi8(15);
    const size_t groups = inputs / kGroup;
    for (size_t g = 0; g < groups; g += 4) {
      const size_t count = std::min<size_t>(4, groups - g);
      const __mmask64 mask = count == 4 ? ~0ULL : (1ULL << (count * 16)) - 1;
      const __m512i bytes = _mm512_maskz_loadu_epi8(mask, weights + g * (kGroup / 2));
      const __m512i low = _mm512_and_si512(bytes, nibble);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), nibble);
      const __m512 factors = in_lanes(scale + g * sizeof(uint16_t), count);
      for (int r = 0; r < kRows; ++r) {
        const int8_t *row = static_cast<const int8_t *>(x[r].numbers) + g * kGroup;
        __m512i part = _mm512_loadu_si512(x[r].offsets + g / 4 * kOffsets);
        part = _mm512_dpbusd_epi32(part, low, _mm512_loadu_si512(row));
        part = _mm512_dpbusd_epi32(part, high, _mm512_loadu_si512(row + kBlock / 2));
        const __m512 both = _mm512_mul_ps(factors, _mm512_loadu_ps(x[r].steps + g * kInt4Steps));
        sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(part), both, sums[r]);
      }
    }
  }

  GEMMA3_AVX512 static __m128 scaled(__m128 totals, const char *, __mmask8) { return totals; }
};

// Outputs one after the other, the lanes of four of them added up together.
template <typename Kind, int kRows>
GEMMA3_AVX512 void dots_of_rows(const Activations *x, const char *weights, const char *scale,
                                size_t inputs, size_t outputs, float *total, size_t stride) {
  const size_t width = Kind::weight_bytes(inputs), scales = Kind::scale_bytes(inputs);
  for (size_t o = 0; o < outputs; o += 4) {
    const size_t count = std::min<size_t>(4, outputs - o);
    const auto mask = static_cast<__mmask8>((1u << count) - 1);
    __m512 sums[kRows][4];
    for (auto &row : sums) {
      for (auto &sum : row) sum = _mm512_setzero_ps();
    }
    for (size_t k = 0; k < count; ++k) {
      __m512 here[kRows];
      for (int r = 0; r < kRows; ++r) here[r] = _mm512_setzero_ps();
      const size_t at = o + k;
      Kind::template add<kRows>(x, weights + at * width, scale + at * scales, inputs, here);
      for (int r = 0; r < kRows; ++r) sums[r][k] = here[r];
    }
    for (int r = 0; r < kRows; ++r) {
      const __m128 totals = Kind::scaled(four_totals(sums[r]), scale + o * scales, mask);
      _mm_mask_storeu_ps(total + r * stride + o, mask, totals);
    }
  }
}

// The sums of every row must stay in registers: a function for each number of rows.
template <typename Kind>
void dots(const Activations *x, int rows, const void *weights, const void *scale, size_t inputs,
          size_t outputs, float *total, size_t stride) {
  static constexpr decltype(&dots_of_rows<Kind, 1>) kByRows[kTileRows] = {
      dots_of_rows<Kind, 1>, dots_of_rows<Kind, 2>, dots_of_rows<Kind, 3>, dots_of_rows<Kind, 4>,
      dots_of_rows<Kind, 5>, dots_of_rows<Kind, 6>, dots_of_rows<Kind, 7>, dots_of_rows<Kind, 8>};
  kByRows[rows - 1](x, static_cast<const char *>(weights), static_cast<const char *>(scale), inputs,
                    outputs, total, stride);
}

// Thirty-two values as floats: those at even places of the first 32 and those at odd for bfloat16,
// which halves of words are; the first half and the second for int8. `arrange` and `restore` turn
// 32 floats in their own order into that one and back.
struct Bfloat16Values {
  using Value = uint16_t;
  GEMMA3_AVX512 static void load(const Value *value, __m512 &low, __m512 &high) {
    floats_of(_mm512_loadu_si512(value), low, high);
  }
  GEMMA3_AVX512 static void arrange(__m512 &low, __m512 &high) {
    pick(_mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0), 1, low, high);
  }
  GEMMA3_AVX512 static void restore(__m512 &low, __m512 &high) {
    pick(_mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0), 8, low, high);
  }

 private:
  // Of the 32 in `low` and `high`: those at `places` become the one, those `further` on the other.
  GEMMA3_AVX512 static void pick(__m512i places, int further, __m512 &low, __m512 &high) {
    const __m512 first = low;
    low = _mm512_permutex2var_ps(first, places, high);
    const __m512i others = _mm512_add_epi32(places, _mm512_set1_epi32(further));
    high = _mm512_permutex2var_ps(first, others, high);
  }
};

struct Int8Values {
  using Value = int8_t;
  GEMMA3_AVX512 static void load(const Value *value, __m512 &low, __m512 &high) {
    const auto *bytes = reinterpret_cast<const __m128i *>(value);
    low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes)));
    high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes + 1)));
  }
  GEMMA3_AVX512 static void arrange(__m512 &, __m512 &) {}
  GEMMA3_AVX512 static void restore(__m512 &, __m512 &) {}
};

// What is mixed of 32 places stays in registers while some slots pass by. Meanwhile the values of
// as many slots at `next` are fetched, a line at a time: asked for all at once, they would have to
// be waited for.
template <typename Kind, int kRows>
GEMMA3_AVX512 void mix_of_rows(const float *weights, size_t stride,
                               const typename Kind::Value *values, const typename Kind::Value *next,
                               size_t slots, size_t inputs, float *mixed) {
  for (size_t i = 0; i < inputs; i += 32) {
    __m512 low[kRows], high[kRows];
    for (int r = 0; r < kRows; ++r) {
      low[r] = _mm512_loadu_ps(mixed + r * inputs + i);
      high[r] = _mm512_loadu_ps(mixed + r * inputs + i + 16);
      Kind::arrange(low[r], high[r]);
    }
    for (size_t s = 0; s < slots; ++s) {
      __m512 first, second;
      Kind::load(values + s * inputs + i, first, second);
      __builtin_prefetch(next + i * slots + s * 32);
      for (int r = 0; r < kRows; ++r) {
        const __m512 weight = _mm512_set1_ps(weights[r * stride + s]);
        low[r] = _mm512_fmadd_ps(weight, first, low[r]);
        high[r] = _mm512_fmadd_ps(weight, second, high[r]);
      }
    }
    for (int r = 0; r < kRows; ++r) {
      Kind::restore(low[r], high[r]);
      _mm512_storeu_ps(mixed + r * inputs + i, low[r]);
      _mm512_storeu_ps(mixed + r * inputs + i + 16, high[r]);
    }
  }
}

template <typename Kind>
void mix_512(const float *weights, size_t stride, int rows, const void *values, size_t slots,
             size_t inputs, float *mixed) {
  constexpr int kRows = 4;
  constexpr size_t kSlots = 32;  // their values stay in the cache while places take turns
  for (size_t s = 0; s < slots; s += kSlots) {
    const size_t here = std::min(kSlots, slots - s);
    const auto *value = static_cast<const typename Kind::Value *>(values) + s * inputs;
    const auto *next = slots - s >= 2 * kSlots ? value + kSlots * inputs : value;
    int r = 0;
    for (; r + kRows <= rows; r += kRows) {
      mix_of_rows<Kind, kRows>(weights + r * stride + s, stride, value, next, here, inputs,
                               mixed + r * inputs);
    }
    for (; r < rows; ++r) {
      mix_of_rows<Kind, 1>(weights + r * stride + s, stride, value, next, here, inputs,
                           mixed + r * inputs);
    }
  }
}

GEMMA3_VECTORISED(GEMMA3_AVX512)

}  // namespace

const Forms kAvx512Forms = {dots<Bfloat16>,          dots<Int8>,          dots<Int4>, float_by_int8,
                            mix_512<Bfloat16Values>, mix_512<Int8Values>, weigh,      round_row};

}  // namespace gemma3

#endif  // __x86_64__
