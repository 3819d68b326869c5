// In place of png_picture.cc and jpeg_picture.cc where there was no libpng or libjpeg to build with.
#include "error.h"
#include "picture.h"

namespace gemma3::images {
namespace {

[[noreturn]] void refuse_any(const std::string& name) {
  throw UsageError(name +
                   ": this libgemma3 was built without libpng and libjpeg and reads no "
                   "pictures; pass normalised pixels, or build again with libpng-dev and "
                   "libjpeg-dev");
}

}  // namespace

Decoded decode_png(Bytes, const std::string& name) { refuse_any(name); }
Decoded decode_jpeg(Bytes, const std::string& name) { refuse_any(name); }

}  // namespace gemma3::images
