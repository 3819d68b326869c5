#include "texts.h"

#include <algorithm>

#include "convention.h"
#include "error.h"
#include "prompts.h"
#include "soft_tokens.h"
#include "tasks.h"

namespace gemma3 {
namespace {

int64_t longest_of(const std::vector<Tokens> &texts) {
  size_t longest = 0;
  for (const Tokens &text : texts) longest = std::max(longest, text.size());
  return static_cast<int64_t>(longest);
}

// The same up to the rightmost token that is not padding, which a classifier looks at.
std::vector<Tokens> unpadded(const Model &model, std::vector<Tokens> texts) {
  for (Tokens &text : texts) {
    while (text.size() > 1 && text.back() == model.manifest().model.pad_token_id) text.pop_back();
  }
  return texts;
}

// The calls that take in the texts of a group.
std::vector<PrefillCall> plan_calls(const Model &model, const Reading &reading, GroupShape shape,
                                    const std::vector<Tokens> &texts, bool images) {
  if (images) {
    return plan_images(texts, model.manifest().vision->soft_token_id,
                       model.grid().tokens(reading.images, shape),
                       model.grid().tokens(reading.text, shape));
  }
  std::vector<int64_t> lengths;
  for (const Tokens &text : texts) lengths.push_back(static_cast<int64_t>(text.size()));
  return plan_text(lengths, model.grid().tokens(reading.text, shape));
}

std::vector<Group> plan(const Model &model, const Reading &reading, const gemma3_prompt *texts,
                        size_t count) {
  check_images(model, texts, count);
  GroupShapes shapes = model.grid().shapes(reading.text);
  std::string what = reading.what;
  if (has_images(texts, count)) {
    shapes = intersection(shapes, model.grid().shapes(reading.images));
    what += " images";
  }
  const int64_t longest = longest_of(texts_of(texts, 0, count));
  model.grid().require_fit(shapes, what, longest, 0);
  const auto groups = model.grid().groups(shapes, count, longest);
  for (const Group &group : groups) {  // refuses an image that is too long
    plan_calls(model, reading, group.shape, texts_of(texts, group.first, group.count),
               has_images(texts + group.first, group.count));
  }
  return groups;
}

// The inputs of a call: tokens, start, length, and of score what should follow each place, which is
// the next of `wanted`.
HostArrays chunk_inputs(const PrefillCall &call, int64_t batch, const std::vector<Tokens> &texts,
                        const std::vector<Tokens> &wanted, HostArray &labels) {
  HostArrays inputs{HostArray("int32", {batch, call.size}), HostArray("int32", {batch}),
                    HostArray("int32", {batch})};
  std::fill_n(labels.data<int32_t>(), batch * call.size, kIgnoredLabel);
  for (size_t row = 0; row < texts.size(); ++row) {
    const Tokens &text = texts[row];
    const auto [start, length] = call.rows[row];
    inputs[1].data<int32_t>()[row] = static_cast<int32_t>(start);
    inputs[2].data<int32_t>()[row] = static_cast<int32_t>(length);
    for (int64_t i = 0; i < length; ++i) {
      const int64_t place = static_cast<int64_t>(row) * call.size + i;
      const auto at = static_cast<size_t>(start + i);
      inputs[0].data<int32_t>()[place] = text[at];
      if (at + 1 < text.size()) labels.data<int32_t>()[place] = wanted[row][at + 1];
    }
  }
  return inputs;
}

std::set<Bucket> call_buckets(const Model &model, const Reading &reading, const Group &group,
                              const std::vector<Tokens> &texts, bool images) {
  std::set<Bucket> buckets;
  for (const PrefillCall &call : plan_calls(model, reading, group.shape, texts, images)) {
    const ProgramName name = call.images ? reading.images : reading.text;
    buckets.insert({name, group.shape.batch, call.size, group.shape.cache});
  }
  return buckets;
}

}  // namespace

std::vector<Tokens> texts_of(const gemma3_prompt *texts, size_t first, size_t count) {
  std::vector<Tokens> found;
  for (size_t i = first; i < first + count; ++i) {
    found.emplace_back(texts[i].tokens, texts[i].tokens + texts[i].count);
  }
  return found;
}

void read_texts(Model &model, const Reading &reading, const Group &group,
                const gemma3_prompt *prompts, const std::vector<Tokens> &texts,
                const std::vector<Tokens> &wanted, const TextVisitor &visit,
                const Between &between) {
  const auto [batch, length] = group.shape;
  const bool images = has_images(prompts, texts.size());
  model.prepare(call_buckets(model, reading, group, texts, images), between);
  SoftTokens soft;
  if (images) soft = SoftTokens::encode(model, prompts, texts.size(), texts, between);
  std::vector<Shards> cache = model.new_cache(group.shape);
  for (const PrefillCall &call : plan_calls(model, reading, group.shape, texts, images)) {
    model.throw_if_cancelled();
    if (between) between();
    HostArray labels("int32", {batch, call.size});
    HostArrays inputs = chunk_inputs(call, batch, texts, wanted, labels);
    if (call.images) soft.add_inputs(call, batch, inputs);
    if (reading.text == ProgramName::kScore) inputs.push_back(std::move(labels));
    const ProgramName name = call.images ? reading.images : reading.text;
    const LoadedProgram &program = model.program({name, batch, call.size, length});
    visit(program, program.run(inputs, cache), call);
    model.count_call(false);
  }
}

std::vector<Group> plan_score(const Model &model, const gemma3_prompt *texts, size_t count) {
  check_prompts(model, texts, count, false);
  for (size_t i = 0; i < count; ++i) {
    if (texts[i].count >= 2) continue;
    refuse("prompt " + std::to_string(i + 1) + " has one token: a score needs at least 2");
  }
  return plan(model, kScoring, texts, count);
}

std::vector<Group> plan_classify(const Model &model, const gemma3_prompt *texts, size_t count) {
  check_prompts(model, texts, count, false);
  return plan(model, kClassifying, texts, count);
}

std::vector<EmbedGroup> plan_embed(const Model &model, const gemma3_prompt *texts, size_t count) {
  check_prompts(model, texts, count, false);
  if (has_images(texts, count)) refuse("images: an embedding model reads text; pass none");
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
    refuse(GEMMA3_CONTEXT_FULL, "prompt of " + std::to_string(longest) +
                                    " tokens does not fit: longest embed bucket is " +
                                    std::to_string(*all.rbegin()) + " (buckets of " +
                                    model.grid().source() + ": " + joined(all) +
                                    "); re-export with --prefill " + joined(all, ",") + "," +
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
  const Reading &reading = scored ? kScoring : kClassifying;
  const auto groups = scored ? plan_score(model, texts, count) : plan_classify(model, texts, count);
  for (const Group &group : groups) {
    const gemma3_prompt *own = texts + group.first;
    std::vector<Tokens> rows = texts_of(own, 0, group.count);
    if (!scored) rows = unpadded(model, std::move(rows));
    const bool images = has_images(own, group.count);
    buckets.merge(call_buckets(model, reading, group, rows, images));
    int64_t pictures = 0;
    for (size_t i = 0; i < group.count; ++i) pictures += static_cast<int64_t>(own[i].images);
    if (!images) continue;
    for (const auto &[bucket, used] : plan_encoding(model, pictures)) buckets.insert(bucket);
  }
  return buckets;
}

void classify(Model &model, const std::vector<gemma3_prompt> &given, Floats scores,
              const Between &between) {
  const gemma3_prompt *prompts = given.data();
  const std::vector<Group> groups = plan_classify(model, prompts, given.size());
  require_room("scores", scores.capacity, given.size() * model.manifest().model.labels.size());
  for (const Group &group : groups) {
    const std::vector<Tokens> texts = unpadded(model, texts_of(prompts, group.first, group.count));
    const auto take = [&](const LoadedProgram &program, const std::vector<Shards> &outputs,
                          const PrefillCall &call) {
      const HostArray table = program.fetch(outputs, 0);
      const int64_t labels = table.shape()[1];
      for (size_t row = 0; row < texts.size(); ++row) {
        const auto [start, length] = call.rows[row];
        const bool last = start + length == static_cast<int64_t>(texts[row].size());
        if (length == 0 || !last) continue;
        std::copy_n(table.data<float>() + static_cast<int64_t>(row) * labels, labels,
                    scores.data + static_cast<int64_t>(group.first + row) * labels);
      }
    };
    read_texts(model, kClassifying, group, prompts + group.first, texts, texts, take, between);
  }
}

void embed(Model &model, const std::vector<gemma3_prompt> &prompts, Floats vectors,
           const Between &between) {
  const std::vector<EmbedGroup> groups = plan_embed(model, prompts.data(), prompts.size());
  const auto size_of_one = static_cast<size_t>(model.manifest().model.embedding_size);
  require_room("vectors", vectors.capacity, prompts.size() * size_of_one);
  for (const EmbedGroup &group : groups) {
    model.throw_if_cancelled();
    between();
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
                vectors.data + static_cast<int64_t>(group.first) * numbers);
  }
}

}  // namespace gemma3
