#include "tokenizer_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "unicode.h"

namespace gemma3::text {
namespace {

constexpr uint64_t kBpe = 2;  // TrainerSpec.ModelType
constexpr size_t kMostPieces = size_t{1} << 24;
constexpr size_t kMostNested = 64;
// Bytes of a file: pieces are told apart by 32 bits.
constexpr size_t kMostBytes = size_t{1} << 30;

[[noreturn]] void refuse_wire() { throw TokenizerError("is not a readable SentencePiece model"); }

// The fields of a protobuf message. Anything that is not wire format to the last byte is refused.
class Fields {
 public:
  enum Wire : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

  explicit Fields(std::string_view message) : rest_(message) {}

  // Moves to the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const uint64_t tag = varint();
    field = tag >> 3;
    wire = static_cast<uint32_t>(tag & 7);
    number = 0;
    bytes = {};
    if (field == 0) refuse_wire();
    switch (wire) {
      case kVarint: number = varint(); break;
      case kFixed64: bytes = take(8); break;
      case kBytes: bytes = take(varint()); break;
      case kFixed32: bytes = take(4); break;
      default: refuse_wire();
    }
    return true;
  }

  // Refuses a field that is not written as its kind is.
  void expect(Wire written) const {
    if (wire != written) refuse_wire();
  }

  uint64_t field = 0;
  uint32_t wire = 0;
  uint64_t number = 0;     // of a varint
  std::string_view bytes;  // of any other

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return value;
    }
    refuse_wire();
  }
  std::string_view take(uint64_t count) {
    if (count > rest_.size()) refuse_wire();
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
};

float float_of(const char* bytes) {
  uint32_t bits = 0;
  for (int i = 3; i >= 0; --i) bits = bits << 8 | static_cast<uint8_t>(bytes[i]);
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The byte of a piece such as <0x0A>; nothing for any other text.
std::optional<uint8_t> byte_named(std::string_view text) {
  constexpr std::string_view kDigits = "0123456789ABCDEF";
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return std::nullopt;
  const size_t high = kDigits.find(text[3]), low = kDigits.find(text[4]);
  if (high == kDigits.npos || low == kDigits.npos) return std::nullopt;
  return static_cast<uint8_t>(high << 4 | low);
}

// Whether the text is UTF-8 without NUL.
bool is_piece_text(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (text[at] == 0) return false;
    const bool ascii = static_cast<uint8_t>(text[at]) < 0x80;
    const int length = ascii ? 1 : first_character(text.substr(at)).length;
    if (length == 0) return false;
    at += static_cast<size_t>(length);
  }
  return true;
}

[[noreturn]] void refuse_piece(size_t id, const std::string& reason) {
  throw TokenizerError("has a piece " + std::to_string(id) + " " + reason);
}

void require(bool holds, const std::string& message) {
  if (!holds) throw TokenizerError(message);
}

// A NormalizerSpec, or a DenormalizerSpec, of which only the first field counts.
struct Normalizer {
  size_t charsmap_bytes = 0;
  bool adds_prefix = true, removes_spaces = true, escapes_spaces = true;

  void read(std::string_view message) {
    for (Fields fields(message); fields.next();) {
      if (fields.field == 2) {
        fields.expect(Fields::kBytes);
        charsmap_bytes = fields.bytes.size();
      } else if (fields.field >= 3 && fields.field <= 5) {
        fields.expect(Fields::kVarint);
        bool* const flags[] = {&adds_prefix, &removes_spaces, &escapes_spaces};
        *flags[fields.field - 3] = fields.number != 0;
      }
    }
  }

  void check_charsmap(const std::string& owner) const {
    require(charsmap_bytes == 0, "has a precompiled_charsmap of " + std::to_string(charsmap_bytes) +
                                     " bytes in its " + owner + ": expected none");
  }
};

// What of a TrainerSpec counts after training.
struct Trainer {
  uint64_t model_type = 1;  // Unigram
  bool byte_fallback = false, space_is_suffix = false;
  std::string_view unknown_surface = " \xE2\x81\x87 ";

  void read(std::string_view message) {
    for (Fields fields(message); fields.next();) {
      if (fields.field == 3 || fields.field == 24 || fields.field == 35) {
        fields.expect(Fields::kVarint);
        if (fields.field == 3) model_type = fields.number;
        if (fields.field == 24) space_is_suffix = fields.number != 0;
        if (fields.field == 35) byte_fallback = fields.number != 0;
      } else if (fields.field == 44) {
        fields.expect(Fields::kBytes);
        unknown_surface = fields.bytes;
      }
    }
  }
};

}  // namespace

struct TokenizerModel::Settings {
  Trainer trainer;
  Normalizer normalizer, denormalizer;

