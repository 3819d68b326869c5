// A SentencePiece model file, read strictly: what would change the ids of a text is used or refused.
//
// FORMAT.md, "The tokenizer", says what a file may hold; artifacts/tokenizer_model.py refuses the
// same with the same words.
#pragma once

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace gemma3::text {

// Bytes of a piece; the longest of Gemma's, 31 spaces, has 93.
inline constexpr size_t kMostPieceBytes = 256;

// Why a file is no tokenizer that can be used: words that go on from "tokenizer FILE ".
class TokenizerError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// ModelProto.SentencePiece.Type.
enum class PieceKind : uint8_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6,
};

// The pieces of a model by id, and what else of the file is needed. Pieces are in place in the
// file's bytes, which it keeps.
class TokenizerModel {
 public:
  // Throws TokenizerError.
  explicit TokenizerModel(std::string content);
  TokenizerModel(const TokenizerModel&) = delete;
  TokenizerModel& operator=(const TokenizerModel&) = delete;

  int32_t size() const { return static_cast<int32_t>(pieces_.size()); }
  // Of an id from 0 to size() - 1.
  std::string_view text(int32_t id) const {
    const Piece& piece = pieces_[static_cast<size_t>(id)];
    return {content_.data() + piece.offset, piece.length};
  }
  float score(int32_t id) const { return pieces_[static_cast<size_t>(id)].score; }
  PieceKind kind(int32_t id) const { return pieces_[static_cast<size_t>(id)].kind; }

  int32_t unknown() const { return unknown_; }
  // What decoding writes for the unknown piece.
  const std::string& unknown_surface() const { return unknown_surface_; }
  // The id of the piece that stands for a byte.
  int32_t byte_piece(uint8_t byte) const { return byte_pieces_[byte]; }
  // The byte that a piece of kind kByte stands for.
  uint8_t byte_of(int32_t id) const;

 private:
  struct Piece {
    uint32_t offset;
    float score;
    uint16_t length;
    PieceKind kind;
  };
  struct Settings;

  void read();
  Piece read_piece(std::string_view message) const;
  void check_pieces();
  void check_nesting() const;

  std::string content_;
  std::vector<Piece> pieces_;
  std::string unknown_surface_;
  int32_t unknown_ = -1;
  std::array<int32_t, 256> byte_pieces_{};
};

}  // namespace gemma3::text
