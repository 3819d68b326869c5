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

std::vector<int32_t> stop_tokens_of(const Model &model, bool ignore_eos, const int32_t *more,
                                    size_t count) {
  if (more == nullptr && count > 0) refuse("stop tokens: expected an array, got none");
  std::vector<int32_t> tokens;
  std::set<int32_t> seen;
  const auto add = [&](int32_t token) {
    if (seen.insert(token).second) tokens.push_back(token);
  };
  if (!ignore_eos) {
    for (int64_t token : model.manifest().model.eos_token_ids) add(static_cast<int32_t>(token));
  }
  for (size_t i = 0; i < count; ++i) {
    check_token(model, more[i], "stop token");
    add(more[i]);
  }
  return tokens;
}

Session::Session(std::shared_ptr<Model> model, SessionSettings settings)
    : model_(std::move(model)),
      settings_(std::move(settings)),
      prefill_sizes_(model_->grid().tokens(ProgramName::kPrefill, settings_.shape)),
      image_sizes_(model_->grid().tokens(ProgramName::kPrefillImages, settings_.shape)),
      generate_sizes_(model_->grid().tokens(ProgramName::kGenerate, settings_.shape)),
      stops_(settings_.stop_tokens.begin(), settings_.stop_tokens.end()),
      rows_(static_cast<size_t>(settings_.shape.batch)) {
  settings_.sampling.resize(batch());
}

gemma3_row Session::row(size_t index) const { return rows_[index]; }

void Session::throw_if_cancelled() {
  if (cancel_.exchange(false)) cancelled();
  throw_if_set(settings_.cancel);
  model_->throw_if_cancelled();
}

bool Session::running() const {
  return std::any_of(rows_.begin(), rows_.end(), [](auto &row) { return row.remaining > 0; });
}

// What is fed: a row that has text goes on with its last token, which is not in the cache yet.
std::vector<Tokens> Session::texts_of(const gemma3_prompt *prompts, size_t count) const {
  std::vector<Tokens> texts(count);
  for (size_t row = 0; row < count; ++row) {
    if (prompts[row].count == 0) continue;
    if (rows_[row].position > 0) texts[row].push_back(rows_[row].token);
    texts[row].insert(texts[row].end(), prompts[row].tokens,
                      prompts[row].tokens + prompts[row].count);
  }
  return texts;
}

