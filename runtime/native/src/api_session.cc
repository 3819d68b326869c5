// The C ABI, third part: sessions.

#include <algorithm>

#include "handles.h"
#include "json.h"
#include "prompts.h"

using gemma3::give;
using gemma3::guarded;
using gemma3::refuse;
using gemma3::required;
using gemma3::sampling_of;
using gemma3::to_text;
using gemma3::versioned;

namespace {

// The sampling of each row.
std::vector<gemma3_sampling> sampling_rows(const gemma3::Model &model,
                                           const gemma3_session_options &options) {
  const auto known =
      gemma3::sampling_elements(options.sampling, options.sampling_size, options.sampling_count);
  return sampling_of(model, options.sampling == nullptr ? nullptr : known.data(), known.size(),
                     options.rows);
}

gemma3::SessionSettings settings_of(const gemma3::Model &model,
                                    const gemma3_session_options &options) {
  gemma3::check_flags(options.flags, GEMMA3_IGNORE_EOS | GEMMA3_IMAGES, "options.flags");
  const bool images = (options.flags & GEMMA3_IMAGES) != 0;
  const auto [shapes, what] = gemma3::usable_shapes(model, options.logprobs > 0, images);
  const int64_t most = model.grid().longest(shapes, what);
  const int64_t positions = options.positions > 0 ? options.positions : most;
  model.grid().require_fit(shapes, what, positions, 0);
  if (options.rows < 1) refuse("rows: expected at least 1, got 0");
  const int64_t vocab = model.manifest().model.vocab_size;
  if (options.logprobs > vocab) {
    refuse("logprobs: expected 0 to " + std::to_string(vocab) + " (the vocabulary), got " +
           std::to_string(options.logprobs));
  }
  int64_t rows = 0;  // at most; compared before groups are made of so many
  for (const gemma3::GroupShape &shape : shapes) {
    if (shape.cache >= positions) rows = std::max(rows, shape.batch);
  }
  if (options.rows > rows) {
    refuse("rows: expected at most " + std::to_string(rows) + " in one session, got " +
           std::to_string(options.rows) + "; open several, or re-export with --batch " +
           std::to_string(options.rows));
  }
  const auto groups = model.grid().groups(shapes, options.rows, positions);
  gemma3::SessionSettings settings;
  settings.shape = groups.front().shape;
  const gemma3::StopTokens stops(model, (options.flags & GEMMA3_IGNORE_EOS) != 0,
                                 options.stop_tokens, options.stop_count);
  for (const gemma3_sampling &own : sampling_rows(model, options))
    settings.rows.push_back({own, stops});
  settings.logprobs = options.logprobs;
  settings.images = images;
  return settings;
}

gemma3::Session &session_of(gemma3_session *session) {
  return *required(session, "session").session;
}

size_t checked_row(const gemma3::Session &session, uint32_t row) {
  if (row < session.rows()) return row;
  refuse("row: expected 0 to " + std::to_string(session.rows() - 1) + ", got " +
         std::to_string(row));
}

int64_t checked_count(uint32_t max_new_tokens) {
  if (max_new_tokens >= 1 && max_new_tokens <= INT32_MAX) return max_new_tokens;
  refuse("max new tokens: expected at least 1, got " + std::to_string(max_new_tokens));
}

// A row's settings, where a prefill changes them.
gemma3::RowSettings row_settings(const gemma3::Session &session, size_t row,
                                 const gemma3_row_options &options) {
  gemma3::RowSettings settings = session.settings().rows[row];
  gemma3::check_flags(options.flags, GEMMA3_IGNORE_EOS, "flags of a row");
  const auto sampling = gemma3::sampling_elements(options.sampling, options.sampling_size, 1);
  if (!sampling.empty())
    settings.sampling = sampling_of(session.model(), sampling.data(), 1, 1).front();
  if (options.stop_tokens != nullptr || options.stop_count > 0) {
    settings.stops = gemma3::StopTokens(session.model(), (options.flags & GEMMA3_IGNORE_EOS) != 0,
                                        options.stop_tokens, options.stop_count);
  }
  return settings;
}

// A prefill of the caller with its arrays, whatever the sizes of theirs.
struct KnownPrefill {
  KnownPrefill(const gemma3::Session &session, const gemma3_prefill *given)
      : prefill(gemma3::versioned(given, "prefill")),
        prompts(gemma3::elements(prefill.prompts, prefill.prompt_size, prefill.prompt_count,
                                 "prompt_size")) {
    gemma3::check_flags(prefill.flags, GEMMA3_NO_DRAW, "prefill.flags");
    check_prompts(session.model(), prompts.data(), prompts.size(), true);
    check_images(session.model(), prompts.data(), prompts.size());
    if (prompts.size() > session.rows()) {
      refuse("prompts: expected at most " + std::to_string(session.rows()) +
             " (rows of the session), got " + std::to_string(prompts.size()));
    }
    feed.prompts = prompts.data();
    feed.draws = (prefill.flags & GEMMA3_NO_DRAW) == 0;
    add_rows(session);
  }
  KnownPrefill(const KnownPrefill &) = delete;
  KnownPrefill &operator=(const KnownPrefill &) = delete;

