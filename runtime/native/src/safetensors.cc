// The header of a safetensors file, read strictly (artifacts/safetensors_header.py).

#include <algorithm>
#include <map>
#include <tuple>
#include <utility>

#include "bundle.h"
#include "error.h"
#include "files.h"
#include "json.h"

namespace gemma3 {
namespace {

constexpr int64_t kMaxHeaderBytes = int64_t{1} << 24;  // as of manifests, which say the same
constexpr char kPadding[] = "__padding__.";

constexpr std::pair<const char *, const char *> kDtypes[] = {
    {"float32", "F32"}, {"bfloat16", "BF16"}, {"float16", "F16"},
    {"int32", "I32"},   {"uint32", "U32"},    {"int8", "I8"},
    {"uint8", "U8"},    {"bool", "BOOL"},     {"float8_e4m3fn", "F8_E4M3"},
};

// A tensor of a file; offsets are bytes from the end of the header.
struct Entry {
  std::string dtype;
  Shape shape;
  std::vector<int64_t> data_offsets;

  bool operator==(const Entry &other) const {
    return std::tie(dtype, shape, data_offsets) ==
           std::tie(other.dtype, other.shape, other.data_offsets);
  }
};

std::string describe(const Entry &entry) {
  return entry.dtype + " " + to_text(Json(entry.shape)) + " at bytes " +
         to_text(Json(entry.data_offsets));
}

}  // namespace

static void decode(const Json &value, const Place &place, Entry &out) {
  Fields(value, place)
      .read("dtype", out.dtype)
      .read("shape", out.shape)
      .read("data_offsets", out.data_offsets)
      .done();
  if (out.data_offsets.size() != 2) refuse_value(place, "two data_offsets", "another count");
}

namespace {

using Entries = std::map<std::string, Entry>;

// The tensors of a file, and the bytes before the first of them.
std::pair<Entries, int64_t> read_header(const File &file, const std::string &where) {
  uint64_t length = 0;
  if (file.size() >= 8) {
    const std::string bytes = file.read(0, 8);
    for (size_t i = 0; i < 8; ++i) {
      length |= uint64_t{static_cast<uint8_t>(bytes[i])} << (8 * i);
    }
  }
  const int64_t most = std::min(file.size() - 8, kMaxHeaderBytes);
  if (file.size() < 8 || length > static_cast<uint64_t>(most)) {
    refuse_field(where, "", "a safetensors header within " + std::to_string(file.size()) + " bytes",
                 std::to_string(length) + " bytes");
  }
  Json value = parse_json(file.read(8, length), where);
  if (!value.is_object()) refuse_field(where, "", "a header that is an object", "another value");
  const Place place{&where};
  if (value.contains("__metadata__")) {
    std::map<std::string, std::string> metadata;
    decode(value["__metadata__"], place, metadata);
    value.erase("__metadata__");
  }
  Entries entries;
  decode(value, place, entries);
  return {std::move(entries), 8 + static_cast<int64_t>(length)};
}

Entry expected_entry(const Weight &weight, int64_t start) {
  const auto *dtype = std::find_if(std::begin(kDtypes), std::end(kDtypes),
                                   [&](const auto &pair) { return weight.dtype == pair.first; });
  const int64_t begin = weight.offset - start;
  return {dtype->second, weight.shape, {begin, begin + byte_size(weight.shape, weight.dtype)}};
}

}  // namespace

void check_header(const File &file, const std::vector<const Weight *> &weights) {
  const std::string &where = file.name();
  const auto [entries, start] = read_header(file, where);
  for (const Weight *weight : weights) {
    const auto found = entries.find(weight->name);
    if (found == entries.end()) refuse_field(where, "", "tensor " + weight->name, "none");
    const Entry expected = expected_entry(*weight, start);
    if (!(found->second == expected)) {
      refuse_field(where, weight->name, describe(expected), describe(found->second));
    }
  }
  std::vector<std::pair<std::vector<int64_t>, std::string>> placed;
  size_t padding = 0;
  for (const auto &[name, entry] : entries) {
    placed.emplace_back(entry.data_offsets, name);
    padding += name.rfind(kPadding, 0) == 0 && entry.dtype == "U8" ? 1 : 0;
  }
  if (entries.size() != weights.size() + padding) {
    refuse_field(where, "", "the tensors of the manifest only", "others besides");
  }
  std::sort(placed.begin(), placed.end());
  int64_t end = 0;
  for (const auto &[offsets, name] : placed) {
    if (offsets[0] != end || offsets[1] < end) {
      refuse_field(where, name, "a start at byte " + std::to_string(end),
                   describe(entries.at(name)));
    }
    end = offsets[1];
  }
  if (end != file.size() - start) {
    refuse_field(where, "", "tensors that fill " + std::to_string(file.size() - start) + " bytes",
                 std::to_string(end) + " bytes");
  }
}

}  // namespace gemma3
