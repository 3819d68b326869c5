#include "texts.h"

#include <algorithm>

#include "convention.h"
#include "error.h"
#include "prompts.h"
#include "tasks.h"

namespace gemma3 {
namespace {

int64_t longest_of(const std::vector<Tokens> &texts) {
  size_t longest = 0;
  for (const Tokens &text : texts) longest = std::max(longest, text.size());
  return static_cast<int64_t>(longest);
}

std::vector<Tokens> texts_of(const gemma3_prompt *texts, size_t first, size_t count) {
  std::vector<Tokens> found;
  for (size_t i = first; i < first + count; ++i) {
    found.emplace_back(texts[i].tokens, texts[i].tokens + texts[i].count);
  }
  return found;
}

// The same up to the rightmost token that is not padding, which a classifier looks at.
std::vector<Tokens> unpadded(const Model &model, std::vector<Tokens> texts) {
  for (Tokens &text : texts) {
    while (text.size() > 1 && text.back() == model.manifest().model.pad_token_id) text.pop_back();
  }
  return texts;
}

std::vector<Group> plan(const Model &model, ProgramName program, const std::string &what,
                        const gemma3_prompt *texts, size_t count) {
  const GroupShapes shapes = model.grid().shapes(program);
  const int64_t longest = longest_of(texts_of(texts, 0, count));
  model.grid().require_fit(shapes, what, longest, 0);
  return model.grid().groups(shapes, count, longest);
}

// Reads the texts of a group chunk by chunk; visit(program, outputs, start, size) after each.
// `labels` says whether the program is asked for the probabilities of the next tokens.
template <typename Visit>
void read(Model &model, ProgramName name, const Group &group, const std::vector<Tokens> &texts,
          bool labels, Visit visit) {
  const auto [batch, length] = group.shape;
  const auto sizes = plan_prefill(longest_of(texts), model.grid().tokens(name, group.shape));
  std::set<Bucket> buckets;
  for (int64_t size : sizes) buckets.insert({name, batch, size, length});
  model.prepare(buckets);
  std::vector<Shards> cache = model.new_cache(group.shape);
  int64_t start = 0;
  for (int64_t size : sizes) {
    const LoadedProgram &program = model.program({name, batch, size, length});
    HostArrays inputs{HostArray("int32", {batch, size}), HostArray("int32", {batch}),
                      HostArray("int32", {batch})};
    HostArray wanted("int32", {batch, size});
    std::fill_n(inputs[1].data<int32_t>(), batch, static_cast<int32_t>(start));
    std::fill_n(wanted.data<int32_t>(), batch * size, kIgnoredLabel);
    for (size_t row = 0; row < texts.size(); ++row) {
      const Tokens &text = texts[row];
      const auto end = std::min<int64_t>(static_cast<int64_t>(text.size()), start + size);
      for (int64_t at = start; at < end; ++at) {
        const int64_t place = static_cast<int64_t>(row) * size + at - start;
        inputs[0].data<int32_t>()[place] = text[static_cast<size_t>(at)];
        if (at + 1 >= static_cast<int64_t>(text.size())) continue;
        wanted.data<int32_t>()[place] = text[static_cast<size_t>(at) + 1];
      }
      inputs[2].data<int32_t>()[row] = static_cast<int32_t>(std::max<int64_t>(end - start, 0));
    }
    if (labels) inputs.push_back(std::move(wanted));
    visit(program, program.run(inputs, cache), start, size);
    model.count_call(false);
    start += size;
  }
}

}  // namespace

std::vector<Group> plan_score(const Model &model, const gemma3_prompt *texts, size_t count) {
  check_prompts(model, texts, count, false);
  for (size_t i = 0; i < count; ++i) {
    if (texts[i].count >= 2) continue;
    refuse("prompt " + std::to_string(i + 1) + " has one token: a score needs at least 2");
  }
  return plan(model, ProgramName::kScore, "score", texts, count);
}

std::vector<Group> plan_classify(const Model &model, const gemma3_prompt *texts, size_t count) {
  check_prompts(model, texts, count, false);
  return plan(model, ProgramName::kClassify, "classify", texts, count);
}

std::vector<EmbedGroup> plan_embed(const Model &model, const gemma3_prompt *texts, size_t count) {
  check_prompts(model, texts, count, false);
  const GroupShapes shapes = model.grid().shapes(ProgramName::kEmbed);
  model.grid().longest(shapes, "embed");  // refused where there are none
  const int64_t longest = longest_of(texts_of(texts, 0, count));
  std::set<int64_t> all, batches;
  for (const GroupShape &shape : shapes) {
    const std::set<int64_t> sizes = model.grid().tokens(ProgramName::kEmbed, shape);
    all.insert(sizes.begin(), sizes.end());
    if (*sizes.rbegin() >= longest) batches.insert(shape.batch);
  }
  if (batches.empty()) {
    refuse("prompt of " + std::to_string(longest) + " tokens does not fit: longest embed bucket is " +
           std::to_string(*all.rbegin()) + " (buckets of " + model.grid().source() + ": " +
           joined(all) + "); re-export with --prefill " + joined(all, ",") + "," +
           std::to_string(round_up(longest)));
  }
  std::vector<EmbedGroup> groups;
  size_t first = 0;
  for (const auto &[rows, batch] : split_rows(static_cast<int64_t>(count), batches)) {
    const auto here = static_cast<size_t>(rows);
    const int64_t size = pick(longest_of(texts_of(texts, first, here)),
                              model.grid().tokens(ProgramName::kEmbed, {batch, 0}));
    groups.push_back({first, here, {ProgramName::kEmbed, batch, size, 0}});
    first += here;
  }
  return groups;
}

std::set<Bucket> text_buckets(const Model &model, int32_t task, const gemma3_prompt *texts,
                              size_t count) {
  std::set<Bucket> buckets;
  if (task == GEMMA3_TASK_EMBED) {
    for (const EmbedGroup &group : plan_embed(model, texts, count)) buckets.insert(group.bucket);
    return buckets;
  }
  const bool scored = task == GEMMA3_TASK_SCORE;
  const ProgramName name = scored ? ProgramName::kScore : ProgramName::kClassify;
  const auto groups = scored ? plan_score(model, texts, count) : plan_classify(model, texts, count);
  for (const Group &group : groups) {
    std::vector<Tokens> rows = texts_of(texts, group.first, group.count);
    if (!scored) rows = unpadded(model, std::move(rows));
    for (int64_t size : plan_prefill(longest_of(rows), model.grid().tokens(name, group.shape))) {
      buckets.insert({name, group.shape.batch, size, group.shape.cache});
    }
  }
  return buckets;
}

void score(Model &model, const gemma3_prompt *prompts, size_t count, float *logprobs,
           double *losses) {
  for (const Group &group : plan_score(model, prompts, count)) {
    const std::vector<Tokens> texts = texts_of(prompts, group.first, group.count);
    std::vector<std::vector<float>> found(texts.size());
    read(model, ProgramName::kScore, group, texts, true,
         [&](const LoadedProgram &program, const std::vector<Shards> &outputs, int64_t start,
             int64_t size) {
           const HostArray table = program.fetch(outputs, 0);
           for (size_t row = 0; row < texts.size(); ++row) {
             const auto wanted = static_cast<int64_t>(texts[row].size()) - 1;
             const float *own = table.data<float>() + static_cast<int64_t>(row) * size;
             const int64_t here = std::clamp<int64_t>(wanted - start, 0, size);
             found[row].insert(found[row].end(), own, own + here);
           }
         });
    for (size_t row = 0; row < texts.size(); ++row) {
      double total = 0;
      for (float value : found[row]) total -= static_cast<double>(value);
      if (losses != nullptr) {
        losses[group.first + row] = total / static_cast<double>(found[row].size());
      }
      logprobs = std::copy(found[row].begin(), found[row].end(), logprobs);
    }
  }
}

void classify(Model &model, const gemma3_prompt *prompts, size_t count, float *scores) {
  for (const Group &group : plan_classify(model, prompts, count)) {
    const std::vector<Tokens> texts =
        unpadded(model, texts_of(prompts, group.first, group.count));
    read(model, ProgramName::kClassify, group, texts, false,
         [&](const LoadedProgram &program, const std::vector<Shards> &outputs, int64_t start,
             int64_t size) {
           const HostArray table = program.fetch(outputs, 0);
           const int64_t labels = table.shape()[1];
           for (size_t row = 0; row < texts.size(); ++row) {
             const auto length = static_cast<int64_t>(texts[row].size());
             if (start >= length || length > start + size) continue;
             std::copy_n(table.data<float>() + static_cast<int64_t>(row) * labels, labels,
                         scores + static_cast<int64_t>(group.first + row) * labels);
           }
         });
  }
}

void embed(Model &model, const gemma3_prompt *prompts, size_t count, float *vectors) {
  for (const EmbedGroup &group : plan_embed(model, prompts, count)) {
    const auto [name, batch, size, length] = group.bucket;
    HostArrays inputs{HostArray("int32", {batch, size}), HostArray("int32", {batch})};
    for (size_t row = 0; row < group.count; ++row) {
      const gemma3_prompt &text = prompts[group.first + row];
      std::copy_n(text.tokens, text.count,
                  inputs[0].data<int32_t>() + static_cast<int64_t>(row) * size);
      inputs[1].data<int32_t>()[row] = static_cast<int32_t>(text.count);
    }
    const LoadedProgram &program = model.program(group.bucket);
    std::vector<Shards> no_cache;
    const HostArray table = program.fetch(program.run(inputs, no_cache), 0);
    model.count_call(false);
    const int64_t numbers = table.shape()[1];
    std::copy_n(table.data<float>(), static_cast<int64_t>(group.count) * numbers,
                vectors + static_cast<int64_t>(group.first) * numbers);
  }
}

}  // namespace gemma3
