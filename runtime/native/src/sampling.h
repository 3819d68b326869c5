// How the next token is drawn: the programs' inputs; the drawing itself happens on the device.
#ifndef GEMMA3_SRC_SAMPLING_H_
#define GEMMA3_SRC_SAMPLING_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "gemma3.h"
#include "loaded_program.h"
#include "sampling_table.h"

namespace gemma3 {

class Model;

// Calls `visit` with each member, in the order of gemma3_sampling.
template <typename Sampling, typename Visit>
void for_each_member(Sampling &&sampling, Visit visit) {
#define GEMMA3_VISIT(name, ...) visit(sampling.name);
  GEMMA3_SAMPLING(GEMMA3_VISIT)
#undef GEMMA3_VISIT
}

// Refuses values out of range (runtime/requests/sampling.py), and parameters that are not off and
// that the programs of the model do not take.
void check_sampling(const Model &model, const gemma3_sampling &sampling);

// The sampling inputs of a program, a place for each of `rows`.
HostArrays sampling_inputs(const std::vector<gemma3_sampling> &rows);

// `count` values of a request for each of `rows`: none is greedy, one is for all.
std::vector<gemma3_sampling> sampling_of(const Model &model, const gemma3_sampling *sampling,
                                         size_t count, size_t rows);

// The likeliest tokens with their log-probabilities, likeliest first, ties by id.
struct TopTokens {
  std::vector<int32_t> tokens;
  std::vector<double> logprobs;
};
TopTokens top_tokens(const float *logits, int64_t vocab, uint32_t count);

}  // namespace gemma3

#endif  // GEMMA3_SRC_SAMPLING_H_
