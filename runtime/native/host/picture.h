// Picture files to upright RGB pixels, as the Python runtime's Pillow gives them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace gemma3::host {

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

// The picture in a PNG or JPEG file: upright, what is transparent over white. Throws UsageError
// for a file that cannot be read, is no such picture, is damaged or too large.
Rgb load_rgb(const std::filesystem::path& path);

// The bytes of a file; throws UsageError when it cannot be read.
std::vector<uint8_t> read_file(const std::filesystem::path& path);

// Decoders of the bytes of a file; `name` is how errors call it.
Decoded decode_png(const std::vector<uint8_t>& file, const std::string& name);
Decoded decode_jpeg(const std::vector<uint8_t>& file, const std::string& name);

// Throws UsageError when a picture has more than kMostPixels.
void check_picture_size(int64_t width, int64_t height, const std::string& name);
// Throws UsageError for a picture that its decoder gave up on.
[[noreturn]] void refuse_damaged(const std::string& name, std::string reason);

// The orientation that a TIFF header with EXIF tags, or XMP, gives; 0 when it gives none.
int exif_orientation(const uint8_t* data, size_t size);
int xmp_orientation(std::string_view text);

}  // namespace gemma3::host
