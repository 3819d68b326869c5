// JPEG files by libjpeg, with the settings Pillow uses: exact DCT, smooth upsampling.
#include <csetjmp>
#include <cstdio>
#include <cstring>

// jpeglib.h needs FILE and size_t to be there.
#include <jerror.h>
#include <jpeglib.h>

#include "picture.h"

namespace gemma3::images {
namespace {

// Encoders write about ten scans of a progressive picture. Each takes as long as the whole picture is
// large, whatever little it holds: a small file of many would take hours.
constexpr int kMostScans = 100;

struct Failure {
  jpeg_error_mgr manager;
  std::jmp_buf back;
  char reason[JMSG_LENGTH_MAX];
};

struct Jpeg {
  jpeg_decompress_struct info{};
  Failure failure{};
  jpeg_progress_mgr progress{};
  Jpeg() {
    progress.progress_monitor = watch;
    info.err = jpeg_std_error(&failure.manager);
    failure.manager.error_exit = fail;
    failure.manager.emit_message = emit;
    failure.manager.output_message = [](j_common_ptr) {};
  }
  Jpeg(const Jpeg&) = delete;
  ~Jpeg() { jpeg_destroy_decompress(&info); }

  static void fail(j_common_ptr common) {
    auto* failure = reinterpret_cast<Failure*>(common->err);
    common->err->format_message(common, failure->reason);
    std::longjmp(failure->back, 1);
  }
  // Told of progress while scans are read.
  static void watch(j_common_ptr common) {
    if (!common->is_decompressor) return;
    if (reinterpret_cast<j_decompress_ptr>(common)->input_scan_number <= kMostScans) return;
    auto* failure = reinterpret_cast<Failure*>(common->err);
    std::snprintf(failure->reason, sizeof failure->reason, "more than %d scans", kMostScans);
    std::longjmp(failure->back, 1);
  }
  // libjpeg would paint the rest of a file that was cut short in grey.
  static void emit(j_common_ptr common, int level) {
    if (level < 0 && common->err->msg_code == JWRN_JPEG_EOF) fail(common);
  }
};

// No object with a destructor may be made in the functions that longjmp returns to.
bool read_header(Jpeg& jpeg, Bytes file) {
  if (setjmp(jpeg.failure.back)) return false;
  jpeg_create_decompress(&jpeg.info);
  jpeg.info.progress = &jpeg.progress;
  jpeg_mem_src(&jpeg.info, file.data, file.size);
  jpeg_save_markers(&jpeg.info, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&jpeg.info, TRUE);
  return true;
}

bool read_rows(Jpeg& jpeg, std::vector<uint8_t>& pixels) {
  if (setjmp(jpeg.failure.back)) return false;
  jpeg_start_decompress(&jpeg.info);
  const size_t stride = size_t{1} * jpeg.info.output_width * jpeg.info.output_components;
  pixels.resize(stride * jpeg.info.output_height);
  while (jpeg.info.output_scanline < jpeg.info.output_height) {
    JSAMPROW row = pixels.data() + stride * jpeg.info.output_scanline;
    jpeg_read_scanlines(&jpeg.info, &row, 1);
  }
  jpeg_finish_decompress(&jpeg.info);
  return true;
}

// Pillow takes the four inks of every such file for inverted, as Adobe writes them.
void from_inks(const uint8_t* in, uint8_t* rgba) {
  const int light = in[3];  // 255 - black
  for (int c = 0; c < 3; ++c) {
    const int product = (255 - in[c]) * light + 128;
    rgba[c] = static_cast<uint8_t>(light - (((product >> 8) + product) >> 8));
  }
}

int orientation_of(const Jpeg& jpeg) {
  constexpr std::string_view kExif("Exif\0\0", 6), kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  int from_xmp = 0;
  for (auto* marker = jpeg.info.marker_list; marker; marker = marker->next) {
    const std::string_view data(reinterpret_cast<const char*>(marker->data), marker->data_length);
    if (data.substr(0, kExif.size()) == kExif) {
      const int found =
          exif_orientation(marker->data + kExif.size(), marker->data_length - kExif.size());
      if (found) return found;
    } else if (data.substr(0, kXmp.size()) == kXmp && !from_xmp) {
      from_xmp = xmp_orientation(data.substr(kXmp.size()));
    }
  }
  return from_xmp ? from_xmp : 1;
}

}  // namespace

Decoded decode_jpeg(Bytes file, const std::string& name) {
  Jpeg jpeg;
  if (!read_header(jpeg, file)) refuse_damaged(name, jpeg.failure.reason);
  Decoded picture;
  picture.width = static_cast<int>(jpeg.info.image_width);
  picture.height = static_cast<int>(jpeg.info.image_height);
  check_picture_size(picture.width, picture.height, name);
  picture.orientation = orientation_of(jpeg);  // markers are gone when the rows are read
  const int components = jpeg.info.num_components;
  jpeg.info.out_color_space = components == 1   ? JCS_GRAYSCALE
                              : components == 4 ? JCS_CMYK
                                                : JCS_RGB;
  std::vector<uint8_t> pixels;
  if (!read_rows(jpeg, pixels)) refuse_damaged(name, jpeg.failure.reason);
  const size_t count = size_t{1} * picture.width * picture.height;
  picture.rgba.assign(4 * count, 255);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* in = &pixels[i * components];
    uint8_t* out = &picture.rgba[4 * i];
    if (components == 1) std::memset(out, in[0], 3);
    if (components == 3) std::memcpy(out, in, 3);
    if (components == 4) from_inks(in, out);
  }
  return picture;
}

}  // namespace gemma3::images