  void add_rows(const gemma3::Session &session) {
    const std::vector<gemma3_row_options> rows =
        gemma3::elements(prefill.rows, prefill.row_size, prefill.row_count, "row_size");
    if (prefill.rows != nullptr && rows.size() != prompts.size()) {
      refuse("rows: expected one for each of the " + std::to_string(prompts.size()) +
             " prompts, got " + std::to_string(rows.size()));
    }
    for (size_t row = 0; row < prompts.size(); ++row) {
      const bool own = !rows.empty() && rows[row].max_new_tokens > 0;
      const uint32_t most = own ? rows[row].max_new_tokens : prefill.max_new_tokens;
      const bool counts = feed.draws && prompts[row].count > 0;
      feed.new_tokens.push_back(counts ? checked_count(most) : 1);
      if (rows.empty()) continue;
      feed.rows.push_back(prompts[row].count > 0 ? row_settings(session, row, rows[row])
                                                 : session.settings().rows[row]);
    }
  }

  gemma3_prefill prefill;
  std::vector<gemma3_prompt> prompts;
  gemma3::Feed feed;
};

// The cancel of a call on a session, for as long as the call lasts.
class Cancelling {
 public:
  Cancelling(gemma3::Session &session, const gemma3_cancel *cancel) : session_(session) {
    session_.set_cancel(cancel);
  }
  ~Cancelling() { session_.set_cancel(nullptr); }
  Cancelling(const Cancelling &) = delete;
  Cancelling &operator=(const Cancelling &) = delete;

 private:
  gemma3::Session &session_;
};

gemma3_step step_of(const gemma3::Session &session, const gemma3_step *given) {
  const gemma3_step step = gemma3::versioned(given, "step");
  const size_t rows = session.rows();
  if (step.tokens != nullptr && step.token_count != rows) {
    refuse("tokens: expected one for each of the " + std::to_string(rows) + " rows, got " +
           std::to_string(step.token_count));
  }
  if (step.next != nullptr) gemma3::require_room("next", step.next_capacity, rows);
  const auto vocab = static_cast<size_t>(session.model().manifest().model.vocab_size);
  if (step.logits != nullptr) gemma3::require_room("logits", step.logits_capacity, rows * vocab);
  return step;
}

}  // namespace

extern "C" {

gemma3_status gemma3_session_open(gemma3_model *model, const gemma3_session_options *options,
                                  gemma3_session **session, gemma3_error *error) {
  return guarded(error, [&] {
    required(session, "session");
    const auto &own = required(model, "model").model;
    const gemma3_session_options known = versioned(options, "options");
    auto opened = std::make_unique<gemma3::Session>(own, settings_of(*own, known));
    const gemma3::GroupShape shape = opened->settings().shape;
    own->log(GEMMA3_LOG_DEBUG, "session of " + std::to_string(opened->rows()) + " rows: batch " +
                                   std::to_string(shape.batch) + ", cache " +
                                   std::to_string(shape.cache));
    *session = new gemma3_session(std::move(opened));
  });
}

void gemma3_session_close(gemma3_session *session) { delete session; }

gemma3_status gemma3_session_prefill(gemma3_session *session, const gemma3_prefill *prefill,
                                     gemma3_token_fn on_token, void *user, gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::Session &own = session_of(session);
    const KnownPrefill known(own, prefill);
    const Cancelling cancelling(own, known.prefill.cancel);
    const gemma3::Step step = own.prefill(known.feed);
    for (size_t row = 0; row < known.prompts.size(); ++row) {
      if (known.prompts[row].count > 0) session->teller.begin(row);
    }
    session->teller.tell(own, step, on_token, user);
  });
}