void Session::check_room(const std::vector<Tokens> &texts, int64_t new_tokens) const {
  for (size_t row = 0; row < texts.size(); ++row) {
    if (texts[row].empty()) continue;
    const auto length = static_cast<int64_t>(texts[row].size());
    const int64_t position = rows_[row].position;
    // The last token drawn is not fed.
    if (position + length + new_tokens - 1 <= settings_.shape.cache) continue;
    refuse("row " + std::to_string(row) + ": " + count_of(length, "token") + " and " +
           count_of(new_tokens, "new token") + " do not fit after " +
           count_of(position, "token") + ": the session has room for " +
           std::to_string(settings_.shape.cache) +
           "; open one with more positions, or re-export with --cache " +
           std::to_string(round_up(position + length + new_tokens)));
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

Step Session::prefill(const gemma3_prompt *prompts, size_t count, int64_t new_tokens) {
  const bool images = has_images(prompts, count);
  const std::vector<Tokens> texts = texts_of(prompts, count);
  check_room(texts, new_tokens);
  std::set<Bucket> needed = buckets(texts, images, new_tokens);
  if (images) {
    int64_t pictures = 0;
    for (size_t row = 0; row < count; ++row) pictures += static_cast<int64_t>(prompts[row].images);
    for (const auto &[bucket, used] : plan_encoding(*model_, pictures)) needed.insert(bucket);
  }
  const auto between = [this] { throw_if_cancelled(); };
  model_->prepare(needed, between);
  const double begun = seconds();
  SoftTokens soft;
  if (images) soft = SoftTokens::encode(*model_, prompts, count, texts, between);
  Step step{std::vector<Tokens>(batch()), std::vector<std::vector<TopTokens>>(batch())};
  throw_if_cancelled();
  const uint64_t calls = stats_.calls;
  try {
    take_in(texts, plan(texts, images), images ? &soft : nullptr, step);
  } catch (const Error &) {
    // A chunk has taken the place of what the row began with, so it cannot be fed again.
    for (size_t row = 0; row < count && stats_.calls > calls; ++row) {
      if (!texts[row].empty()) reset(row);
    }
    throw;
  }
  for (size_t row = 0; row < count; ++row) {
    if (texts[row].empty()) continue;
    rows_[row].position += static_cast<int32_t>(texts[row].size());
    rows_[row].remaining = static_cast<int32_t>(new_tokens);
    step.tokens[row].push_back(rows_[row].token);
    stats_.prefill_tokens += texts[row].size();
  }
  stats_.prefill_s += seconds() - begun;
  return account(std::move(step));
}

// Runs the calls of a prefill; the token of each row whose text ended, and its likeliest tokens.
void Session::take_in(const std::vector<Tokens> &texts, const std::vector<PrefillCall> &calls,
                      const SoftTokens *soft, Step &step) {
  for (const PrefillCall &call : calls) {
    throw_if_cancelled();
    std::vector<size_t> ended;
    for (size_t row = 0; row < call.rows.size(); ++row) {
      const auto [start, length] = call.rows[row];
      const bool last = start + length == static_cast<int64_t>(texts[row].size());
      if (length > 0 && last) ended.push_back(row);
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
    std::copy_n(texts[row].data() + std::min<int64_t>(start, static_cast<int64_t>(texts[row].size())),
                length, inputs[0].data<int32_t>() + static_cast<int64_t>(row) * call.size);
    inputs[1].data<int32_t>()[row] = rows_[row].position + static_cast<int32_t>(start);
    inputs[2].data<int32_t>()[row] = static_cast<int32_t>(length);
  }
  if (call.images) soft->add_inputs(call, size, inputs);
  return run(program_of(call), call.size, std::move(inputs), outputs);
}

Step Session::advance(int64_t chunk) {
  throw_if_cancelled();
  const double begun = seconds();
  const bool one = settings_.logprobs > 0 || generate_sizes_.empty();
  Step step = one ? advance_one() : advance_some(chunk);
  stats_.decode_s += seconds() - begun;
  for (const Tokens &tokens : step.tokens) stats_.decode_tokens += tokens.size();
  return step;
}

// Up to `chunk` tokens for every active row, drawn by one loop on the devices.
Step Session::advance_some(int64_t chunk) {
  int64_t remaining = 0;
  for (const gemma3_row &row : rows_) remaining = std::max<int64_t>(remaining, row.remaining);
  const int64_t wanted = std::min(remaining, chunk > 0 ? chunk : *generate_sizes_.rbegin());
  const int64_t size = pick(wanted, generate_sizes_);
  HostArrays inputs{column(&gemma3_row::token), column(&gemma3_row::position),
                    column(&gemma3_row::remaining),
                    HostArray("int32", {settings_.shape.batch, kStopTokens})};
  int32_t *limits = inputs[2].data<int32_t>(), *stops = inputs[3].data<int32_t>();
  const size_t known = std::min<size_t>(settings_.stop_tokens.size(), kStopTokens);
  for (size_t row = 0; row < batch(); ++row) {
    limits[row] = std::min(limits[row], static_cast<int32_t>(std::min(wanted, size)));
    std::fill_n(stops + row * kStopTokens, kStopTokens, -1);
    std::copy_n(settings_.stop_tokens.begin(), known, stops + row * kStopTokens);
  }
  const std::vector<int32_t> limit(limits, limits + batch());
  Outputs outputs;
  const LoadedProgram &program = run(ProgramName::kGenerate, size, std::move(inputs), outputs);
  const HostArray tokens = program.fetch(outputs, 0), counts = program.fetch(outputs, 1);
  const HostArray last = program.fetch(outputs, 3), position = program.fetch(outputs, 4);
  after_call();
  Step step{std::vector<Tokens>(batch()), std::vector<std::vector<TopTokens>>(batch())};
  for (size_t row = 0; row < batch(); ++row) {
    if (limit[row] == 0) continue;
    const int32_t count = counts.data<int32_t>()[row];
    const int32_t moved = position.data<int32_t>()[row] - rows_[row].position;
    if (count < 1 || count > limit[row] || moved != count) {
      fail("program generate gave " + std::to_string(count) + " tokens of at most " +
           std::to_string(limit[row]) + " and moved by " + std::to_string(moved) +
           ": export the bundle again");
    }
    const int32_t *own = tokens.data<int32_t>() + static_cast<int64_t>(row) * size;
    step.tokens[row].assign(own, own + count);
    rows_[row].token = last.data<int32_t>()[row];
    rows_[row].position += count;
  }
  return account(std::move(step));
}

// One token for every active row. The program has no idle rows: those that are done are fed their
// last token at its place once more, which nothing reads.
Step Session::advance_one() {
  HostArrays inputs{column(&gemma3_row::token), column(&gemma3_row::position)};
  Outputs outputs;
  const LoadedProgram &program = run(ProgramName::kDecode, 1, std::move(inputs), outputs);
  const HostArray tokens = program.fetch(outputs, 0);
  Step step{std::vector<Tokens>(batch()), std::vector<std::vector<TopTokens>>(batch())};
  HostArray logits("float32", {0});
  if (settings_.logprobs > 0) logits = program.fetch(outputs, 1);
  after_call();
  for (size_t row = 0; row < batch(); ++row) {
    if (rows_[row].remaining == 0) continue;
    rows_[row].token = tokens.data<int32_t>()[row];
    rows_[row].position += 1;
    step.tokens[row].push_back(rows_[row].token);
    if (settings_.logprobs == 0) continue;
    const int64_t vocab = logits.shape()[1];
    step.tops[row].push_back(top_tokens(
        logits.data<float>() + static_cast<int64_t>(row) * vocab, vocab, settings_.logprobs));
  }
  return account(std::move(step));
}

void Session::decode(const int32_t *tokens, int32_t *next, float *logits) {
  if (model_->grid().tokens(ProgramName::kDecode, settings_.shape).empty()) {
    refuse("cannot decode: " + model_->grid().source() +
           " has no decode program; re-export with decode among --programs");
  }
  HostArrays inputs{column(&gemma3_row::token), column(&gemma3_row::position)};
  for (size_t row = 0; row < settings_.rows; ++row) {
    if (rows_[row].position == 0) continue;
    if (rows_[row].position >= settings_.shape.cache) {
      refuse("row " + std::to_string(row) + " is full: the session has room for " +
             count_of(settings_.shape.cache, "token") + "; open one with more positions");
    }
    if (tokens == nullptr) continue;
    check_token(*model_, tokens[row], "token of row " + std::to_string(row));
    inputs[0].data<int32_t>()[row] = tokens[row];
  }
  throw_if_cancelled();
  const double begun = seconds();
  Outputs outputs;
  const LoadedProgram &program = run(ProgramName::kDecode, 1, std::move(inputs), outputs);
  const HostArray drawn = program.fetch(outputs, 0);
  if (logits != nullptr) {
    const HostArray table = program.fetch(outputs, 1);
    std::copy_n(table.data<float>(),
                static_cast<int64_t>(settings_.rows) * table.shape()[1], logits);
  }
  after_call();
  for (size_t row = 0; row < settings_.rows; ++row) {
    if (rows_[row].position == 0) continue;
    rows_[row].token = drawn.data<int32_t>()[row];
    rows_[row].position += 1;
    rows_[row].remaining = std::max(0, rows_[row].remaining - 1);
    stats_.decode_tokens += 1;
  }
  for (size_t row = 0; row < settings_.rows && next != nullptr; ++row) next[row] = rows_[row].token;
  stats_.decode_s += seconds() - begun;
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
  for (HostArray &input : sampling_inputs(settings_.sampling)) inputs.push_back(std::move(input));
}

HostArray Session::column(int32_t gemma3_row::*member) const {
  HostArray values("int32", {settings_.shape.batch});
  for (size_t row = 0; row < batch(); ++row) values.data<int32_t>()[row] = rows_[row].*member;
  return values;
}

// Counts new tokens against each row's budget and ends rows at their stop tokens. The device knows
// only the first few stop tokens, so all are looked for here again.
Step Session::account(Step step) {
  for (size_t row = 0; row < batch(); ++row) {
    Tokens &tokens = step.tokens[row];
    const auto stop = std::find_if(tokens.begin(), tokens.end(),
                                   [&](int32_t token) { return is_stop(token); });
    if (stop == tokens.end()) {
      rows_[row].remaining -= static_cast<int32_t>(tokens.size());
    } else {
      tokens.erase(stop + 1, tokens.end());
      rows_[row].remaining = 0;
    }
  }
  return step;
}

}  // namespace gemma3
