#include "tasks.h"

#include <algorithm>

#include "cancel.h"
#include "error.h"
#include "soft_tokens.h"
#include "texts.h"

namespace gemma3 {
namespace {

int64_t longest_of(const gemma3_prompt *prompts, size_t count) {
  size_t longest = 0;
  for (size_t i = 0; i < count; ++i) longest = std::max(longest, prompts[i].count);
  return static_cast<int64_t>(longest);
}

SessionSettings settings_of(const Model &model, const Request &request, const Group &group) {
  const std::vector<gemma3_sampling> sampling =
      sampling_of(model, request.sampling, request.sampling_count, request.prompt_count);
  const StopTokens stops(model, (request.flags & GEMMA3_IGNORE_EOS) != 0, request.stop_tokens,
                         request.stop_count);
  SessionSettings settings;
  settings.shape = group.shape;
  for (size_t i = 0; i < group.count; ++i) {
    settings.rows.push_back({sampling[group.first + i], stops});
  }
  settings.logprobs = request.logprobs;
  settings.images = has_images(request.prompts + group.first, group.count);
  settings.cancel = request.cancel;
  return settings;
}

std::vector<Tokens> texts_of(const gemma3_prompt *prompts, size_t count) {
  std::vector<Tokens> texts;
  for (size_t i = 0; i < count; ++i) {
    texts.emplace_back(prompts[i].tokens, prompts[i].tokens + prompts[i].count);
  }
  return texts;
}

std::vector<Group> plan_generate(const Model &model, const Request &request) {
  check_prompts(model, request.prompts, request.prompt_count, false);
  StopTokens(model, true, request.stop_tokens, request.stop_count);  // refuses strange ones
  if (request.max_new_tokens < 1 || request.max_new_tokens > INT32_MAX) {
    refuse("max new tokens: expected at least 1, got " + std::to_string(request.max_new_tokens));
  }
  const int64_t vocab = model.manifest().model.vocab_size;
  if (request.logprobs > vocab) {
    refuse("logprobs: expected 0 to " + std::to_string(vocab) + " (the vocabulary), got " +
           std::to_string(request.logprobs));
  }
  sampling_of(model, request.sampling, request.sampling_count, request.prompt_count);
  check_images(model, request.prompts, request.prompt_count);
  const bool images = has_images(request.prompts, request.prompt_count);
  const auto [shapes, what] = usable_shapes(model, request.logprobs > 0, images);
  const int64_t longest = longest_of(request.prompts, request.prompt_count);
  const auto new_tokens = static_cast<int64_t>(request.max_new_tokens);
  model.grid().require_fit(shapes, what, longest, new_tokens);
  const auto groups = model.grid().groups(shapes, request.prompt_count, longest + new_tokens);
  for (const Group &group : groups) {
    const gemma3_prompt *prompts = request.prompts + group.first;
    if (!has_images(prompts, group.count)) continue;
    plan_images(texts_of(prompts, group.count), model.manifest().vision->soft_token_id,
                model.grid().tokens(ProgramName::kPrefillImages, group.shape),
                model.grid().tokens(ProgramName::kPrefill, group.shape));
  }
  return groups;
}

}  // namespace

std::pair<GroupShapes, std::string> usable_shapes(const Model &model, bool logprobs, bool images) {
  GroupShapes shapes = model.grid().generating(logprobs);
  std::string what = logprobs ? "generate with log-probabilities" : "generate";
  if (images) {
    shapes = intersection(shapes, model.grid().shapes(ProgramName::kPrefillImages));
    what += " from images";
  }
  return {shapes, what};
}

std::vector<Group> plan_request(const Model &model, const Request &request) {
  switch (request.task) {
    case GEMMA3_TASK_GENERATE: return plan_generate(model, request);
    case GEMMA3_TASK_SCORE: plan_score(model, request.prompts, request.prompt_count); return {};
    case GEMMA3_TASK_CLASSIFY:
      plan_classify(model, request.prompts, request.prompt_count);
      return {};
    case GEMMA3_TASK_EMBED: plan_embed(model, request.prompts, request.prompt_count); return {};
    default: refuse("task: expected one of GEMMA3_TASK_..., got " + std::to_string(request.task));
  }
}

std::set<Bucket> request_buckets(const std::shared_ptr<Model> &model, const Request &request) {
  const std::vector<Group> groups = plan_request(*model, request);
  if (request.task != GEMMA3_TASK_GENERATE) {
    return text_buckets(*model, request.task, request.prompts, request.prompt_count);
  }
  std::set<Bucket> buckets;
  for (const Group &group : groups) {
    const gemma3_prompt *prompts = request.prompts + group.first;
    const SessionSettings settings = settings_of(*model, request, group);
    const Session session(model, settings);
    buckets.merge(session.buckets(texts_of(prompts, group.count), settings.images,
                                  static_cast<int64_t>(request.max_new_tokens)));
    int64_t images = 0;
    for (size_t i = 0; i < group.count; ++i) images += static_cast<int64_t>(prompts[i].images);
    if (images == 0) continue;
    for (const auto &[bucket, used] : plan_encoding(*model, images)) buckets.insert(bucket);
  }
  return buckets;
}

void Teller::tell(Session &session, const Step &step, gemma3_token_fn callback, void *user) {
  bool cancel = false;
  for (size_t row = 0; row < counts_.size(); ++row) {
    const Tokens &tokens = step.tokens[row];
    for (size_t i = 0; i < tokens.size(); ++i) {
      const uint32_t index = counts_[row]++;
      if (callback == nullptr) continue;
      gemma3_token event = {};
      event.size = sizeof event;
      event.prompt = static_cast<uint32_t>(first_ + row);
      event.index = index;
      event.token = tokens[i];
      const bool last = i + 1 == tokens.size() && session.row(row).remaining == 0;
      if (last) event.finish = GEMMA3_FINISH_LENGTH;
      if (session.is_stop(row, tokens[i])) event.finish = GEMMA3_FINISH_STOP;
      if (i < step.tops[row].size()) {
        const TopTokens &top = step.tops[row][i];
        event.top_count = static_cast<uint32_t>(top.tokens.size());
        event.top_tokens = top.tokens.data();
        event.top_logprobs = top.logprobs.data();
      }
      const int32_t answer = callback(user, &event);
      cancel = cancel || answer == GEMMA3_CANCEL;
      if (answer != GEMMA3_FINISH_ROW) continue;
      session.finish(row);
      break;
    }
  }
  if (cancel) cancelled();
}

uint64_t Teller::after_first() const {
  uint64_t total = 0;
  for (uint32_t count : counts_) total += count > 0 ? count - 1 : 0;
  return total;
}

void generate(const std::shared_ptr<Model> &model, const Request &request, gemma3_token_fn on_token,
              void *user, std::vector<gemma3_timing> &timings) {
  Request generating = request;
  generating.task = GEMMA3_TASK_GENERATE;
  timings.resize(request.prompt_count);
  for (const Group &group : plan_request(*model, generating)) {
    throw_if_set(generating.cancel);
    Session session(model, settings_of(*model, generating, group));
    Teller teller(group.first, group.count);
    Feed feed;
    feed.prompts = generating.prompts + group.first;
    feed.new_tokens.assign(group.count, static_cast<int64_t>(generating.max_new_tokens));
    const Step first = session.prefill(feed);
    const double first_at = seconds();
    teller.tell(session, first, on_token, user);
    while (session.running()) {
      teller.tell(session, session.advance(generating.chunk), on_token, user);
    }
    const gemma3_timing timing{session.stats().prefill_tokens, teller.after_first(),
                               session.stats().prefill_s, seconds() - first_at, first_at};
    std::fill_n(timings.begin() + static_cast<std::ptrdiff_t>(group.first), group.count, timing);
  }
}

}  // namespace gemma3
