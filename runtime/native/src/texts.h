// Texts that are read and not continued: score, classify, embed.
#ifndef GEMMA3_SRC_TEXTS_H_
#define GEMMA3_SRC_TEXTS_H_

#include <functional>
#include <set>
#include <vector>

#include "gemma3.h"
#include "model.h"
#include "prompts.h"

namespace gemma3 {

// The programs that read texts for a task: without images, and with them.
struct Reading {
  ProgramName text, images;
  const char *what;
};
constexpr Reading kScoring{ProgramName::kScore, ProgramName::kScoreImages, "score"};
constexpr Reading kClassifying{ProgramName::kClassify, ProgramName::kClassifyImages, "classify"};

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

// The tokens of texts first to first + count.
std::vector<Tokens> texts_of(const gemma3_prompt *texts, size_t first, size_t count);

// Told of each call: its program, what came of it, and what each row fed.
using TextVisitor =
    std::function<void(const LoadedProgram &, const std::vector<Shards> &, const PrefillCall &)>;

// Reads the texts of a group call by call; `wanted` has a label for each token, of which programs
// that score take the next at each place. `between` may throw, to end the call.
void read_texts(Model &model, const Reading &reading, const Group &group,
                const gemma3_prompt *prompts, const std::vector<Tokens> &texts,
                const std::vector<Tokens> &wanted, const TextVisitor &visit,
                const Between &between = {});

}  // namespace gemma3

#endif  // GEMMA3_SRC_TEXTS_H_
