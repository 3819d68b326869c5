// Byte-pair encoding as SentencePiece does it, for models such as Gemma's: text is not normalised,
// spaces are U+2581, and what has no piece is spelled in bytes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "piece_table.h"
#include "tokenizer_model.h"

namespace gemma3::text {

// How pieces write a space: U+2581.
inline constexpr std::string_view kSpace = "\xE2\x96\x81";

// A trie of the user-defined pieces, which a text is cut at before anything is merged.
class UserDefined {
 public:
  void add(std::string_view text, int32_t id);
  // The longest of them at the start of `text` and its length in bytes; -1 and 0 for none.
  struct Match {
    int32_t id;
    size_t length;
  };
  Match longest(std::string_view text) const;

 private:
  struct Node {
    int32_t id = -1;
    int32_t child = -1, sibling = -1;
    char byte = 0;
  };
  int32_t child_of(int32_t node, char byte) const;
  int32_t add_child(int32_t node, char byte);

  std::vector<Node> nodes_;
  std::array<int32_t, 256> roots_ = filled();
  static std::array<int32_t, 256> filled() {
    std::array<int32_t, 256> none{};
    none.fill(-1);
    return none;
  }
};

// Ids of texts. Threads may share it.
class Bpe {
 public:
  // From the contents of a model file; throws TokenizerError.
  explicit Bpe(std::string content);

  const TokenizerModel& model() const { return model_; }
  // The id of a piece of any kind, or -1.
  int32_t find(std::string_view piece) const { return table_.find(piece); }
  // Adds the ids of `text`. Control pieces never come of a text. Throws TokenizerError for a text
  // that is not UTF-8 or has 2 GiB.
  void encode(std::string_view text, std::vector<int32_t>& ids) const;

 private:
  struct TextOf {
    const TokenizerModel* model;
    std::string_view operator()(int32_t id) const { return model->text(id); }
  };
  friend class Merging;

  // The id of a piece that merging may make, or -1.
  int32_t mergeable(std::string_view piece) const;
  void note_spaces(int32_t id);
  // Whether no piece reaches from before `at` to after it.
  bool parts_before(std::string_view text, size_t at) const;

  TokenizerModel model_;
  PieceTable<TextOf> table_;
  UserDefined user_defined_;
  bool has_unused_ = false;
  std::array<bool, 256> goes_on_with_space_{};  // by the last byte before U+2581 inside a piece
};

}  // namespace gemma3::text
