#include "bytecode.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <utility>
#include <vector>

namespace gemma3 {
namespace {

constexpr std::string_view kMagic = "ML\xefR";
constexpr uint64_t kVersion = 6;  // that of every StableHLO since 1.0
constexpr uint8_t kStrings = 0, kDialects = 1, kAttributes = 2, kOffsets = 3, kProperties = 8;
constexpr uint8_t kAligned = 0x80;
constexpr std::string_view kDialectNames[] = {"builtin", "sdy", "vhlo"};
// Operations that wait for a host that serves them: none of ours does.
constexpr std::string_view kWaiting[] = {"infeed_", "outfeed_", "recv_", "send_"};
constexpr std::string_view kCall = "custom_call", kCallV1 = "custom_call_v1";
constexpr std::string_view kTarget = "call_target_name";
constexpr int kTargetPlace = 2;  // among the properties of a custom call, which have no names
constexpr uint64_t kText = 14;   // code of vhlo's string attribute

class Reader {
 public:
  explicit Reader(std::string_view data) : rest_(data) {}

  bool done() const { return rest_.empty(); }

  std::string_view take(uint64_t count) {
    if (count > rest_.size()) throw BadBytecode("damaged bytecode");
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  uint8_t byte() { return static_cast<uint8_t>(take(1)[0]); }

  // Little endian; the zeros at the end of the first byte say how many bytes follow.
  uint64_t number() {
    const uint8_t first = byte();
    int more = 0;
    while (more < 8 && (first >> more & 1) == 0) ++more;
    uint64_t value = more == 8 ? 0 : first;
    const std::string_view bytes = take(static_cast<uint64_t>(more));
    for (int i = 0; i < more; ++i) {
      const int shift = more == 8 ? 8 * i : 8 * (i + 1);
      value |= uint64_t{static_cast<uint8_t>(bytes[static_cast<size_t>(i)])} << shift;
    }
    return more == 8 ? value : value >> (more + 1);
  }

  std::pair<uint8_t, std::string_view> section() {
    const uint8_t kind = byte();
    const uint64_t length = number();
    if ((kind & kAligned) != 0) throw BadBytecode("bytecode with an aligned section");
    return {kind, take(length)};
  }

 private:
  std::string_view rest_;
};

struct Operation {
  std::string_view dialect, name;
};

struct Attribute {
  std::string_view dialect, data;
};

template <typename Item>
const Item &at(const std::vector<Item> &items, uint64_t index) {
  if (index >= items.size()) throw BadBytecode("damaged bytecode");
  return items[index];
}

class Bytecode {
 public:
  explicit Bytecode(std::string_view code) {
    if (code.substr(0, kMagic.size()) != kMagic) throw BadBytecode("no MLIR bytecode");
    Reader reader(code.substr(kMagic.size()));
    const uint64_t version = reader.number();
    if (version != kVersion) {
      throw BadBytecode("MLIR bytecode of version " + std::to_string(version));
    }
    while (reader.byte() != 0) {  // who wrote it
    }
    while (!reader.done()) {
      if (!sections_.insert(reader.section()).second) {
        throw BadBytecode("bytecode with a section twice");
      }
    }
    read_texts();
    read_operations();
  }

  std::set<std::string> calls() const {
    std::set<std::string> found;
    for (std::string_view name : dialects_) {
      const auto *known = std::find(std::begin(kDialectNames), std::end(kDialectNames), name);
      if (known == std::end(kDialectNames)) found.emplace(name);
    }
    bool calling = false;
    for (const auto &[dialect, name] : operations_) {
      const auto begins = [name = name](std::string_view word) {
        return name.substr(0, word.size()) == word;
      };
      if (dialect == "vhlo" && name == kCallV1) {
        calling = true;
      } else if (name.find(kCall) != name.npos || dialect.find(kCall) != dialect.npos ||
                 std::any_of(std::begin(kWaiting), std::end(kWaiting), begins)) {
        found.insert(std::string(dialect) + "." + std::string(name));
      }
    }
    if (calling && !add_targets(found)) found.insert("a custom call");
    return found;
  }

 private:
  // A section; where there is none, one that begins with the number 0.
  Reader section(uint8_t kind) const {
    const auto found = sections_.find(kind);
    return Reader(found == sections_.end() ? std::string_view("\1") : found->second);
  }

  void read_texts() {
    Reader reader = section(kStrings);
    std::vector<uint64_t> sizes;  // the last text's first
    for (uint64_t count = reader.number(); count > 0; --count) sizes.push_back(reader.number());
    for (auto size = sizes.rbegin(); size != sizes.rend(); ++size) {
      const std::string_view text = reader.take(*size);
      texts_.push_back(text.substr(0, text.empty() ? 0 : text.size() - 1));
    }
  }

  void read_operations() {
    Reader reader = section(kDialects);
    for (uint64_t count = reader.number(); count > 0; --count) {
      const uint64_t name = reader.number();
      dialects_.push_back(at(texts_, name >> 1));
      if ((name & 1) != 0) reader.section();  // the version of the dialect
    }
    reader.number();  // of operations
    while (!reader.done()) {
      const std::string_view dialect = at(dialects_, reader.number());
      for (uint64_t count = reader.number(); count > 0; --count) {
        operations_.push_back({dialect, at(texts_, reader.number() >> 1)});
      }
    }
  }

  // Adds what stands where a custom call has its target, whichever operation it belongs to; whether
  // there was any.
  bool add_targets(std::set<std::string> &found) const {
    bool any = false;
    const auto add = [&](std::string_view name) {
      found.emplace(name);
      any = true;
    };
    for (std::string_view text : texts_) {  // an attribute would count for more than the property
      if (text.find(kTarget) != text.npos) add(kTarget);
    }
    const std::vector<Attribute> attributes = read_attributes();
    Reader reader = section(kProperties);
    for (uint64_t count = reader.number(); count > 0; --count) {
      Reader properties(reader.take(reader.number()));
      for (int place = 0; place < kTargetPlace && !properties.done(); ++place) properties.number();
      if (properties.done()) continue;
      const Attribute &attribute = at(attributes, properties.number());
      Reader data(attribute.data);
      if (attribute.dialect != "vhlo") {
        add("something without a name");
      } else if (data.number() == kText) {
        add(at(texts_, data.number()));
      }
    }
    return any;
  }

  // The dialect of each attribute and what it is encoded in, which must not be text.
  std::vector<Attribute> read_attributes() const {
    Reader places = section(kOffsets), data = section(kAttributes);
    std::vector<Attribute> found;
    const uint64_t attributes = places.number();
    places.number();  // of types, which come after the attributes
    while (found.size() < attributes) {
      const std::string_view dialect = at(dialects_, places.number());
      for (uint64_t count = places.number(); count > 0; --count) {
        const uint64_t size = places.number();
        if ((size & 1) == 0 && found.size() < attributes) {
          throw BadBytecode("bytecode with an attribute as text");
        }
        found.push_back({dialect, data.take(size >> 1)});
      }
    }
    return found;
  }

  std::map<uint8_t, std::string_view> sections_;
  std::vector<std::string_view> texts_, dialects_;
  std::vector<Operation> operations_;
};

}  // namespace

std::set<std::string> calls_of(std::string_view code) { return Bytecode(code).calls(); }

}  // namespace gemma3
