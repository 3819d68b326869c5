// Texts that are read and not continued: score, classify, embed.
#ifndef GEMMA3_SRC_TEXTS_H_
#define GEMMA3_SRC_TEXTS_H_

#include <set>
#include <vector>

#include "gemma3.h"
#include "model.h"

namespace gemma3 {

// Texts first to first + count of a request, embedded by one call.
struct EmbedGroup {
  size_t first = 0, count = 0;
  Bucket bucket;
};

// The groups that serve the texts; throws Error when the model cannot serve them.
std::vector<Group> plan_score(const Model &model, const gemma3_prompt *texts, size_t count);
std::vector<Group> plan_classify(const Model &model, const gemma3_prompt *texts, size_t count);
std::vector<EmbedGroup> plan_embed(const Model &model, const gemma3_prompt *texts, size_t count);

// The programs that serving the texts takes; `task` is one of GEMMA3_TASK_SCORE, _CLASSIFY, _EMBED.
std::set<Bucket> text_buckets(const Model &model, int32_t task, const gemma3_prompt *texts,
                              size_t count);

}  // namespace gemma3

#endif  // GEMMA3_SRC_TEXTS_H_
