// The C ABI, second part: sessions.

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

gemma3::SessionSettings settings_of(const gemma3::Model &model,
                                    const gemma3_session_options &options) {
  gemma3::check_flags(options.flags, GEMMA3_IGNORE_EOS | GEMMA3_IMAGES, "options.flags");
  const bool images = (options.flags & GEMMA3_IMAGES) != 0;
  const auto [shapes, what] = gemma3::usable_shapes(model, options.logprobs > 0, images);
  const int64_t most = model.grid().longest(shapes, what);
  const int64_t positions = options.positions > 0 ? options.positions : most;
  model.grid().require_fit(shapes, what, positions, 0);
  if (options.rows < 1) refuse("rows: expected at least 1, got 0");
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
  settings.rows = options.rows;
  settings.sampling = sampling_of(options.sampling, options.sampling_count, options.rows);
  settings.stop_tokens = stop_tokens_of(model, (options.flags & GEMMA3_IGNORE_EOS) != 0,
                                        options.stop_tokens, options.stop_count);
  settings.logprobs = options.logprobs;
  settings.images = images;
  return settings;
}

gemma3::Session &session_of(gemma3_session *session) {
  return *required(session, "session").session;
}

}  // namespace

extern "C" {

gemma3_status gemma3_session_open(gemma3_model *model, const gemma3_session_options *options,
                                  gemma3_session **session, gemma3_error *error) {
  return guarded(error, [&] {
    required(session, "session");
    const auto &own = required(model, "model").model;
    const gemma3_session_options known = versioned(options, "options");
    *session = new gemma3_session(
        std::make_unique<gemma3::Session>(own, settings_of(*own, known)));
  });
}

void gemma3_session_close(gemma3_session *session) { delete session; }

gemma3_status gemma3_session_prefill(gemma3_session *session, const gemma3_prompt *prompts,
                                     size_t count, uint32_t max_new_tokens,
                                     gemma3_token_fn on_token, void *user, gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::Session &own = session_of(session);
    check_prompts(own.model(), prompts, count, true);
    check_images(own.model(), prompts, count);
    if (count > own.settings().rows) {
      refuse("prompts: expected at most " + std::to_string(own.settings().rows) +
             " (rows of the session), got " + std::to_string(count));
    }
    if (max_new_tokens < 1 || max_new_tokens > INT32_MAX) {
      refuse("max new tokens: expected at least 1, got " + std::to_string(max_new_tokens));
    }
    const gemma3::Step step = own.prefill(prompts, count, max_new_tokens);
    for (size_t row = 0; row < count; ++row) {
      if (prompts[row].count > 0) session->teller.begin(row);
    }
    session->teller.tell(own, step, on_token, user);
  });
}

gemma3_status gemma3_session_decode(gemma3_session *session, const int32_t *tokens, int32_t *next,
                                    float *logits, gemma3_error *error) {
  return guarded(error, [&] { session_of(session).decode(tokens, next, logits); });
}

gemma3_status gemma3_session_generate(gemma3_session *session, uint32_t chunk,
                                      gemma3_token_fn on_token, void *user, gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::Session &own = session_of(session);
    while (own.running()) session->teller.tell(own, own.advance(chunk), on_token, user);
  });
}

void gemma3_session_cancel(gemma3_session *session) {
  if (session != nullptr) session->session->cancel();
}

gemma3_status gemma3_session_reset(gemma3_session *session, int32_t row, gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::Session &own = session_of(session);
    const auto rows = static_cast<int64_t>(own.settings().rows);
    if (row < -1 || row >= rows) {
      refuse("row: expected -1 to " + std::to_string(rows - 1) + ", got " + std::to_string(row));
    }
    for (int64_t i = 0; i < rows; ++i) {
      if (row == -1 || row == i) own.reset(static_cast<size_t>(i));
    }
  });
}

gemma3_status gemma3_session_rows(const gemma3_session *session, gemma3_row *rows, size_t count,
                                  gemma3_error *error) {
  return guarded(error, [&] {
    const gemma3::Session &own = *required(session, "session").session;
    required(rows, "rows");
    if (count > own.settings().rows) {
      refuse("rows: expected at most " + std::to_string(own.settings().rows) + ", got " +
             std::to_string(count));
    }
    for (size_t row = 0; row < count; ++row) rows[row] = own.row(row);
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
    const gemma3::Json told = {{"rows", own.settings().rows},
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
    *session = new gemma3_session(
        gemma3::Session::restore(required(model, "model").model, view));
  });
}

}  // extern "C"
