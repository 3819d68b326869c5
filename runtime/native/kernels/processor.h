// What this processor has, and which forms run on it.
#ifndef GEMMA3_KERNELS_PROCESSOR_H_
#define GEMMA3_KERNELS_PROCESSOR_H_

#include <vector>

namespace gemma3 {

#if defined(__x86_64__)
// AVX2 with FMA.
inline bool has_avx2() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

// AVX-512 with VNNI.
inline bool has_avx512() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

// The same with products of bfloat16 pairs.
inline bool has_bfloat16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }

// Those of the forms that run here, the fastest first; null where there is none of its own.
template <typename Form>
std::vector<Form> runnable(const Form *bfloat16, const Form *avx512, const Form *avx2,
                           const Form &plain) {
  std::vector<Form> found;
  if (bfloat16 != nullptr && has_bfloat16()) found.push_back(*bfloat16);
  if (avx512 != nullptr && has_avx512()) found.push_back(*avx512);
  if (avx2 != nullptr && has_avx2()) found.push_back(*avx2);
  found.push_back(plain);
  return found;
}
#endif

}  // namespace gemma3

#endif  // GEMMA3_KERNELS_PROCESSOR_H_
