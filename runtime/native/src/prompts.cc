#include "prompts.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace gemma3 {
namespace {

using Span = std::pair<int64_t, int64_t>;  // first place of a run, and the place after it

std::vector<Span> image_spans(const Tokens &text, int64_t soft_token) {
  std::vector<Span> spans;
  const auto length = static_cast<int64_t>(text.size());
  for (int64_t at = 0; at < length; ++at) {
    if (text[static_cast<size_t>(at)] != soft_token) continue;
    const int64_t begin = at;
    while (at < length && text[static_cast<size_t>(at)] == soft_token) ++at;
    spans.emplace_back(begin, at);
  }
  return spans;
}

// The calls that take in what `rows` say, each as (start, length).
std::vector<PrefillCall> plan_rows(const std::vector<Span> &rows, const std::set<int64_t> &sizes) {
  int64_t longest = 0, done = 0;
  for (const auto &[start, length] : rows) longest = std::max(longest, length);
  std::vector<PrefillCall> calls;
  for (const int64_t size : plan_prefill(longest, sizes)) {
    PrefillCall call;
    call.size = size;
    for (const auto &[start, length] : rows) {
      call.rows.emplace_back(start + std::min(done, length),
                             std::clamp<int64_t>(length - done, 0, size));
    }
    calls.push_back(std::move(call));
    done += size;
  }
  return calls;
}

// (start, length) of each piece of a text, none of which ends within an image.
std::vector<Span> cut(int64_t length, const std::vector<Span> &images, int64_t largest) {
  std::vector<Span> pieces;
  for (int64_t start = 0; start < length;) {
    int64_t end = std::min(start + largest, length);
    for (const auto &[begin, after] : images) {
      if (begin >= end || end >= after) continue;
      if (begin <= start) {
        refuse("image of " + std::to_string(after - begin) +
               " tokens does not fit a prefill call: the largest takes " + std::to_string(largest) +
               "; re-export with --prefill " + std::to_string(round_up(after - begin)));
      }
      end = begin;
      break;
    }
    pieces.emplace_back(start, end - start);
    start = end;
  }
  return pieces;
}

}  // namespace

void check_token(const Model &model, int32_t token, const std::string &what) {
  const int64_t vocab = model.manifest().model.vocab_size;
  if (token >= 0 && token < vocab) return;
  refuse(what + " is " + std::to_string(token) + ": expected an id from 0 to " +
         std::to_string(vocab - 1) + " (vocabulary of " + model.bundle().root() + ")");
}

void check_prompts(const Model &model, const gemma3_prompt *prompts, size_t count, bool empty) {
  if (prompts == nullptr || count == 0) refuse("no prompt: pass at least one");
  for (size_t i = 0; i < count; ++i) {
    const std::string number = "prompt " + std::to_string(i + 1);
    const gemma3_prompt &prompt = prompts[i];
    if (prompt.count > INT32_MAX || (prompt.tokens == nullptr && prompt.count > 0)) {
      refuse(number + ": expected an array of tokens, got none");
    }
    if (prompt.count == 0 && !empty) {
      refuse(number + " is empty: it needs at least one token, such as bos");
    }
    if (prompt.images > INT32_MAX || (prompt.pixels == nullptr && prompt.images > 0)) {
      refuse(number + ": expected the pixels of its images, got none");
    }
    for (size_t at = 0; at < prompt.count; ++at) {
      if (prompt.tokens[at] >= 0 && prompt.tokens[at] < model.manifest().model.vocab_size) continue;
      check_token(model, prompt.tokens[at], "token " + std::to_string(at + 1) + " of " + number);
    }
  }
}

bool has_images(const gemma3_prompt *prompts, size_t count) {
  return std::any_of(prompts, prompts + count, [](auto &prompt) { return prompt.images > 0; });
}

