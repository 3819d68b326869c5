// The C ABI, third part: gemma3_text.h but for pictures.

#include <optional>
#include <vector>

#include "chat.h"
#include "gemma3_text.h"
#include "handles.h"
#include "model.h"
#include "structs.h"
#include "text_stream.h"
#include "tokenizer.h"
#include "unicode.h"

using gemma3::check_flags;
using gemma3::give;
using gemma3::guarded;
using gemma3::refuse;
using gemma3::required;
using gemma3::UsageError;
using gemma3::versioned;
using gemma3::text::Ids;
using gemma3::text::ImageTokens;
using gemma3::text::TextStream;
using gemma3::text::Tokenizer;

struct gemma3_tokenizer {
  std::shared_ptr<const Tokenizer> tokenizer;
  bool add_bos = true;
  std::optional<int32_t> end_token;   // that whole texts end with
  std::optional<ImageTokens> images;  // of a model that sees
};

struct gemma3_text_stream {
  std::shared_ptr<const Tokenizer> tokenizer;  // which the streams point into
  TextStream fresh, stream;
  std::vector<int32_t> stop_tokens;
  bool stopped = false;
};

namespace {

// What no model takes; a count beyond is a mistake, and must not be believed.
constexpr size_t kMostTokens = size_t{1} << 24;
constexpr size_t kMostBytes = size_t{1} << 30;
constexpr size_t kMostMessages = 100'000;
constexpr size_t kMostPictures = 10'000;
constexpr uint32_t kMostCrops = 64;
constexpr size_t kMostStops = 256;
constexpr size_t kMostStopBytes = 4096;

template <typename T>
void check_array(const T *values, size_t count, size_t most, const std::string &name) {
  if (count > most) {
    refuse(name + ": expected at most " + std::to_string(most) + ", got " + std::to_string(count));
  }
  if (count > 0) required(values, name.c_str());
}

void check_utf8(std::string_view text, const std::string &name) {
  for (size_t at = 0; at < text.size();) {
    const int length = gemma3::first_character(text.substr(at)).length;
    if (length == 0) {
      refuse(name + ": expected text in UTF-8, got none at byte " + std::to_string(at));
    }
    at += static_cast<size_t>(length);
  }
}

// A text of the caller, checked.
std::string_view text_of(const char *text, size_t length, const std::string &name) {
  if (length == GEMMA3_TO_NUL) length = std::strlen(&required(text, name.c_str()));
  check_array(text, length, kMostBytes, name);
  const std::string_view view(length > 0 ? text : "", length);
  check_utf8(view, name);
  return view;
}

gemma3_tokenizer *tokenizer_of(const gemma3::Bundle &bundle) {
  const gemma3::Manifest &manifest = bundle.manifest();
  if (!manifest.tokenizer) {
    refuse(bundle.root() +
           "/manifest.json names no tokenizer: work with token ids, or export from "
           "a checkpoint that has a tokenizer");
  }
  const gemma3::TokenizerRecord &record = *manifest.tokenizer;
  auto result = std::make_unique<gemma3_tokenizer>();
  result->tokenizer =
      std::make_shared<const Tokenizer>(bundle.read(record.path), bundle.root() + "/" + record.path,
                                        static_cast<int32_t>(manifest.model.bos_token_id));
  result->add_bos = record.add_bos;
  const std::vector<int64_t> &ends = manifest.model.eos_token_ids;
  if (record.add_eos && !ends.empty()) result->end_token = static_cast<int32_t>(ends[0]);
  if (const auto &vision = manifest.vision) {
    result->images = ImageTokens{
        static_cast<int32_t>(vision->begin_token_id), static_cast<int32_t>(vision->soft_token_id),
        static_cast<int32_t>(vision->end_token_id), static_cast<size_t>(vision->tokens_per_image)};
  }
  return result.release();
}

gemma3_tokenizer *tokenizer_from(const uint8_t *bytes, size_t count, int32_t bos) {
  check_array(bytes, count, kMostBytes, "bytes");
  std::string content(reinterpret_cast<const char *>(bytes), count);
  auto result = std::make_unique<gemma3_tokenizer>();
  if (bos < 0) {
    const Tokenizer unmarked(content, "in memory", bos);
    bos = unmarked.find("<bos>");
    if (bos < 0) refuse("tokenizer in memory has no <bos> piece: pass bos_token_id");
  }
  result->tokenizer = std::make_shared<const Tokenizer>(std::move(content), "in memory", bos);
  return result.release();
}

void give_tokens(const Ids &ids, int32_t **tokens, size_t *count) {
  const std::string_view bytes(reinterpret_cast<const char *>(ids.data()),
                               ids.size() * sizeof(int32_t));
  *tokens = reinterpret_cast<int32_t *>(give(bytes));
  *count = ids.size();
}

void give_text(const std::string &shown, char **text, size_t *length) {
  *text = give(shown);
  if (length != nullptr) *length = shown.size();
}

Ids encoded(const gemma3_tokenizer &own, std::string_view text, uint32_t flags) {
  const bool add_bos = own.add_bos && (flags & GEMMA3_NO_BOS) == 0;
  const bool parses = (flags & GEMMA3_PARSE_SPECIAL) != 0;
  Ids ids = parses ? own.tokenizer->encode_with_special(text, add_bos)
                   : own.tokenizer->encode(text, add_bos);
  if ((flags & GEMMA3_WHOLE_TEXT) != 0 && own.end_token) ids.push_back(*own.end_token);
  return ids;
}

// The stop texts of a stream; those that are a token go to `stop_tokens`.
std::vector<std::string> stops_of(const gemma3_text_stream_options &options,
                                  const Tokenizer &tokenizer, std::vector<int32_t> &stop_tokens) {
  check_array(options.stop_texts, options.stop_count, kMostStops, "stop texts");
  std::vector<std::string> stops;
  for (size_t i = 0; i < options.stop_count; ++i) {
    const std::string name = "stop text " + std::to_string(i + 1);
    const std::string_view text = text_of(options.stop_texts[i], GEMMA3_TO_NUL, name);
    if (text.empty() || text.size() > kMostStopBytes) {
      refuse(name + ": expected 1 to " + std::to_string(kMostStopBytes) + " bytes, got " +
             std::to_string(text.size()));
    }
    const int32_t token = tokenizer.special_id(text);
    if (token >= 0) stop_tokens.push_back(token);
    const bool hides = token < 0 && (options.flags & GEMMA3_SHOW_SPECIAL) == 0;
    const std::string_view control = hides ? tokenizer.control_in(text) : std::string_view();
    if (!control.empty()) {
      refuse(name + ": has the control token " + std::string(control) +
             " in it, which texts do not show: pass the token alone, or GEMMA3_SHOW_SPECIAL");
    }
    stops.emplace_back(text);
  }
  return stops;
}

gemma3_text_stream *stream_of(const gemma3_tokenizer &own,
                              const gemma3_text_stream_options *given) {
  gemma3_text_stream_options options = {};
  if (given != nullptr) options = versioned(given, "options");
  check_flags(options.flags, GEMMA3_SHOW_SPECIAL, "options.flags");
  std::vector<int32_t> stop_tokens;
  std::vector<std::string> stops = stops_of(options, *own.tokenizer, stop_tokens);
  const bool shows = (options.flags & GEMMA3_SHOW_SPECIAL) != 0;
  const TextStream fresh(own.tokenizer->decoder(shows), std::move(stops));
  return new gemma3_text_stream{own.tokenizer, fresh, fresh, std::move(stop_tokens)};
}

// The text that a token makes certain; at a stop token all that was held back.
std::string pushed(gemma3_text_stream &own, int32_t token) {
  if (own.stopped) return {};
  const auto &stops = own.stop_tokens;
  if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
    std::string shown = own.stream.close();
    own.stopped = true;
    return shown;
  }
  std::string shown = own.stream.push(token);
  own.stopped = own.stream.stopped();
  return shown;
}

