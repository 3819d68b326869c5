// Rows of a session: what ends them, and how far they can go back.

#include <algorithm>

#include "error.h"
#include "session.h"

namespace gemma3 {

StopTokens::StopTokens(const Model &model, bool ignore_eos, const int32_t *more, size_t count) {
  if (more == nullptr && count > 0) refuse("stop tokens: expected an array, got none");
  if (!ignore_eos) {
    for (int64_t token : model.manifest().model.eos_token_ids) add(static_cast<int32_t>(token));
  }
  for (size_t i = 0; i < count; ++i) {
    check_token(model, more[i], "stop token");
    add(more[i]);
  }
}

StopTokens::StopTokens(const std::vector<int64_t> &tokens) {
  for (int64_t token : tokens) add(static_cast<int32_t>(token));
}

void StopTokens::add(int32_t token) {
  if (set_.insert(token).second) tokens_.push_back(token);
}

void Session::mark_written(size_t row, int32_t end) {
  rows_[row].written = std::max(rows_[row].written, end);
}

// A ring of S slots has position p until p + S is written, so of `written` positions it has those
// from written - S on. Cut off at n, the next token sees positions n - W + 1 to n - 1 of a window W.
// All of them are there when n - W + 1 is not negative and at least written - S, or when nothing was
// overwritten at all. Layers that are no rings have every position.
int64_t Session::least(size_t row) const {
  const int64_t written = rows_[row].written;
  // A window that is longer than the cache is never full.
  const int64_t window =
      std::min(model_->manifest().model.sliding_window, settings_.shape.cache + 1);
  int64_t least = 0;
  for (const CacheLayout &layout : model_->manifest().caches) {
    if (layout.cache != settings_.shape.cache) continue;
    for (const CacheLayer &layer : layout.layers) {
      if (layer.kind != "ring" || written <= layer.slots) continue;
      least = std::max(least, written - layer.slots + window - 1);
    }
  }
  // What an idle row was written at its own position hides only what it does not see any more.
  return std::min<int64_t>(least, rows_[row].position);
}

void Session::truncate(size_t row, int64_t position) {
  SessionRow &state = rows_[row];
  if (position == 0) return reset(row);
  const int64_t from = least(row);
  if (position < from || position > state.position) {
    refuse("row " + std::to_string(row) + ": expected 0 or a position from " +
           std::to_string(from) + " to " + std::to_string(state.position) + ", got " +
           std::to_string(position) +
           (position < from ? "; keys before that have left the sliding window: begin the row again"
                            : ""));
  }
  state.position = static_cast<int32_t>(position);
  state.token = -1;
  state.remaining = 0;
}

}  // namespace gemma3
