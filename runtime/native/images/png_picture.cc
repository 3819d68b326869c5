// PNG files by libpng, each kind of pixel as Pillow reads it.
#include <png.h>

#include <csetjmp>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>

#include "picture.h"

namespace gemma3::images {
namespace {

struct Source {
  Bytes file;
  size_t at = 0;
  std::string error;
  bool returnable = false;  // a frame that failures may return to is there
};

struct Png {
  png_structp read = nullptr;
  png_infop info = nullptr;
  ~Png() { png_destroy_read_struct(&read, &info, nullptr); }
};

void fail(png_structp png, png_const_charp message) {
  auto* source = static_cast<Source*>(png_get_error_ptr(png));
  if (!source->returnable) std::abort();  // a call outside attempt(): not to be jumped out of
  source->error = message;
  png_longjmp(png, 1);
}

// Runs calls of libpng, which may end in fail(): false when it gave up. No object with a destructor
// may be made in `calls`, and every call that can fail belongs into one of them: the frame that
// longjmp returns to is gone when this returns.
template <typename Calls>
bool attempt(const Png& png, Source& source, Calls calls) {
  if (setjmp(png_jmpbuf(png.read))) {
    source.returnable = false;
    return false;
  }
  source.returnable = true;
  calls();
  source.returnable = false;
  return true;
}

void ignore(png_structp, png_const_charp) {}

void take(png_structp png, png_bytep out, size_t count) {
  auto* source = static_cast<Source*>(png_get_io_ptr(png));
  if (count > source->file.size - source->at) png_error(png, "the file ends too early");
  std::memcpy(out, source->file.data + source->at, count);
  source->at += count;
}

bool read_header(const Png& png, Source& source) {
  return attempt(png, source, [&] {
    png_set_read_fn(png.read, &source, take);
    png_set_user_limits(png.read, 0x7FFFFFFF, 0x7FFFFFFF);
    png_set_crc_action(png.read, PNG_CRC_ERROR_QUIT, PNG_CRC_QUIET_USE);
    png_read_info(png.read, png.info);
  });
}

// 16-bit channels keep their upper byte; packed bits become bytes, not yet scaled.
bool prepare(const Png& png, Source& source) {
  return attempt(png, source, [&] {
    png_set_strip_16(png.read);
    png_set_packing(png.read);
    png_set_interlace_handling(png.read);
    png_read_update_info(png.read, png.info);
  });
}

bool read_rows(const Png& png, Source& source, std::vector<png_bytep>& rows) {
  return attempt(png, source, [&] {
    png_read_image(png.read, rows.data());
    png_read_end(png.read, png.info);
  });
}

// Throws for a picture that libpng gave up on.
[[noreturn]] void refuse(const Source& source, const std::string& name) {
  if (source.error.find("emory") != source.error.npos) {  // "Out of memory", and its like
    throw std::runtime_error(name + ": not enough memory for the picture (" + source.error + ")");
  }
  refuse_damaged(name, source.error);
}

// Turns pixels of one PNG into RGBA.
class Colors {
 public:
  explicit Colors(const Png& png, int depth) : type_(png_get_color_type(png.read, png.info)) {
    // Pillow compares the transparent color with pixels that are scaled to 8 bits already, but
    // takes 16-bit greys for opaque; the same here, so that pixels are the same.
    scale_ = type_ == PNG_COLOR_TYPE_GRAY && depth < 8 ? 255 / ((1 << depth) - 1) : 1;
    png_get_PLTE(png.read, png.info, &palette_, &colors_);
    const bool has = png_get_tRNS(png.read, png.info, &alphas_, &transparent_count_, &key_) != 0;
    keyed_ = has && key_ && !(type_ == PNG_COLOR_TYPE_GRAY && depth == 16);
    two_tone_ = depth == 1;
  }

  void rgba(const uint8_t* in, uint8_t* out) const {
    switch (type_) {
      case PNG_COLOR_TYPE_GRAY: {
        const int grey = in[0] * scale_;
        const int key = two_tone_ && keyed_ ? (key_->gray ? 255 : 0) : keyed_ ? key_->gray : -1;
        return set(out, grey, grey, grey, grey == key ? 0 : 255);
      }
      case PNG_COLOR_TYPE_GRAY_ALPHA: return set(out, in[0], in[0], in[0], in[1]);
      case PNG_COLOR_TYPE_RGB: {
        const bool clear =
            keyed_ && in[0] == key_->red && in[1] == key_->green && in[2] == key_->blue;
        return set(out, in[0], in[1], in[2], clear ? 0 : 255);
      }
      case PNG_COLOR_TYPE_PALETTE: {
        const png_color color = in[0] < colors_ ? palette_[in[0]] : png_color{0, 0, 0};
        const int alpha = alphas_ && in[0] < transparent_count_ ? alphas_[in[0]] : 255;
        return set(out, color.red, color.green, color.blue, alpha);
      }
      default: std::memcpy(out, in, 4);
    }
  }

