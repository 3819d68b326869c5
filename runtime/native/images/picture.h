// Pictures in files to upright RGB pixels, as the Python runtime's Pillow gives them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace gemma3::images {

// Pictures with more pixels are refused unread; the Python runtime's limit.
inline constexpr int64_t kMostPixels = 178'956'970;

// RGB, 8 bits a channel, rows from the top.
struct Rgb {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> pixels;  // [height, width, 3]

  const uint8_t* at(int x, int y) const { return &pixels[(size_t{3} * width * y) + 3 * x]; }
};

// What a decoder found: RGBA pixels, and what says how the picture is to be turned.
struct Decoded {
  int width = 0;
  int height = 0;
  std::vector<uint8_t> rgba;  // [height, width, 4]
  int orientation = 1;        // of EXIF, 1 to 8
};

// The contents of a file, which are somebody else's.
struct Bytes {
  const uint8_t* data = nullptr;
  size_t size = 0;
};

// Whether a file begins as PNG or JPEG do.
bool is_picture(Bytes file);

// The picture in a PNG or JPEG file, `name` being how errors call it: upright, what is transparent
// over white. Throws UsageError for what is no such picture, is damaged or too large, and where
// the library was built without libpng and libjpeg.
Rgb read_picture(Bytes file, const std::string& name);

Decoded decode_png(Bytes file, const std::string& name);
Decoded decode_jpeg(Bytes file, const std::string& name);

// Throws UsageError when a picture has more than kMostPixels.
void check_picture_size(int64_t width, int64_t height, const std::string& name);
// Throws UsageError for a picture that its decoder gave up on.
[[noreturn]] void refuse_damaged(const std::string& name, std::string reason);

// The orientation that a TIFF header with EXIF tags, or XMP, gives; 0 when it gives none.
int exif_orientation(const uint8_t* data, size_t size);
int xmp_orientation(std::string_view text);

}  // namespace gemma3::images
