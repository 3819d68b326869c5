#include "picture.h"

#include <cstring>

#include "error.h"

namespace gemma3::images {
namespace {

constexpr uint8_t kPngMagic[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
constexpr uint8_t kJpegMagic[] = {0xFF, 0xD8, 0xFF};

template <size_t N>
bool begins_with(Bytes file, const uint8_t (&magic)[N]) {
  return file.size >= N && std::memcmp(file.data, magic, N) == 0;
}

// One channel over white, as Pillow's alpha_composite rounds it.
uint8_t over_white(uint32_t value, uint32_t alpha) {
  if (alpha == 0) return 255;
  constexpr uint32_t kOne = 1 << 7;
  const uint32_t coefficient = alpha * 255 * 255 * kOne / (255 * 255);
  const uint32_t sum = value * coefficient + 255 * (255 * kOne - coefficient) + 0x80 * kOne;
  return static_cast<uint8_t>(((sum >> 8) + sum) >> 8 >> 7);
}

// Where the pixel shown at (x, y) lies in a stored picture of this size.
struct Place {
  int x, y;
};
Place stored_place(int orientation, int x, int y, int width, int height) {
  switch (orientation) {
    case 2: return {width - 1 - x, y};
    case 3: return {width - 1 - x, height - 1 - y};
    case 4: return {x, height - 1 - y};
    case 5: return {y, x};
    case 6: return {y, height - 1 - x};
    case 7: return {width - 1 - y, height - 1 - x};
    case 8: return {width - 1 - y, x};
    default: return {x, y};
  }
}

Rgb upright(const Decoded& picture) {
  const bool on_side = picture.orientation >= 5 && picture.orientation <= 8;
  Rgb rgb;
  rgb.width = on_side ? picture.height : picture.width;
  rgb.height = on_side ? picture.width : picture.height;
  rgb.pixels.resize(size_t{3} * rgb.width * rgb.height);
  uint8_t* out = rgb.pixels.data();
  for (int y = 0; y < rgb.height; ++y) {
    for (int x = 0; x < rgb.width; ++x, out += 3) {
      const Place from = stored_place(picture.orientation, x, y, picture.width, picture.height);
      const uint8_t* in = &picture.rgba[(size_t{4} * picture.width * from.y) + 4 * from.x];
      for (int c = 0; c < 3; ++c) out[c] = over_white(in[c], in[3]);
    }
  }
  return rgb;
}

}  // namespace

bool is_picture(Bytes file) {
  return begins_with(file, kPngMagic) || begins_with(file, kJpegMagic);
}

Rgb read_picture(Bytes file, const std::string& name) {
  if (begins_with(file, kPngMagic)) return upright(decode_png(file, name));
  if (begins_with(file, kJpegMagic)) return upright(decode_jpeg(file, name));
  throw UsageError(name + ": not a picture; expected PNG or JPEG; check it, or convert it");
}

void check_picture_size(int64_t width, int64_t height, const std::string& name) {
  if (width * height <= kMostPixels) return;
  throw UsageError(name + ": picture is too large: expected at most " +
                   std::to_string(kMostPixels) + " pixels, got " + std::to_string(width * height) +
                   "; make it smaller first");
}

void refuse_damaged(const std::string& name, std::string reason) {
  while (!reason.empty() && reason.back() == '.') reason.pop_back();
  throw UsageError(name + ": picture is damaged or cut short (" + reason + "); get the file again");
}

int exif_orientation(const uint8_t* data, size_t size) {
  constexpr uint32_t kOrientation = 0x0112, kShort = 3, kLong = 4;
  if (size < 8) return 0;
  const bool big = data[0] == 'M' && data[1] == 'M';
  if (!big && !(data[0] == 'I' && data[1] == 'I')) return 0;
  const auto number = [&](size_t at, int bytes) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) {
      value |= uint32_t{data[at + i]} << 8 * (big ? bytes - 1 - i : i);
    }
    return value;
  };
  const size_t first = number(4, 4);
  if (first > size - 2 || size < 2) return 0;
  const size_t count = number(first, 2);
  for (size_t i = 0; i < count && first + 2 + 12 * (i + 1) <= size; ++i) {
    const size_t entry = first + 2 + 12 * i;
    if (number(entry, 2) != kOrientation) continue;
    const uint32_t type = number(entry + 2, 2);
    const uint32_t value = number(entry + 8, type == kShort ? 2 : 4);
    return (type == kShort || type == kLong) && value <= 8 ? static_cast<int>(value) : 0;
  }
  return 0;
}

int xmp_orientation(std::string_view text) {
  constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = 0; (at = text.find(kName, at)) != text.npos;) {
    at += kName.size();
    const std::string_view rest = text.substr(at, 3);
    const size_t skip = rest.substr(0, 2) == "=\"" ? 2 : rest.substr(0, 1) == ">" ? 1 : 0;
    if (skip && rest.size() > skip && rest[skip] >= '1' && rest[skip] <= '8') {
      return rest[skip] - '0';
    }
  }
  return 0;
}

}  // namespace gemma3::images