// The crops of each picture of a chat, whose ids all fit a prompt.
std::vector<int> crops_of(const gemma3_chat &chat, const std::optional<ImageTokens> &images) {
  if (chat.picture_count > kMostPictures) {
    refuse("picture_count: expected at most " + std::to_string(kMostPictures) + ", got " +
           std::to_string(chat.picture_count));
  }
  if (chat.picture_count > 0 && !images) {
    refuse("picture_count: the model sees no images; export a checkpoint that does");
  }
  std::vector<int> crops(chat.picture_count, 0);
  size_t count = crops.size();
  for (size_t i = 0; i < crops.size() && chat.crops != nullptr; ++i) {
    if (chat.crops[i] > kMostCrops) {
      refuse("crops of picture " + std::to_string(i + 1) + ": expected at most " +
             std::to_string(kMostCrops) + ", got " + std::to_string(chat.crops[i]));
    }
    crops[i] = static_cast<int>(chat.crops[i]);
    count += chat.crops[i];
  }
  if (count > 0 && images->per_image > kMostTokens / count) {
    refuse("picture_count: " + std::to_string(count) + " images of " +
           std::to_string(images->per_image) + " tokens are more than any model takes");
  }
  return crops;
}

Ids chat_prompt(const gemma3_tokenizer &own, const gemma3_chat &chat) {
  check_array(chat.messages, chat.message_count, kMostMessages, "messages");
  std::vector<gemma3::text::Message> messages;
  for (const gemma3_message &one :
       gemma3::elements(chat.messages, chat.message_size, chat.message_count, "message_size")) {
    const std::string name = "message " + std::to_string(messages.size() + 1);
    messages.push_back({text_of(one.role, GEMMA3_TO_NUL, name + ": role"),
                        text_of(one.content, GEMMA3_TO_NUL, name + ": content")});
  }
  const std::vector<int> crops = crops_of(chat, own.images);
  for (const std::string_view piece : {gemma3::text::kStartOfTurn, gemma3::text::kEndOfTurn}) {
    if (own.tokenizer->find(piece) < 0) {
      refuse("tokenizer " + own.tokenizer->name() + " has no " + std::string(piece) +
             " piece: this model was not made for chat; use gemma3_encode");
    }
  }
  return encode_chat(*own.tokenizer, read_turns(messages), crops,
                     own.images.value_or(ImageTokens{}));
}

}  // namespace