void check_images(const Model &model, const gemma3_prompt *prompts, size_t count) {
  const auto &vision = model.manifest().vision;
  if (!vision || model.grid().image_counts().empty()) {
    if (!has_images(prompts, count)) return;
    refuse("images: " + model.grid().source() +
           " has no encode_image program; export a checkpoint that sees images");
  }
  for (size_t i = 0; i < count; ++i) {
    const gemma3_prompt &prompt = prompts[i];
    const int64_t soft = std::count(prompt.tokens, prompt.tokens + prompt.count,
                                    static_cast<int32_t>(vision->soft_token_id));
    const int64_t needed = static_cast<int64_t>(prompt.images) * vision->tokens_per_image;
    if (soft == needed) continue;
    refuse("prompt " + std::to_string(i + 1) + " has " + std::to_string(soft) +
           " soft image tokens (id " + std::to_string(vision->soft_token_id) + ") but its " +
           std::to_string(prompt.images) + " images need " + std::to_string(needed) +
           "; pass the images, and write " + std::to_string(vision->tokens_per_image) +
           " for each");
  }
}

std::vector<PrefillCall> plan_text(const std::vector<int64_t> &lengths,
                                   const std::set<int64_t> &sizes) {
  std::vector<Span> rows;
  for (const int64_t length : lengths) rows.emplace_back(0, length);
  return plan_rows(rows, sizes);
}

std::vector<PrefillCall> plan_images(const std::vector<Tokens> &texts, int64_t soft_token,
                                     const std::set<int64_t> &sizes,
                                     const std::set<int64_t> &text_sizes) {
  std::vector<std::vector<Span>> plans;
  size_t most = 0;
  for (const Tokens &text : texts) {
    plans.push_back(
        cut(static_cast<int64_t>(text.size()), image_spans(text, soft_token), *sizes.rbegin()));
    most = std::max(most, plans.back().size());
  }
  std::vector<PrefillCall> calls;
  for (size_t number = 0; number < most; ++number) {
    PrefillCall call;
    int64_t longest = 0;
    for (size_t row = 0; row < texts.size(); ++row) {
      const auto end = static_cast<int64_t>(texts[row].size());
      call.rows.push_back(number < plans[row].size() ? plans[row][number] : Span{end, 0});
      const auto [start, length] = call.rows.back();
      longest = std::max(longest, length);
      const auto begin = texts[row].begin() + start;
      call.images = call.images || std::count(begin, begin + length, soft_token) > 0;
    }
    call.images = call.images || text_sizes.empty() || longest > *text_sizes.rbegin();
    if (call.images) {
      call.size = pick(longest, sizes);
      calls.push_back(std::move(call));
      continue;
    }
    for (PrefillCall &part : plan_rows(call.rows, text_sizes)) calls.push_back(std::move(part));
  }
  return calls;
}

std::vector<std::pair<Bucket, int64_t>> plan_encoding(const Model &model, int64_t count) {
  std::vector<std::pair<Bucket, int64_t>> calls;
  const std::set<int64_t> counts = model.grid().image_counts();
  if (counts.empty()) {
    refuse("images: " + model.grid().source() +
           " has no encode_image program; export a checkpoint that sees images");
  }
  for (const auto &[used, size] : split_rows(count, counts)) {
    calls.emplace_back(
        Bucket{ProgramName::kEncodeImage, size, model.manifest().vision->tokens_per_image, 0},
        used);
  }
  return calls;
}

std::vector<float> encode_images(Model &model, const float *pixels, int64_t count,
                                 const Between &between) {
  std::vector<float> found;
  for (const auto &[bucket, used] : plan_encoding(model, count)) {
    model.throw_if_cancelled();
    if (between) between();
    const VisionRecord &vision = *model.manifest().vision;
    const LoadedProgram &program = model.program(bucket);
    HostArrays inputs{
        HostArray("float32", {bucket.batch, 3, vision.image_size, vision.image_size})};
    const auto image = static_cast<size_t>(3 * vision.image_size * vision.image_size);
    std::memcpy(inputs[0].data<float>(), pixels,
                static_cast<size_t>(used) * image * sizeof *pixels);
    pixels += static_cast<size_t>(used) * image;
    std::vector<Shards> no_cache;
    const HostArray soft = program.fetch(program.run(inputs, no_cache), 0);
    const int64_t size = used * vision.tokens_per_image * vision.soft_token_size;
    found.insert(found.end(), soft.data<float>(), soft.data<float>() + size);
  }
  return found;
}

}  // namespace gemma3
