// Words of processors with AVX-512 that multiply pairs of bfloat16; see lanes.h.
#ifndef GEMMA3_KERNELS_PAIRS_H_
#define GEMMA3_KERNELS_PAIRS_H_

#include <immintrin.h>

#define GEMMA3_TARGET \
  __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16")))
#define GEMMA3_LANES 16
#include "lanes.h"

namespace gemma3 {
namespace {

// Words that are pairs of bfloat16, the first in the lower half.
struct Pairs {
  static constexpr size_t kInputsOfWord = 2, kOutputs = 8;

  GEMMA3_LANEWISE void add(Floats &sum, Words x, Words weight) {
    sum = (Floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)x, (__m512bh)weight);
  }
  GEMMA3_LANEWISE Words pairs(__m512 first, __m512 second) {
    return (Words)_mm512_cvtne2ps_pbh(second, first);
  }
  GEMMA3_LANEWISE Words words_of(const float *x) {
    return pairs(_mm512_loadu_ps(x), _mm512_loadu_ps(x + kLanes));
  }
};

}  // namespace
}  // namespace gemma3

#endif  // GEMMA3_KERNELS_PAIRS_H_