extern "C" {

gemma3_status gemma3_bundle_tokenizer(const gemma3_bundle *bundle, gemma3_tokenizer **tokenizer,
                                      gemma3_error *error) {
  return guarded(error, [&] {
    required(tokenizer, "tokenizer");
    *tokenizer = tokenizer_of(*required(bundle, "bundle").bundle);
  });
}

gemma3_status gemma3_model_tokenizer(const gemma3_model *model, gemma3_tokenizer **tokenizer,
                                     gemma3_error *error) {
  return guarded(error, [&] {
    required(tokenizer, "tokenizer");
    *tokenizer = tokenizer_of(required(model, "model").model->bundle());
  });
}

gemma3_status gemma3_tokenizer_read(const uint8_t *bytes, size_t count, int32_t bos_token_id,
                                    gemma3_tokenizer **tokenizer, gemma3_error *error) {
  return guarded(error, [&] {
    required(tokenizer, "tokenizer");
    *tokenizer = tokenizer_from(bytes, count, bos_token_id);
  });
}

void gemma3_tokenizer_close(gemma3_tokenizer *tokenizer) { delete tokenizer; }

gemma3_status gemma3_tokenizer_size(const gemma3_tokenizer *tokenizer, size_t *pieces,
                                    gemma3_error *error) {
  return guarded(error, [&] {
    required(pieces, "pieces");
    *pieces = static_cast<size_t>(required(tokenizer, "tokenizer").tokenizer->model().size());
  });
}

gemma3_status gemma3_tokenizer_piece(const gemma3_tokenizer *tokenizer, int32_t token, char **piece,
                                     int32_t *kind, gemma3_error *error) {
  return guarded(error, [&] {
    required(piece, "piece");
    const auto &model = required(tokenizer, "tokenizer").tokenizer->model();
    if (token < 0 || token >= model.size()) {
      refuse("token: expected a piece from 0 to " + std::to_string(model.size() - 1) + ", got " +
             std::to_string(token));
    }
    *piece = give(model.text(token));
    if (kind != nullptr) *kind = static_cast<int32_t>(model.kind(token));
  });
}

gemma3_status gemma3_tokenizer_token(const gemma3_tokenizer *tokenizer, const char *piece,
                                     int32_t *token, gemma3_error *error) {
  return guarded(error, [&] {
    required(token, "token");
    const Tokenizer &own = *required(tokenizer, "tokenizer").tokenizer;
    const int32_t found = own.find(&required(piece, "piece"));
    if (found < 0) {
      refuse("piece: tokenizer " + own.name() + " has no " + gemma3::in_quotes(piece));
    }
    *token = found;
  });
}

gemma3_status gemma3_encode(const gemma3_tokenizer *tokenizer, const char *text, size_t length,
                            uint32_t flags, int32_t **tokens, size_t *count, gemma3_error *error) {
  return guarded(error, [&] {
    required(tokens, "tokens");
    required(count, "count");
    check_flags(flags, GEMMA3_NO_BOS | GEMMA3_PARSE_SPECIAL | GEMMA3_WHOLE_TEXT, "flags");
    const gemma3_tokenizer &own = required(tokenizer, "tokenizer");
    give_tokens(encoded(own, text_of(text, length, "text"), flags), tokens, count);
  });
}

gemma3_status gemma3_decode(const gemma3_tokenizer *tokenizer, const int32_t *tokens, size_t count,
                            uint32_t flags, char **text, size_t *length, gemma3_error *error) {
  return guarded(error, [&] {
    required(text, "text");
    check_flags(flags, GEMMA3_SHOW_SPECIAL, "flags");
    check_array(tokens, count, kMostTokens, "tokens");
    const Tokenizer &own = *required(tokenizer, "tokenizer").tokenizer;
    auto decoder = own.decoder((flags & GEMMA3_SHOW_SPECIAL) != 0);
    std::string shown;
    for (size_t i = 0; i < count; ++i) shown += decoder.push(tokens[i]);
    give_text(shown + decoder.close(), text, length);
  });
}

gemma3_status gemma3_text_stream_open(const gemma3_tokenizer *tokenizer,
                                      const gemma3_text_stream_options *options,
                                      gemma3_text_stream **stream, gemma3_error *error) {
  return guarded(error, [&] {
    required(stream, "stream");
    *stream = stream_of(required(tokenizer, "tokenizer"), options);
  });
}

gemma3_status gemma3_text_stream_push(gemma3_text_stream *stream, int32_t token, char **text,
                                      size_t *length, int32_t *stopped, gemma3_error *error) {
  return guarded(error, [&] {
    required(text, "text");
    gemma3_text_stream &own = required(stream, "stream");
    give_text(pushed(own, token), text, length);
    if (stopped != nullptr) *stopped = own.stopped ? 1 : 0;
  });
}

gemma3_status gemma3_text_stream_flush(gemma3_text_stream *stream, char **text, size_t *length,
                                       gemma3_error *error) {
  return guarded(error, [&] {
    required(text, "text");
    gemma3_text_stream &own = required(stream, "stream");
    const std::string rest = own.stopped ? std::string() : own.stream.close();
    own.stream = own.fresh;
    own.stopped = false;
    give_text(rest, text, length);
  });
}

void gemma3_text_stream_close(gemma3_text_stream *stream) { delete stream; }

gemma3_status gemma3_chat_prompt(const gemma3_tokenizer *tokenizer, const gemma3_chat *chat,
                                 int32_t **tokens, size_t *count, gemma3_error *error) {
  return guarded(error, [&] {
    required(tokens, "tokens");
    required(count, "count");
    const gemma3_chat known = versioned(chat, "chat");
    give_tokens(chat_prompt(required(tokenizer, "tokenizer"), known), tokens, count);
  });
}

}  // extern "C"
