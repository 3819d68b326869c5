// A batch of rows being generated: its cache, positions and last tokens, stepped by programs.
#ifndef GEMMA3_SRC_SESSION_H_
#define GEMMA3_SRC_SESSION_H_

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "gemma3.h"
#include "model.h"
#include "prompts.h"
#include "sampling.h"

namespace gemma3 {

// The tokens that end a row.
class StopTokens {
 public:
  StopTokens() = default;
  // The model's own unless `ignore_eos`, then the caller's. Throws Error for tokens that the model
  // does not have.
  StopTokens(const Model &model, bool ignore_eos, const int32_t *more, size_t count);
  // Those of a saved session.
  explicit StopTokens(const std::vector<int64_t> &tokens);

  const std::vector<int32_t> &in_order() const { return tokens_; }
  bool has(int32_t token) const { return set_.count(token) > 0; }

 private:
  void add(int32_t token);

  std::vector<int32_t> tokens_;
  std::set<int32_t> set_;
};

// How the tokens of a row are drawn, and which end it.
struct RowSettings {
  gemma3_sampling sampling = {};
  StopTokens stops;
};

struct SessionSettings {
  GroupShape shape;
  std::vector<RowSettings> rows;  // that the caller has; the bucket may have more
  uint32_t logprobs = 0;  // likeliest tokens with each token; above 0: one call for each token
  bool images = false;
  const gemma3_cancel *cancel = nullptr;  // of the request or call that runs
};

// What one call of a program brought: for each row its new tokens and, when asked for, the likeliest
// tokens where each was drawn.
struct Step {
  explicit Step(size_t rows) : tokens(rows), tops(rows) {}

  std::vector<Tokens> tokens;
  std::vector<std::vector<TopTokens>> tops;
};

struct SessionStats {
  uint64_t prefill_tokens = 0, decode_tokens = 0, calls = 0, in_place = 0;
  double prefill_s = 0, decode_s = 0;
};

// What a prefill does, for rows 0, 1, ...
struct Feed {
  const gemma3_prompt *prompts = nullptr;  // one of no tokens leaves its row as it is
  std::vector<int64_t> new_tokens;         // of each prompt, at least 1
  std::vector<RowSettings> rows;           // empty: as they are; else of each prompt
  bool draws = true;                       // false: the cache is filled and no token drawn

  size_t count() const { return new_tokens.size(); }
};

// Where a row of a session is.
struct SessionRow {
  int32_t position = 0;   // tokens in its cache
  int32_t token = -1;     // drawn and not yet fed; -1: none
  int32_t remaining = 0;  // tokens it is still to get
  // Positions below this may have been written since the row was empty. A row that is idle while
  // others step may be written at its own position, so this can be one more than `position`.
  int32_t written = 0;
};

// Not for several threads at once, except `cancel`.
class Session {
 public:
  Session(std::shared_ptr<Model> model, SessionSettings settings);

  const Model &model() const { return *model_; }
  const SessionSettings &settings() const { return settings_; }
  const SessionStats &stats() const { return stats_; }
  size_t rows() const { return settings_.rows.size(); }
  const SessionRow &row(size_t index) const { return rows_[index]; }
  // The position, 0 apart, from which on a row can be truncated.
  int64_t least(size_t row) const;

  // The programs that taking in texts of these lengths, and then going on, begins with.
  std::set<Bucket> buckets(const std::vector<Tokens> &texts, bool images, int64_t new_tokens) const;
  // What gemma3_session_prefill does, without the callback.
  Step prefill(const Feed &feed);
  bool running() const;
  // Up to `chunk` more tokens of every row that is to get some; 0: as many as the program gives.
  Step advance(int64_t chunk);
  // What gemma3_session_decode does; of a struct whose room was looked at.
  void decode(const gemma3_step &step);
  // No more tokens of a row.
  void finish(size_t row) { rows_[row].remaining = 0; }
  void reset(size_t row) { rows_[row] = SessionRow{}; }
  // What gemma3_session_truncate does.
  void truncate(size_t row, int64_t position);
  bool is_stop(size_t row, int32_t token) const { return settings_.rows[row].stops.has(token); }

  void cancel() { cancel_.store(true); }
  // The cancel of a call, which is looked at until the next one.
  void set_cancel(const gemma3_cancel *cancel) { settings_.cancel = cancel; }
  // Throws Error (GEMMA3_CANCELLED) once for each time somebody cancelled the session, and while
  // the call or the model is cancelled.
  void throw_if_cancelled();

  std::string save();
  static std::unique_ptr<Session> restore(std::shared_ptr<Model> model, std::string_view bytes);

 private:
  using Outputs = std::vector<Shards>;

  std::vector<Tokens> texts_of(const Feed &feed) const;
  void check_room(const std::vector<Tokens> &texts, const std::vector<int64_t> &new_tokens) const;
  std::set<Bucket> buckets_of(const Feed &feed, const std::vector<Tokens> &texts,
                              bool images) const;
  std::vector<PrefillCall> plan(const std::vector<Tokens> &texts, bool images) const;
  void take_in(const std::vector<Tokens> &texts, const std::vector<PrefillCall> &calls,
               const struct SoftTokens *soft, bool draws, Step &step);
  const LoadedProgram &feed(const std::vector<Tokens> &texts, const PrefillCall &call,
                            const struct SoftTokens *soft, Outputs &outputs);
  Step advance_some(int64_t chunk);
  Step advance_one();
  const LoadedProgram &run(ProgramName name, int64_t tokens, HostArrays inputs, Outputs &outputs);
  void after_call();
  void add_sampling(HostArrays &inputs) const;
  HostArray column(int32_t SessionRow::*member) const;
  HostArrays next_tokens() const;
  HostArrays step_inputs(const int32_t *tokens) const;
  // Positions of a row below `end` may have been written.
  void mark_written(size_t row, int32_t end);
  Step account(Step step);
  size_t batch() const { return rows_.size(); }

  std::shared_ptr<Model> model_;
  SessionSettings settings_;
  std::set<int64_t> prefill_sizes_, image_sizes_, generate_sizes_;
  std::vector<SessionRow> rows_;  // of the bucket
  std::vector<Shards> cache_;
  std::vector<uintptr_t> home_;  // addresses of the cache when it was made
  SessionStats stats_;
  std::atomic<bool> cancel_{false};
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_SESSION_H_
