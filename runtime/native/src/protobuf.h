// As much of protobuf's wire format as CompileOptionsProto and HloModuleProto need.
#ifndef GEMMA3_SRC_PROTOBUF_H_
#define GEMMA3_SRC_PROTOBUF_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace gemma3 {

// Builds a message field by field.
class ProtoWriter {
 public:
  ProtoWriter &number(uint32_t field, uint64_t value) {
    varint(uint64_t{field} << 3);
    varint(value);
    return *this;
  }
  ProtoWriter &message(uint32_t field, std::string_view bytes) {
    varint(uint64_t{field} << 3 | 2);
    varint(bytes.size());
    text_.append(bytes);
    return *this;
  }
  const std::string &bytes() const { return text_; }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }
  std::string text_;
};

// Walks over the fields of a message; stops at the end or at the first byte that is not one.
class ProtoReader {
 public:
  explicit ProtoReader(std::string_view message) : rest_(message) {}

  // Moves to the next field; false at the end.
  bool next() {
    uint64_t tag = 0;
    if (rest_.empty() || !varint(tag)) return false;
    field = static_cast<uint32_t>(tag >> 3);
    bytes = {};
    number = 0;
    switch (tag & 7) {
      case 0: return varint(number);
      case 1: return take(8);
      case 2: {
        uint64_t length = 0;
        return varint(length) && take(length);
      }
      case 5: return take(4);
      default: return false;
    }
  }
  // A number of a packed field, out of `bytes`; false at the end.
  bool packed(uint64_t &value) {
    ProtoReader inner(bytes);
    if (bytes.empty() || !inner.varint(value)) return false;
    bytes = inner.rest_;
    return true;
  }

  uint32_t field = 0;
  uint64_t number = 0;     // of a varint field
  std::string_view bytes;  // of any other

 private:
  bool varint(uint64_t &value) {
    value = 0;
    for (int shift = 0; shift < 64 && !rest_.empty(); shift += 7) {
      const auto byte = static_cast<uint8_t>(rest_.front());
      rest_.remove_prefix(1);
      value |= uint64_t{byte & 0x7Fu} << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool take(uint64_t count) {
    if (count > rest_.size()) return false;
    bytes = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return true;
  }
  std::string_view rest_;
};

}  // namespace gemma3

#endif  // GEMMA3_SRC_PROTOBUF_H_
