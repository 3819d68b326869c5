// Text to token ids and back, with the SentencePiece model of a bundle; runtime/text/tokenizer.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "bpe.h"

namespace gemma3::text {

using Ids = std::vector<int32_t>;

inline constexpr std::string_view kStartOfTurn = "<start_of_turn>";
inline constexpr std::string_view kEndOfTurn = "<end_of_turn>";

// Text of ids that come one by one; what it returns, joined, is the text of all of them.
//
// A character spelled in bytes over several ids is returned when its last byte is there. Bytes
// that are not UTF-8 become U+FFFD each, as SentencePiece decodes them.
class IncrementalDecoder {
 public:
  // With `shows_special`, control tokens are written as their pieces.
  IncrementalDecoder(const TokenizerModel& model, bool shows_special)
      : model_(&model), shows_special_(shows_special) {}

  // The text that is certain once `token` has come; may be empty.
  std::string push(int32_t token);
  // The text of bytes that never became a character.
  std::string close();

 private:
  const TokenizerModel* model_;
  bool shows_special_;
  std::string bytes_;
};

// A SentencePiece model file: ids of texts and chats, texts of ids. Threads may share it.
class Tokenizer {
 public:
  // From the contents of a model file; `name` is how errors call it. Throws UsageError when it is
  // no such file.
  Tokenizer(std::string content, std::string name, int32_t bos);

  // Ids of `text` (UTF-8), after <bos> if asked. Text never becomes a steering token.
  Ids encode(std::string_view text, bool add_bos) const;
  // The same, but control and steering pieces in the text become their tokens.
  Ids encode_with_special(std::string_view text, bool add_bos) const;
  // Ids of a conversation in which the user has said `text` and the model is to answer.
  Ids chat(std::string_view text) const;
  // Ids of a conversation that the model is to continue: <bos>, then each turn between
  // <start_of_turn> and <end_of_turn> with a newline after it, then <start_of_turn>model and a
  // newline. `turns` are the ids of each: who speaks (`user` or `model`), a newline, and the text.
  Ids conversation(const std::vector<Ids>& turns) const;
  // Id of a steering piece such as `<end_of_turn>`; throws UsageError when there is none.
  int32_t steering_id(std::string_view piece) const;
  // The id at which a text ends that is to end before `text`; -1 for a text to look for. Throws
  // UsageError when a control token is part of `text`, which would never be found in a text that
  // does not show them.
  int32_t stop_token(std::string_view text, bool shows_special) const;
  // Text of the ids; control tokens and ids beyond the tokenizer's pieces give nothing.
  std::string decode(const Ids& tokens) const;
  IncrementalDecoder decoder(bool shows_special = false) const {
    return IncrementalDecoder(bpe_.model(), shows_special);
  }
  // The control token that is part of a text, the first of them; empty where there is none.
  std::string_view control_in(std::string_view text) const;
  // The id of a piece that no text shows as it is, a control token or the unknown one; else -1.
  int32_t special_id(std::string_view piece) const;

  // The id of a piece of any kind, or -1.
  int32_t find(std::string_view piece) const { return bpe_.find(piece); }
  const TokenizerModel& model() const { return bpe_.model(); }
  // What errors call it.
  const std::string& name() const { return name_; }

 private:
  void append(std::string_view text, Ids& ids) const;
  bool steers(const Ids& ids) const;
  bool cuts(std::string_view text, size_t at) const;

  std::string name_;
  int32_t bos_;
  Bpe bpe_;
  std::map<std::string, int32_t, std::less<>> steering_;
  UserDefined special_;  // control and steering pieces
};

}  // namespace gemma3::text
