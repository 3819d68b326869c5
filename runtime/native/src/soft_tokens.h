// The images of prompts, encoded, and where their soft tokens stand.
#ifndef GEMMA3_SRC_SOFT_TOKENS_H_
#define GEMMA3_SRC_SOFT_TOKENS_H_

#include <vector>

#include "prompts.h"

namespace gemma3 {

struct SoftTokens {
  int64_t size = 0;           // D, numbers of one
  std::vector<float> values;  // [R,D] of all rows, end to end
  // For each row and place of its text which of the R stands there, -1 for text.
  std::vector<std::vector<int64_t>> index;

  // Encodes the images of `prompts`, whose places are among `texts`.
  static SoftTokens encode(Model &model, const gemma3_prompt *prompts, size_t count,
                           const std::vector<Tokens> &texts, const Between &between = {});
  // Adds soft_tokens [B*T,D] and soft_index [B,T] of a call: only what it needs.
  void add_inputs(const PrefillCall &call, int64_t batch, HostArrays &inputs) const;
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_SOFT_TOKENS_H_
