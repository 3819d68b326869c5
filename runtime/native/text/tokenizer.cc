#include "tokenizer.h"

#include <algorithm>

#include "error.h"
#include "unicode.h"

namespace gemma3::text {
namespace {

// Pieces that steer the model. Written out in a prompt they stay text, whatever type the
// tokenizer file gives them.
constexpr std::string_view kSteeringPieces[] = {
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    kStartOfTurn,
    kEndOfTurn,
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
};

std::string with_spaces(std::string_view piece) {
  std::string written;
  for (size_t at; (at = piece.find(kSpace)) != piece.npos;) {
    written += piece.substr(0, at);
    written += ' ';
    piece.remove_prefix(at + kSpace.size());
  }
  return written.append(piece);
}

Bpe read_model(std::string content, const std::string& name) {
  try {
    return Bpe(std::move(content));
  } catch (const TokenizerError& error) {
    throw UsageError("tokenizer " + name + " " + error.what() + "; export the bundle again");
  }
}

// The text at the start of `pending`, which keeps the bytes that may yet become a character.
std::string take_characters(std::string& pending) {
  std::string text;
  while (!pending.empty()) {
    const size_t length = utf8_length(static_cast<unsigned char>(pending[0]));
    const bool may_go_on = std::all_of(pending.begin() + 1, pending.end(), [](char byte) {
      return static_cast<unsigned char>(byte) >> 6 == 0b10;
    });
    if (pending.size() < length && may_go_on) break;
    const size_t whole = first_character(pending).length;
    text += whole ? std::string_view(pending).substr(0, whole) : kReplacement;
    pending.erase(0, std::max<size_t>(whole, 1));
  }
  return text;
}

}  // namespace

std::string IncrementalDecoder::push(int32_t token) {
  if (token < 0 || token >= model_->size()) return close();
  switch (model_->kind(token)) {
    case PieceKind::kControl:
      return close() + (shows_special_ ? std::string(model_->text(token)) : std::string());
    case PieceKind::kByte:
      bytes_ += static_cast<char>(model_->byte_of(token));
      return take_characters(bytes_);
    case PieceKind::kUnknown: return close() + model_->unknown_surface();
    default: return close() + with_spaces(model_->text(token));
  }
}

std::string IncrementalDecoder::close() {
  std::string text;
  for (size_t i = 0; i < bytes_.size(); ++i) text += kReplacement;
  bytes_.clear();
  return text;
}

Tokenizer::Tokenizer(std::string content, std::string name, int32_t bos)
    : name_(std::move(name)), bos_(bos), bpe_(read_model(std::move(content), name_)) {
  for (const std::string_view piece : kSteeringPieces) {
    const int32_t token = bpe_.find(piece);
    if (token < 0) continue;
    steering_.emplace(piece, token);
    special_.add(piece, token);
  }
  for (int32_t token = 0; token < model().size(); ++token) {
    if (model().kind(token) == PieceKind::kControl) special_.add(model().text(token), token);
  }
}

Ids Tokenizer::encode(std::string_view text, bool add_bos) const {
  Ids ids;
  if (add_bos) ids.push_back(bos_);
  append(text, ids);
  return ids;
}

Ids Tokenizer::encode_with_special(std::string_view text, bool add_bos) const {
  Ids ids;
  if (add_bos) ids.push_back(bos_);
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const auto [token, length] = special_.longest(text.substr(at));
    if (token < 0) {
      ++at;
      continue;
    }
    append(text.substr(begin, at - begin), ids);
    ids.push_back(token);
    begin = at += length;
  }
  append(text.substr(begin), ids);
  return ids;
}

Ids Tokenizer::chat(std::string_view text) const {
  return conversation({encode("user\n" + strip(text), false)});
}

Ids Tokenizer::conversation(const std::vector<Ids>& turns) const {
  const int32_t start = steering_id(kStartOfTurn), end = steering_id(kEndOfTurn);
  Ids ids = {bos_};
  for (const Ids& turn : turns) {
    ids.push_back(start);
    ids.insert(ids.end(), turn.begin(), turn.end());
    ids.push_back(end);
    append("\n", ids);
  }
  ids.push_back(start);
  append("model\n", ids);
  return ids;
}

int32_t Tokenizer::steering_id(std::string_view piece) const {
  const auto found = steering_.find(piece);
  if (found == steering_.end()) {
    throw UsageError("tokenizer " + name_ + " has no " + std::string(piece) +
                     " piece: this model was not made for chat; run without --chat");
  }
  return found->second;
}

int32_t Tokenizer::stop_token(std::string_view text, bool shows_special) const {
  const int32_t whole = special_id(text);
  if (whole >= 0 || shows_special) return whole;
  const std::string_view control = control_in(text);
  if (control.empty()) return -1;
  throw UsageError("stop text " + in_quotes(text) + " has the control token " +
                   std::string(control) + " in it, which texts do not show: pass the token " +
                   "alone, or --special");
}

std::string_view Tokenizer::control_in(std::string_view text) const {
  for (size_t begin = 0; begin < text.size(); ++begin) {
    const size_t longest = std::min(kMostPieceBytes, text.size() - begin);
    for (size_t length = 1; length <= longest; ++length) {
      const std::string_view part = text.substr(begin, length);
      const int32_t token = special_id(part);
      if (token >= 0 && token != bpe_.model().unknown()) return part;
    }
  }
  return {};
}

int32_t Tokenizer::special_id(std::string_view piece) const {
  const int32_t token = bpe_.find(piece);
  if (token < 0) return -1;
  const PieceKind kind = bpe_.model().kind(token);
  return kind == PieceKind::kControl || kind == PieceKind::kUnknown ? token : -1;
}

std::string Tokenizer::decode(const Ids& tokens) const {
  IncrementalDecoder decoder = this->decoder();
  std::string text;
  for (const int32_t token : tokens) text += decoder.push(token);
  return text + decoder.close();
}

void Tokenizer::append(std::string_view text, Ids& ids) const {
  Ids whole;
  const auto encode = [&](std::string_view part, Ids& into) {
    into.clear();
    try {
      bpe_.encode(part, into);
    } catch (const TokenizerError& error) {
      throw UsageError("tokenizer " + name_ + " " + error.what());
    }
  };
  encode(text, whole);
  if (!steers(whole)) {
    ids.insert(ids.end(), whole.begin(), whole.end());
    return;
  }
  // The file marks steering pieces as text to be matched: cut each after its first letter, where
  // no ordinary piece reaches across.
  size_t begin = 0;
  for (size_t at = 1; at <= text.size(); ++at) {
    if (at < text.size() && !cuts(text, at)) continue;
    encode(text.substr(begin, at - begin), whole);
    ids.insert(ids.end(), whole.begin(), whole.end());
    begin = at;
  }
}

bool Tokenizer::steers(const Ids& ids) const {
  return std::any_of(steering_.begin(), steering_.end(), [&](const auto& entry) {
    return entry.second != bpe_.model().unknown() &&
           std::find(ids.begin(), ids.end(), entry.second) != ids.end();
  });
}

bool Tokenizer::cuts(std::string_view text, size_t at) const {
  return std::any_of(steering_.begin(), steering_.end(), [&](const auto& entry) {
    return text.substr(at - 1, entry.first.size()) == entry.first;
  });
}

}  // namespace gemma3::text
