// Prompts: what is refused, how they are cut into calls, and where images stand in them
// (runtime/images/prompt.py, runtime/images/encode.py).
#ifndef GEMMA3_SRC_PROMPTS_H_
#define GEMMA3_SRC_PROMPTS_H_

#include <cstdint>
#include <set>
#include <vector>

#include "gemma3.h"
#include "model.h"

namespace gemma3 {

using Tokens = std::vector<int32_t>;

// One call of a prefill program of `size` tokens: what each row feeds, as (start, length) of its
// text; a row with nothing left has length 0. `images` says that it is the program for images.
struct PrefillCall {
  int64_t size = 0;
  std::vector<std::pair<int64_t, int64_t>> rows;
  bool images = false;
};

// Throws Error for pointers that are missing, no prompt, an empty one (unless `empty` may be), or a
// token that the model does not have.
void check_prompts(const Model &model, const gemma3_prompt *prompts, size_t count, bool empty);
void check_token(const Model &model, int32_t token, const std::string &what);

// Throws Error for images that the model cannot see, or prompts with places for another number.
void check_images(const Model &model, const gemma3_prompt *prompts, size_t count);
bool has_images(const gemma3_prompt *prompts, size_t count);

// The calls that take in texts of these lengths.
std::vector<PrefillCall> plan_text(const std::vector<int64_t> &lengths,
                                   const std::set<int64_t> &sizes);
// The same for texts with images, none of which is split: a chunk without any goes through the
// program for texts, of `text_sizes`, which does less. Throws Error for an image that is too long.
std::vector<PrefillCall> plan_images(const std::vector<Tokens> &texts, int64_t soft_token,
                                     const std::set<int64_t> &sizes,
                                     const std::set<int64_t> &text_sizes);

// The calls that encode `count` images: bucket, and images that are in it.
std::vector<std::pair<Bucket, int64_t>> plan_encoding(const Model &model, int64_t count);
// Soft tokens [count,M,D] of pixels [count,3,I,I]. `between` may throw, to end the call.
std::vector<float> encode_images(Model &model, const float *pixels, int64_t count,
                                 const Between &between = {});

}  // namespace gemma3

#endif  // GEMMA3_SRC_PROMPTS_H_
