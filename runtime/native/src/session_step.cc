// Steps of a session: tokens of its rows, drawn by the programs generate and decode.

#include <algorithm>
#include <utility>

#include "convention.h"
#include "error.h"
#include "session.h"

namespace gemma3 {

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
  for (const SessionRow &row : rows_) remaining = std::max<int64_t>(remaining, row.remaining);
  const int64_t wanted = std::min(remaining, chunk > 0 ? chunk : *generate_sizes_.rbegin());
  const int64_t size = pick(wanted, generate_sizes_);
  HostArrays inputs = next_tokens();
  inputs.push_back(column(&SessionRow::remaining));
  inputs.emplace_back("int32", Shape{settings_.shape.batch, kStopTokens});
  int32_t *limits = inputs[2].data<int32_t>(), *stops = inputs[3].data<int32_t>();
  for (size_t row = 0; row < batch(); ++row) {
    limits[row] = std::min(limits[row], static_cast<int32_t>(std::min(wanted, size)));
    std::fill_n(stops + row * kStopTokens, kStopTokens, -1);
    if (row >= rows()) continue;
    const std::vector<int32_t> &own = settings_.rows[row].stops.in_order();
    std::copy_n(own.begin(), std::min<size_t>(own.size(), kStopTokens), stops + row * kStopTokens);
  }
  const std::vector<int32_t> limit(limits, limits + batch());
  Outputs outputs;
  const LoadedProgram &program = run(ProgramName::kGenerate, size, std::move(inputs), outputs);
  const HostArray tokens = program.fetch(outputs, 0), counts = program.fetch(outputs, 1);
  const HostArray last = program.fetch(outputs, 3), position = program.fetch(outputs, 4);
  after_call();
  Step step(batch());
  const int32_t most = *std::max_element(counts.data<int32_t>(), counts.data<int32_t>() + batch());
  for (size_t row = 0; row < batch(); ++row) {  // before anything is believed
    if (limit[row] == 0) continue;
    const int32_t count = counts.data<int32_t>()[row];
    const int64_t moved = int64_t{position.data<int32_t>()[row]} - rows_[row].position;
    if (count < 1 || count > limit[row] || moved != count) {
      fail("program generate gave " + std::to_string(count) + " tokens of at most " +
           std::to_string(limit[row]) + " and moved by " + std::to_string(moved) +
           ": export the bundle again");
    }
  }
  for (size_t row = 0; row < batch(); ++row) {
    // While others went on, a row that paused may have been written where it paused.
    const int32_t count = limit[row] == 0 ? 0 : counts.data<int32_t>()[row];
    const bool paused = limit[row] == 0 || count < most;
    mark_written(row, rows_[row].position + count + (paused ? 1 : 0));
    if (limit[row] == 0) continue;
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
  Outputs outputs;
  const LoadedProgram &program = run(ProgramName::kDecode, 1, next_tokens(), outputs);
  const HostArray tokens = program.fetch(outputs, 0);
  Step step(batch());
  HostArray logits("float32", {0});
  if (settings_.logprobs > 0) logits = program.fetch(outputs, 1);
  after_call();
  for (size_t row = 0; row < batch(); ++row) {
    mark_written(row, rows_[row].position + 1);
    if (rows_[row].remaining == 0) continue;
    rows_[row].token = tokens.data<int32_t>()[row];
    rows_[row].position += 1;
    step.tokens[row].push_back(rows_[row].token);
    if (settings_.logprobs == 0) continue;
    const int64_t vocab = logits.shape()[1];
    step.tops[row].push_back(top_tokens(logits.data<float>() + static_cast<int64_t>(row) * vocab,
                                        vocab, settings_.logprobs));
  }
  return account(std::move(step));
}

// What a step feeds; refused where a row cannot take it.
HostArrays Session::step_inputs(const int32_t *tokens) const {
  if (model_->grid().tokens(ProgramName::kDecode, settings_.shape).empty()) {
    refuse("cannot decode: " + model_->grid().source() +
           " has no decode program; re-export with decode among --programs");
  }
  HostArrays inputs = next_tokens();
  for (size_t row = 0; row < rows(); ++row) {
    const std::string name = "row " + std::to_string(row);
    if (rows_[row].position == 0) continue;
    if (rows_[row].position >= settings_.shape.cache) {
      refuse(GEMMA3_CONTEXT_FULL, name + " is full: the session has room for " +
                                      count_of(settings_.shape.cache, "token") +
                                      "; open one with more positions");
    }
    if (tokens == nullptr && rows_[row].token < 0) {
      refuse(name + " has no last token: pass tokens, or prefill it without GEMMA3_NO_DRAW");
    }
    if (tokens == nullptr) continue;
    check_token(*model_, tokens[row], "token of " + name);
    inputs[0].data<int32_t>()[row] = tokens[row];
  }
  return inputs;
}

void Session::decode(const gemma3_step &step) {
  HostArrays inputs = step_inputs(step.tokens);
  throw_if_cancelled();
  const double begun = seconds();
  Outputs outputs;
  const LoadedProgram &program = run(ProgramName::kDecode, 1, std::move(inputs), outputs);
  const HostArray drawn = program.fetch(outputs, 0);
  if (step.logits != nullptr) {
    const HostArray table = program.fetch(outputs, 1);
    std::copy_n(table.data<float>(), static_cast<int64_t>(rows()) * table.shape()[1], step.logits);
  }
  after_call();
  for (size_t row = 0; row < batch(); ++row) mark_written(row, rows_[row].position + 1);
  for (size_t row = 0; row < rows(); ++row) {
    if (rows_[row].position == 0) continue;
    rows_[row].token = drawn.data<int32_t>()[row];
    rows_[row].position += 1;
    rows_[row].remaining = std::max(0, rows_[row].remaining - 1);
    stats_.decode_tokens += 1;
  }
  for (size_t row = 0; row < rows() && step.next != nullptr; ++row) {
    step.next[row] = rows_[row].token;
  }
  stats_.decode_s += seconds() - begun;
}

// Last tokens and positions of all rows. A row without a last token is idle: what it is fed is
// overwritten before anything reads it.
HostArrays Session::next_tokens() const {
  HostArrays inputs{column(&SessionRow::token), column(&SessionRow::position)};
  int32_t *tokens = inputs[0].data<int32_t>();
  for (size_t row = 0; row < batch(); ++row) tokens[row] = std::max(tokens[row], 0);
  return inputs;
}

HostArray Session::column(int32_t SessionRow::*member) const {
  HostArray values("int32", {settings_.shape.batch});
  for (size_t row = 0; row < batch(); ++row) values.data<int32_t>()[row] = rows_[row].*member;
  return values;
}

// Counts new tokens against each row's budget and ends rows at their stop tokens. The device knows
// only the first few stop tokens, so all are looked for here again.
Step Session::account(Step step) {
  for (size_t row = 0; row < rows(); ++row) {
    Tokens &tokens = step.tokens[row];
    const auto stop = std::find_if(tokens.begin(), tokens.end(),
                                   [&](int32_t token) { return is_stop(row, token); });
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
