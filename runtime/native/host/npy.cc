// `.npy` files (numpy's format, versions 1 to 3) of finished pixels.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <optional>

#include "error.h"
#include "images.h"

namespace gemma3::host {
namespace {

struct Header {
  std::string dtype;
  bool fortran = false;
  std::vector<int64_t> shape;
  size_t data = 0;  // offset of the first element
};

// The text after `'key':` in a header, blanks skipped.
std::string_view value_of(std::string_view header, std::string_view key) {
  const size_t at = header.find("'" + std::string(key) + "':");
  if (at == header.npos) return {};
  std::string_view rest = header.substr(at + key.size() + 3);
  rest.remove_prefix(std::min(rest.find_first_not_of(' '), rest.size()));
  return rest;
}

std::optional<std::vector<int64_t>> parse_shape(std::string_view text) {
  const size_t end = text.find(')');
  if (text.empty() || text[0] != '(' || end == text.npos) return std::nullopt;
  std::vector<int64_t> shape;
  int64_t number = -1;
  for (const char c : text.substr(1, end)) {
    if (c >= '0' && c <= '9') {
      if (number > int64_t{1} << 48) return std::nullopt;
      number = std::max<int64_t>(number, 0) * 10 + (c - '0');
    } else if (c == ',' || c == ')') {
      if (number >= 0) shape.push_back(number);
      number = -1;
    } else if (c != ' ') {
      return std::nullopt;
    }
  }
  return shape;
}

std::optional<Header> parse_header(const std::vector<uint8_t>& file) {
  constexpr std::string_view kMagic("\x93NUMPY", 6);
  if (file.size() < 12 || std::memcmp(file.data(), kMagic.data(), kMagic.size()) != 0) {
    return std::nullopt;
  }
  const int version = file[6], length_bytes = version == 1 ? 2 : 4;
  if (version < 1 || version > 3) return std::nullopt;
  size_t length = 0;
  for (int i = 0; i < length_bytes; ++i) length |= size_t{file[8 + i]} << 8 * i;
  const size_t begin = 8 + length_bytes;
  if (length > file.size() - begin) return std::nullopt;
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + begin, length);
  const std::string_view descr = value_of(text, "descr");
  const std::string_view order = value_of(text, "fortran_order");
  const auto shape = parse_shape(value_of(text, "shape"));
  const size_t quote = descr.empty() ? descr.npos : descr.find('\'', 1);
  if (!shape || quote == descr.npos || order.empty()) return std::nullopt;
  Header header{std::string(descr.substr(1, quote - 1)), order[0] == 'T', *shape, begin + length};
  return header;
}

// What numpy calls a dtype that is written as `<f8` or `|u1`.
std::string dtype_name(const std::string& code) {
  static constexpr std::pair<char, const char*> kKinds[] = {
      {'f', "float"}, {'i', "int"}, {'u', "uint"}, {'c', "complex"}};
  if (code == "|b1") return "bool";
  const bool native = code.size() > 2 && code[0] != '>';
  const std::string bytes = native ? code.substr(2) : std::string();
  if (bytes.empty() || bytes.find_first_not_of("0123456789") != bytes.npos) return code;
  for (const auto& [letter, name] : kKinds) {
    if (code[1] == letter) return name + std::to_string(8 * std::stoi(bytes.substr(0, 4)));
  }
  return code;
}

std::string listed(const std::vector<int64_t>& shape) {
  std::string text;
  for (const int64_t side : shape) text += (text.empty() ? "" : ",") + std::to_string(side);
  return "[" + text + "]";
}

std::string short_number(float value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", static_cast<double>(value));
  return text;
}

// Refuses values that cannot be normalised pixels; those computed elsewhere may round beyond 1.
void check_range(const std::vector<float>& pixels, const std::string& expected) {
  constexpr float kMost = 1.0F + 1e-3F;
  if (!std::all_of(pixels.begin(), pixels.end(), [](float x) { return std::isfinite(x); })) {
    throw UsageError(expected + ", got NaN or infinity; fix the array");
  }
  const auto [low, high] = std::minmax_element(pixels.begin(), pixels.end());
  if (*low < -kMost || *high > kMost) {
    throw UsageError(expected + ", got " + short_number(*low) + ".." + short_number(*high) +
                     "; normalise bytes as x / 127.5 - 1");
  }
}

// The elements of a 4-dimensional array in C order.
std::vector<float> elements(const uint8_t* data, const Header& header) {
  const auto& s = header.shape;
  std::vector<float> values(size_t(s[0] * s[1] * s[2] * s[3]));
  std::memcpy(values.data(), data, values.size() * sizeof(float));
  if (!header.fortran) return values;
  std::vector<float> turned(values.size());
  size_t to = 0;
  for (int64_t n = 0; n < s[0]; ++n)
    for (int64_t c = 0; c < s[1]; ++c)
      for (int64_t y = 0; y < s[2]; ++y)
        for (int64_t x = 0; x < s[3]; ++x)
          turned[to++] = values[size_t(n + s[0] * (c + s[1] * (y + s[2] * x)))];
  return turned;
}

}  // namespace

std::vector<Picture> load_npy(const std::filesystem::path& path, int size) {
  const std::vector<uint8_t> file = read_file(path);
  const std::string side = std::to_string(size), name = path.string();
  const std::string pixels_of = "[N,3," + side + "," + side + "] float32";
  const auto whole = [&] {
    return UsageError(name + ": not a whole .npy array; expected pixels " + pixels_of +
                      "; save them with numpy.save, or pass a picture");
  };
  const std::string expected = name + ": expected pixels " + pixels_of + " in -1..1";
  if (file.size() >= 4 && std::memcmp(file.data(), "PK\3\4", 4) == 0) {
    throw UsageError(name + ": holds several arrays; expected pixels " + pixels_of +
                     " in -1..1; save one with numpy.save");
  }
  const std::optional<Header> header = parse_header(file);
  if (!header) throw whole();
  if (header->dtype != "<f4") {
    throw UsageError(expected + ", got dtype " + dtype_name(header->dtype) +
                     "; convert with astype");
  }
  const auto& shape = header->shape;
  const std::vector<int64_t> planes = {3, size, size};
  if (shape.size() != 4 || shape[0] < 1 ||
      !std::equal(planes.begin(), planes.end(), shape.begin() + 1)) {
    throw UsageError(expected + ", got shape " + listed(shape) + "; resize, or pass the picture");
  }
  const size_t each = size_t{3} * size * size, there = (file.size() - header->data) / sizeof(float);
  if (static_cast<size_t>(shape[0]) > there / each) throw whole();
  const std::vector<float> values = elements(file.data() + header->data, *header);
  check_range(values, expected);
  std::vector<Picture> pictures(static_cast<size_t>(shape[0]));
  for (size_t i = 0; i < pictures.size(); ++i) {
    pictures[i].pixels.assign(&values[i * each], &values[i * each] + each);
  }
  return pictures;
}

}  // namespace gemma3::host