  void check() const {
    require(trainer.model_type == kBpe,
            "has model_type " + std::to_string(trainer.model_type) + ": expected 2, BPE");
    require(trainer.byte_fallback, "has byte_fallback false: expected true");
    require(!trainer.space_is_suffix, "has treat_whitespace_as_suffix true: expected false");
    require(
        trainer.unknown_surface.size() <= kMostPieceBytes && is_piece_text(trainer.unknown_surface),
        "has an unk_surface that is not UTF-8 of at most " + std::to_string(kMostPieceBytes) +
            " bytes");
    normalizer.check_charsmap("normalizer_spec");
    denormalizer.check_charsmap("denormalizer_spec");
    require(!normalizer.adds_prefix, "has add_dummy_prefix true: expected false");
    require(!normalizer.removes_spaces, "has remove_extra_whitespaces true: expected false");
    require(normalizer.escapes_spaces, "has escape_whitespaces false: expected true");
  }
};

TokenizerModel::TokenizerModel(std::string content) : content_(std::move(content)) {
  if (content_.empty() || content_.size() > kMostBytes) refuse_wire();
  read();
  check_pieces();
}

uint8_t TokenizerModel::byte_of(int32_t id) const { return *byte_named(text(id)); }

void TokenizerModel::read() {
  Settings settings;
  pieces_.reserve(content_.size() / 20);  // Gemma's have 19.8 bytes each in the file
  for (Fields fields(content_); fields.next();) {
    if (fields.field > 5) {
      throw TokenizerError("has a field " + std::to_string(fields.field) +
                           " that SentencePiece models have not");
    }
    fields.expect(Fields::kBytes);
    switch (fields.field) {
      case 1:
        if (pieces_.size() == kMostPieces) throw TokenizerError("has more than 16777216 pieces");
        pieces_.push_back(read_piece(fields.bytes));
        break;
      case 2: settings.trainer.read(fields.bytes); break;
      case 3: settings.normalizer.read(fields.bytes); break;
      case 4:
        if (!fields.bytes.empty()) throw TokenizerError("has self_test_data: expected none");
        break;
      default: settings.denormalizer.read(fields.bytes);
    }
  }
  if (pieces_.empty()) refuse_wire();
  settings.check();
  unknown_surface_ = settings.trainer.unknown_surface;
}

TokenizerModel::Piece TokenizerModel::read_piece(std::string_view message) const {
  const size_t id = pieces_.size();
  std::string_view text;
  float score = 0;
  uint64_t kind = 1;
  for (Fields fields(message); fields.next();) {
    switch (fields.field) {
      case 1:
        fields.expect(Fields::kBytes);
        text = fields.bytes;
        break;
      case 2:
        fields.expect(Fields::kFixed32);
        score = float_of(fields.bytes.data());
        break;
      case 3:
        fields.expect(Fields::kVarint);
        kind = fields.number;
        break;
      default:
        refuse_piece(id, "with a field " + std::to_string(fields.field) +
                             " that SentencePiece pieces have not");
    }
  }
  if (text.empty() || text.size() > kMostPieceBytes) {
    refuse_piece(id, "of " + std::to_string(text.size()) + " bytes: expected 1 to " +
                         std::to_string(kMostPieceBytes));
  }
  if (kind < 1 || kind > 6) {
    refuse_piece(id, "of type " + std::to_string(kind) + ": expected 1 to 6");
  }
  if (!is_piece_text(text)) refuse_piece(id, "that is not UTF-8 without NUL");
  if (!std::isfinite(score)) refuse_piece(id, "whose score is not finite");
  return {static_cast<uint32_t>(text.data() - content_.data()), score,
          static_cast<uint16_t>(text.size()), static_cast<PieceKind>(kind)};
}

void TokenizerModel::check_pieces() {
  byte_pieces_.fill(-1);
  int unknowns = 0;
  for (int32_t id = 0; id < size(); ++id) {
    const std::string_view text = this->text(id);
    switch (kind(id)) {
      case PieceKind::kUnknown:
        unknown_ = id;
        ++unknowns;
        break;
      case PieceKind::kByte: {
        const std::optional<uint8_t> byte = byte_named(text);
        if (!byte) refuse_piece(id, "of type 6: expected <0x00> to <0xFF>");
        byte_pieces_[*byte] = id;
        break;
      }
      default: break;
    }
  }
  if (unknowns != 1) {
    throw TokenizerError("has " + std::to_string(unknowns) + " unknown pieces: expected 1");
  }
  int bytes = 0;
  for (const int32_t id : byte_pieces_) bytes += id >= 0;
  if (bytes != 256) {
    throw TokenizerError("has " + std::to_string(bytes) + " byte pieces: expected 256");
  }
  check_nesting();
}

// SentencePiece looks at the first 64 user-defined pieces that a text begins with.
void TokenizerModel::check_nesting() const {
  std::vector<std::string_view> user_defined;
  for (int32_t id = 0; id < size(); ++id) {
    if (kind(id) == PieceKind::kUserDefined) user_defined.push_back(text(id));
  }
  std::sort(user_defined.begin(), user_defined.end());
  std::vector<std::string_view> beginnings;  // of the piece at hand, each of the next
  for (const std::string_view text : user_defined) {
    while (!beginnings.empty() && text.substr(0, beginnings.back().size()) != beginnings.back()) {
      beginnings.pop_back();
    }
    beginnings.push_back(text);
    if (beginnings.size() > kMostNested) {
      throw TokenizerError("has more than " + std::to_string(kMostNested) +
                           " user-defined pieces that begin with one another");
    }
  }
}

}  // namespace gemma3::text