 private:
  static void set(uint8_t* out, int red, int green, int blue, int alpha) {
    out[0] = static_cast<uint8_t>(red);
    out[1] = static_cast<uint8_t>(green);
    out[2] = static_cast<uint8_t>(blue);
    out[3] = static_cast<uint8_t>(alpha);
  }

  int type_;
  int scale_ = 1;
  bool keyed_ = false;
  bool two_tone_ = false;
  png_colorp palette_ = nullptr;
  int colors_ = 0;
  png_bytep alphas_ = nullptr;
  int transparent_count_ = 0;
  png_color_16p key_ = nullptr;
};

// EXIF in hexadecimal, as ImageMagick writes it: newline, name, newline, size, newline, digits.
int raw_profile_orientation(std::string_view text) {
  for (int lines = 0; lines < 3 && !text.empty(); ++lines) {
    text.remove_prefix(std::min(text.find('\n'), text.size() - 1) + 1);
  }
  std::vector<uint8_t> bytes;
  int digits = 0, value = 0;
  for (const char c : text) {
    const char* at = c ? std::strchr("0123456789abcdef", c) : nullptr;
    if (!at) continue;
    value = value << 4 | static_cast<int>(at - std::strchr("0123456789abcdef", '0'));
    if (++digits % 2 == 0) bytes.push_back(static_cast<uint8_t>(value));
  }
  constexpr size_t kPrefix = 6;  // "Exif", two zeros
  if (bytes.size() < kPrefix) return 0;
  return exif_orientation(bytes.data() + kPrefix, bytes.size() - kPrefix);
}

int orientation_of(const Png& png) {
  png_bytep exif = nullptr;
  png_uint_32 size = 0;
  if (png_get_eXIf_1(png.read, png.info, &size, &exif)) {
    if (const int found = exif_orientation(exif, size)) return found;
  }
  png_textp texts = nullptr;
  const int count = png_get_text(png.read, png.info, &texts, nullptr);
  for (int i = 0; i < count; ++i) {
    const std::string_view key = texts[i].key;
    int found = 0;
    if (key == "Raw profile type exif") found = raw_profile_orientation(texts[i].text);
    if (key == "XML:com.adobe.xmp") found = xmp_orientation(texts[i].text);
    if (found) return found;
  }
  return 1;
}

}  // namespace

Decoded decode_png(Bytes file, const std::string& name) {
  Source source{file, 0, {}, false};
  Png png;
  png.read = png_create_read_struct(PNG_LIBPNG_VER_STRING, &source, fail, ignore);
  png.info = png.read ? png_create_info_struct(png.read) : nullptr;
  if (!png.info) throw std::bad_alloc();
  if (!read_header(png, source)) refuse(source, name);
  Decoded picture;
  picture.width = static_cast<int>(png_get_image_width(png.read, png.info));
  picture.height = static_cast<int>(png_get_image_height(png.read, png.info));
  check_picture_size(picture.width, picture.height, name);
  const int depth = png_get_bit_depth(png.read, png.info);
  const Colors colors(png, depth);
  if (!prepare(png, source)) refuse(source, name);
  const size_t stride = png_get_rowbytes(png.read, png.info);
  const int channels = png_get_channels(png.read, png.info);
  std::vector<uint8_t> bytes(stride * picture.height);
  std::vector<png_bytep> rows;
  for (int y = 0; y < picture.height; ++y) rows.push_back(&bytes[stride * y]);
  if (!read_rows(png, source, rows)) refuse(source, name);
  picture.rgba.resize(size_t{4} * picture.width * picture.height);
  for (int y = 0; y < picture.height; ++y) {
    for (int x = 0; x < picture.width; ++x) {
      colors.rgba(rows[y] + size_t{1} * channels * x,
                  &picture.rgba[size_t{4} * picture.width * y + size_t{4} * x]);
    }
  }
  picture.orientation = orientation_of(png);
  return picture;
}

}  // namespace gemma3::images
