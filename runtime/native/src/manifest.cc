// Arithmetic on what manifests say: sizes, shards, paths and names.

#include "manifest.h"

#include <algorithm>
#include <utility>

#include "error.h"

namespace gemma3 {
namespace {

constexpr std::pair<const char *, int64_t> kItemSizes[] = {
    {"float32", 4}, {"bfloat16", 2}, {"float16", 2},       {"int32", 4}, {"uint32", 4},
    {"int8", 1},    {"uint8", 1},    {"float8_e4m3fn", 1}, {"bool", 1},
};

// Characters beyond ASCII that format rather than show; terminals obey some of them.
bool is_hidden(uint32_t point) {
  return (point >= 0x80 && point <= 0xA0) || point == 0xAD ||
         (point >= 0x200B && point <= 0x200F) || (point >= 0x2028 && point <= 0x202F) ||
         (point >= 0x2060 && point <= 0x206F) || (point >= 0xD800 && point <= 0xF8FF) ||
         point == 0xFEFF || (point >= 0xFFF0 && point <= 0xFFFB) || point == 0xFFFE ||
         point == 0xFFFF || point >= 0xE0000;
}

// The character that starts at `at`, and moves past it; U+FFFF for what is not UTF-8.
uint32_t next_point(std::string_view text, size_t &at) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(at++);
  if (lead < 0x80) return lead;
  const int more = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC2 ? 1 : -1;
  if (more < 0 || lead > 0xF4 || at + static_cast<size_t>(more) > text.size()) return 0xFFFF;
  uint32_t point = lead & (0x3Fu >> more);
  for (int i = 0; i < more; ++i, ++at) {
    if ((byte(at) & 0xC0) != 0x80) return 0xFFFF;
    point = point << 6 | (byte(at) & 0x3Fu);
  }
  return point;
}

}  // namespace

int64_t Mesh::devices() const {
  int64_t count = 1;
  for (const Axis &axis : axes) count *= axis.size;
  return count;
}

int64_t item_size(std::string_view dtype) {
  for (const auto &[name, size] : kItemSizes) {
    if (dtype == name) return size;
  }
  return 0;
}

int64_t byte_size(const Shape &shape, std::string_view dtype) {
  int64_t bytes = item_size(dtype);
  for (int64_t size : shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) refuse("a tensor of 2^63 bytes or more");
  }
  return bytes;
}

Shape shard_shape(const Shape &shape, const Spec &spec, const Mesh &mesh) {
  if (spec.size() != shape.size()) {
    refuse("expected a spec of " + std::to_string(shape.size()) + " dimensions, got " +
           std::to_string(spec.size()));
  }
  Shape shard = shape;
  std::vector<std::string> used;
  for (size_t dimension = 0; dimension < shape.size(); ++dimension) {
    int64_t parts = 1;  // at most the devices of the mesh, which are few: axes come once
    for (const std::string &name : spec[dimension]) {
      const auto axis = std::find_if(mesh.axes.begin(), mesh.axes.end(),
                                     [&](const Axis &a) { return a.name == name; });
      if (axis == mesh.axes.end()) refuse("expected axes of mesh " + mesh.name + ", got " + name);
      if (std::find(used.begin(), used.end(), name) != used.end()) {
        refuse("expected each axis at most once in a spec, got " + name + " twice");
      }
      used.push_back(name);
      parts *= axis->size;
    }
    if (shape[dimension] % parts != 0) {
      refuse("expected dimension " + std::to_string(dimension) + " to divide into " +
             std::to_string(parts) + " parts, got size " + std::to_string(shape[dimension]));
    }
    shard[dimension] /= parts;
  }
  return shard;
}

std::string one_of(const std::vector<std::string> &names) {
  std::string text = "one of ";
  for (size_t i = 0; i < names.size() && i < 8; ++i) text += (i == 0 ? "" : ", ") + names[i];
  if (names.empty()) text += "(none)";
  if (names.size() > 8) text += " and " + std::to_string(names.size() - 8) + " more";
  return text;
}

bool is_bundle_path(std::string_view path) {
  if (!is_printable(path)) return false;
  for (size_t begin = 0;;) {
    const size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = path.substr(begin, end - begin);
    if (part.empty() || part == "." || part == "..") return false;
    if (part.find_first_of("\\:") != std::string_view::npos) return false;
    if (end == path.size()) return true;
    begin = end + 1;
  }
}

bool is_printable(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const uint32_t point = next_point(text, at);
    if (point < 0x20 || point == 0x7F || is_hidden(point)) return false;
  }
  return true;
}

}  // namespace gemma3