gemma3_status gemma3_session_decode(gemma3_session *session, const gemma3_step *step,
                                    gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::Session &own = session_of(session);
    const gemma3_step known = step_of(own, step);
    const Cancelling cancelling(own, known.cancel);
    own.decode(known);
  });
}

gemma3_status gemma3_session_generate(gemma3_session *session, uint32_t chunk,
                                      gemma3_token_fn on_token, void *user, gemma3_cancel *cancel,
                                      gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::Session &own = session_of(session);
    const Cancelling cancelling(own, cancel);
    while (own.running()) session->teller.tell(own, own.advance(chunk), on_token, user);
  });
}

void gemma3_session_cancel(gemma3_session *session) {
  if (session != nullptr) session->session->cancel();
}

gemma3_status gemma3_session_reset(gemma3_session *session, int32_t row, gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::Session &own = session_of(session);
    const auto rows = static_cast<int64_t>(own.rows());
    if (row < -1 || row >= rows) {
      refuse("row: expected -1 to " + std::to_string(rows - 1) + ", got " + std::to_string(row));
    }
    for (int64_t i = 0; i < rows; ++i) {
      if (row == -1 || row == i) own.reset(static_cast<size_t>(i));
    }
  });
}

gemma3_status gemma3_session_truncate(gemma3_session *session, uint32_t row, uint32_t position,
                                      gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::Session &own = session_of(session);
    own.truncate(checked_row(own, row), position);
  });
}

gemma3_status gemma3_session_rows(const gemma3_session *session, gemma3_row *rows, size_t row_size,
                                  size_t count, gemma3_error *error) {
  return guarded(error, [&] {
    const gemma3::Session &own = *required(session, "session").session;
    required(rows, "rows");
    if (count > own.rows()) {
      refuse("rows: expected at most " + std::to_string(own.rows()) + ", got " +
             std::to_string(count));
    }
    std::vector<gemma3_row> known;
    for (size_t row = 0; row < count; ++row) {
      const gemma3::SessionRow &state = own.row(row);
      known.push_back(
          {state.position, state.token, state.remaining, static_cast<int32_t>(own.least(row))});
    }
    gemma3::fill_elements(rows, row_size, known, "row_size");
  });
}

gemma3_status gemma3_session_stats(const gemma3_session *session, char **json,
                                   gemma3_error *error) {
  return guarded(error, [&] {
    required(json, "json");
    const gemma3::Session &own = *required(session, "session").session;
    const gemma3::SessionStats &stats = own.stats();
    int64_t bytes = 0;
    for (const gemma3::Tensor &tensor : own.model().cache_of(own.settings().shape)) {
      bytes += gemma3::byte_size(tensor.shape, tensor.dtype);
    }
    const gemma3::Json told = {{"rows", own.rows()},
                               {"batch", own.settings().shape.batch},
                               {"cache", own.settings().shape.cache},
                               {"cache_bytes", bytes},
                               {"prefill_tokens", stats.prefill_tokens},
                               {"prefill_s", stats.prefill_s},
                               {"decode_tokens", stats.decode_tokens},
                               {"decode_s", stats.decode_s},
                               {"calls", stats.calls},
                               {"donated_in_place", stats.in_place}};
    *json = give(to_text(told));
  });
}

gemma3_status gemma3_session_save(gemma3_session *session, uint8_t **bytes, size_t *count,
                                  gemma3_error *error) {
  return guarded(error, [&] {
    required(bytes, "bytes");
    required(count, "count");
    const std::string saved = session_of(session).save();
    *bytes = reinterpret_cast<uint8_t *>(give(saved));
    *count = saved.size();
  });
}

gemma3_status gemma3_session_restore(gemma3_model *model, const uint8_t *bytes, size_t count,
                                     gemma3_session **session, gemma3_error *error) {
  return guarded(error, [&] {
    required(session, "session");
    required(bytes, "bytes");
    const std::string_view view(reinterpret_cast<const char *>(bytes), count);
    *session = new gemma3_session(gemma3::Session::restore(required(model, "model").model, view));
  });
}

}  // extern "C"
