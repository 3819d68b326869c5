#include "session.h"

#include <algorithm>
#include <utility>

#include "convention.h"
#include "error.h"
#include "soft_tokens.h"

namespace gemma3 {
namespace {

ProgramName program_of(const PrefillCall &call) {
  return call.images ? ProgramName::kPrefillImages : ProgramName::kPrefill;
}

}  // namespace

Session::Session(std::shared_ptr<Model> model, SessionSettings settings)
    : model_(std::move(model)),
      settings_(std::move(settings)),
      prefill_sizes_(model_->grid().tokens(ProgramName::kPrefill, settings_.shape)),
      image_sizes_(model_->grid().tokens(ProgramName::kPrefillImages, settings_.shape)),
      generate_sizes_(model_->grid().tokens(ProgramName::kGenerate, settings_.shape)),
      rows_(static_cast<size_t>(settings_.shape.batch)) {}

void Session::throw_if_cancelled() {
  if (cancel_.exchange(false)) cancelled();
  throw_if_set(settings_.cancel);
  model_->throw_if_cancelled();
}

bool Session::running() const {
  return std::any_of(rows_.begin(), rows_.end(), [](auto &row) { return row.remaining > 0; });
}

// What is fed: a row that has text goes on with its last token, which is not in the cache yet.
std::vector<Tokens> Session::texts_of(const Feed &feed) const {
  std::vector<Tokens> texts(feed.count());
  for (size_t row = 0; row < feed.count(); ++row) {
    const gemma3_prompt &prompt = feed.prompts[row];
    if (prompt.count == 0) continue;
    if (rows_[row].token >= 0) texts[row].push_back(rows_[row].token);
    texts[row].insert(texts[row].end(), prompt.tokens, prompt.tokens + prompt.count);
  }
  return texts;
}

void Session::check_room(const std::vector<Tokens> &texts,
                         const std::vector<int64_t> &new_tokens) const {
  for (size_t row = 0; row < texts.size(); ++row) {
    if (texts[row].empty()) continue;
    const auto length = static_cast<int64_t>(texts[row].size());
    const int64_t position = rows_[row].position;
    // The last token drawn is not fed.
    if (position + length + new_tokens[row] - 1 <= settings_.shape.cache) continue;
    refuse(GEMMA3_CONTEXT_FULL, "row " + std::to_string(row) + ": " + count_of(length, "token") +
                                    " and " + count_of(new_tokens[row], "new token") +
                                    " do not fit after " + count_of(position, "token") +
                                    ": the session has room for " +
                                    std::to_string(settings_.shape.cache) +
                                    "; open one with more positions, or re-export with --cache " +
                                    std::to_string(round_up(position + length + new_tokens[row])));
  }
}

std::vector<PrefillCall> Session::plan(const std::vector<Tokens> &texts, bool images) const {
  if (images) {
    if (image_sizes_.empty()) {
      refuse("cannot generate from images in this session: open one with GEMMA3_IMAGES");
    }
    return plan_images(texts, model_->manifest().vision->soft_token_id, image_sizes_,
                       prefill_sizes_);
  }
  std::vector<int64_t> lengths;
  for (const Tokens &text : texts) lengths.push_back(static_cast<int64_t>(text.size()));
  return plan_text(lengths, prefill_sizes_);
}

std::set<Bucket> Session::buckets(const std::vector<Tokens> &texts, bool images,
                                  int64_t new_tokens) const {
  const auto [batch, cache] = settings_.shape;
  std::set<Bucket> buckets;
  for (const PrefillCall &call : plan(texts, images)) {
    buckets.insert({program_of(call), batch, call.size, cache});
  }
  if (new_tokens <= 1) return buckets;
  if (settings_.logprobs > 0 || generate_sizes_.empty()) {
    buckets.insert({ProgramName::kDecode, batch, 1, cache});
  } else {
    buckets.insert({ProgramName::kGenerate, batch, pick(new_tokens - 1, generate_sizes_), cache});
  }
  return buckets;
}

// The programs that a prefill runs, and what follows it begins with.
std::set<Bucket> Session::buckets_of(const Feed &feed, const std::vector<Tokens> &texts,
                                     bool images) const {
  int64_t most = 1;
  for (size_t row = 0; row < texts.size() && feed.draws; ++row) {
    if (!texts[row].empty()) most = std::max(most, feed.new_tokens[row]);
  }
  std::set<Bucket> needed = buckets(texts, images, most);
  if (!images) return needed;
  int64_t pictures = 0;
  for (size_t row = 0; row < feed.count(); ++row) {
    pictures += static_cast<int64_t>(feed.prompts[row].images);
  }
  for (const auto &[bucket, used] : plan_encoding(*model_, pictures)) needed.insert(bucket);
  return needed;
}

Step Session::prefill(const Feed &feed) {
  const bool images = has_images(feed.prompts, feed.count());
  const std::vector<Tokens> texts = texts_of(feed);
  check_room(texts, feed.new_tokens);
  const auto between = [this] { throw_if_cancelled(); };
  model_->prepare(buckets_of(feed, texts, images), between);
  const double begun = seconds();
  SoftTokens soft;
  if (images) soft = SoftTokens::encode(*model_, feed.prompts, feed.count(), texts, between);
  Step step(batch());
  throw_if_cancelled();
  const uint64_t calls = stats_.calls;
  const std::vector<RowSettings> before = settings_.rows;
  for (size_t row = 0; row < feed.rows.size(); ++row) {
    if (!texts[row].empty()) settings_.rows[row] = feed.rows[row];
  }
  try {
    take_in(texts, plan(texts, images), images ? &soft : nullptr, feed.draws, step);
  } catch (...) {
    settings_.rows = before;
    // A chunk has taken the place of what the row began with, so it cannot be fed again.
    for (size_t row = 0; row < texts.size() && stats_.calls > calls; ++row) {
      if (!texts[row].empty()) reset(row);
    }
    throw;
  }
  for (size_t row = 0; row < texts.size(); ++row) {
    if (texts[row].empty()) continue;
    SessionRow &state = rows_[row];
    state.position += static_cast<int32_t>(texts[row].size());
    state.written = std::max(state.written, state.position);
    state.remaining = feed.draws ? static_cast<int32_t>(feed.new_tokens[row]) : 0;
    if (feed.draws) step.tokens[row].push_back(state.token);
    if (!feed.draws) state.token = -1;
    stats_.prefill_tokens += texts[row].size();
  }
  stats_.prefill_s += seconds() - begun;
  return account(std::move(step));
}

// Runs the calls of a prefill; the token of each row whose text ended, and its likeliest tokens.
void Session::take_in(const std::vector<Tokens> &texts, const std::vector<PrefillCall> &calls,
                      const SoftTokens *soft, bool draws, Step &step) {
  for (const PrefillCall &call : calls) {
    throw_if_cancelled();
    std::vector<size_t> ended;
    for (size_t row = 0; row < call.rows.size(); ++row) {
      const auto [start, length] = call.rows[row];
      const bool last = start + length == static_cast<int64_t>(texts[row].size());
      if (length > 0 && last && draws) ended.push_back(row);
    }
    Outputs outputs;
    const LoadedProgram &program = feed(texts, call, soft, outputs);
    // Of the others nothing is fetched. They are waited for all the same: calls that queue up on the
    // device could not be cancelled.
    if (ended.empty()) {
      program.wait(outputs);
      continue;
    }
    const HostArray tokens = program.fetch(outputs, 0);
    after_call();
    for (size_t row : ended) rows_[row].token = tokens.data<int32_t>()[row];
    if (settings_.logprobs > 0) {
      const HostArray logits = program.fetch(outputs, 1);
      const int64_t vocab = logits.shape()[1];
      for (size_t row : ended) {
        step.tops[row].push_back(top_tokens(
            logits.data<float>() + static_cast<int64_t>(row) * vocab, vocab, settings_.logprobs));
      }
    }
  }
}

// Runs one prefill call. Texts begin at their rows' positions.
const LoadedProgram &Session::feed(const std::vector<Tokens> &texts, const PrefillCall &call,
                                   const SoftTokens *soft, Outputs &outputs) {
  const int64_t size = settings_.shape.batch;
  HostArrays inputs{HostArray("int32", {size, call.size}), HostArray("int32", {size}),
                    HostArray("int32", {size})};
  for (size_t row = 0; row < call.rows.size(); ++row) {
    const auto [start, length] = call.rows[row];
    std::copy_n(
        texts[row].data() + std::min<int64_t>(start, static_cast<int64_t>(texts[row].size())),
        length, inputs[0].data<int32_t>() + static_cast<int64_t>(row) * call.size);
    inputs[1].data<int32_t>()[row] = rows_[row].position + static_cast<int32_t>(start);
    inputs[2].data<int32_t>()[row] = static_cast<int32_t>(length);
  }
  if (call.images) soft->add_inputs(call, size, inputs);
  return run(program_of(call), call.size, std::move(inputs), outputs);
}

// Calls a program of this session's shape; the cache changes in place. It is made when the first
// program is there, so that what a manifest claims has been compared with a program by then.
const LoadedProgram &Session::run(ProgramName name, int64_t tokens, HostArrays inputs,
                                  Outputs &outputs) {
  const Bucket bucket{name, settings_.shape.batch, tokens, settings_.shape.cache};
  const LoadedProgram &program = model_->program(bucket);
  if (stats_.calls == 0 && cache_.empty()) cache_ = model_->new_cache(settings_.shape);
  if (home_.empty()) {
    for (const Shards &part : cache_) {
      for (const Buffer &buffer : part) home_.push_back(model_->client().address(buffer));
    }
  }
  add_sampling(inputs);
  stats_.calls += 1;
  outputs = program.run(inputs, cache_);
  return program;
}

// Where results have been waited for: whether the cache is where it was from the start.
void Session::after_call() {
  bool in_place = !home_.empty() && home_[0] != 0;
  size_t at = 0;
  for (const Shards &part : cache_) {
    for (const Buffer &buffer : part) {
      in_place = in_place && model_->client().address(buffer) == home_[at++];
    }
  }
  stats_.in_place += in_place ? 1 : 0;
  model_->count_call(in_place);
}

void Session::add_sampling(HostArrays &inputs) const {
  std::vector<gemma3_sampling> rows;
  for (const RowSettings &row : settings_.rows) rows.push_back(row.sampling);
  rows.resize(batch());
  for (HostArray &input : sampling_inputs(rows)) inputs.push_back(std::move(input));
}

}  // namespace gemma3
