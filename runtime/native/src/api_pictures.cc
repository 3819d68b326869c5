// The C ABI, fourth part: pictures of gemma3_text.h.

#include <cmath>
#include <vector>

#include "gemma3_text.h"
#include "handles.h"
#include "model.h"
#include "processor.h"
#include "structs.h"

using gemma3::check_flags;
using gemma3::give;
using gemma3::guarded;
using gemma3::refuse;
using gemma3::required;
using gemma3::versioned;

namespace {

constexpr size_t kMostPictures = 10'000;
// Of a side; Gemma 3 has 896. A file that asks for more is a mistake, or means harm.
constexpr uint32_t kMostSide = 8192;

gemma3_vision vision_of(const gemma3::Bundle &bundle) {
  const auto &record = bundle.manifest().vision;
  if (!record) {
    refuse(bundle.root() + " has no encode_image program; export a checkpoint that sees images");
  }
  gemma3_vision vision = {};
  vision.image_size = static_cast<uint32_t>(record->image_size);
  vision.tokens_per_image = static_cast<uint32_t>(record->tokens_per_image);
  vision.soft_token_size = static_cast<uint32_t>(record->soft_token_size);
  vision.begin_token_id = static_cast<int32_t>(record->begin_token_id);
  vision.soft_token_id = static_cast<int32_t>(record->soft_token_id);
  vision.end_token_id = static_cast<int32_t>(record->end_token_id);
  for (size_t c = 0; c < 3; ++c) {
    vision.mean[c] = static_cast<float>(record->mean[c]);
    vision.deviation[c] = static_cast<float>(record->std[c]);
  }
  return vision;
}

gemma3::images::Form form_of(const gemma3_vision &vision) {
  if (vision.image_size < 1 || vision.image_size > kMostSide) {
    refuse("vision.image_size: expected 1 to " + std::to_string(kMostSide) + ", got " +
           std::to_string(vision.image_size));
  }
  gemma3::images::Form form;
  form.size = static_cast<int>(vision.image_size);
  for (size_t c = 0; c < 3; ++c) {
    if (!std::isfinite(vision.mean[c]) || !(vision.deviation[c] > 0)) {
      refuse("vision: expected finite means, and deviations above 0");
    }
    form.mean[c] = vision.mean[c];
    form.deviation[c] = vision.deviation[c];
  }
  return form;
}

struct Images {
  std::vector<float> pixels;
  size_t count = 0;
  std::vector<uint32_t> crops;  // of each picture
};

Images read_pictures(const gemma3::images::Form &form, const gemma3_pictures &given) {
  check_flags(given.flags, GEMMA3_PAN_AND_SCAN, "pictures.flags");
  if (given.picture_count < 1 || given.picture_count > kMostPictures) {
    refuse("picture_count: expected 1 to " + std::to_string(kMostPictures) + ", got " +
           std::to_string(given.picture_count));
  }
  required(given.pictures, "pictures.pictures");
  Images result;
  for (const gemma3_picture &one :
       gemma3::elements(given.pictures, given.picture_size, given.picture_count, "picture_size")) {
    const std::string name = "picture " + std::to_string(result.crops.size() + 1);
    if (one.count > 0) required(one.bytes, name.c_str());
    const auto picture = process(gemma3::images::read_picture({one.bytes, one.count}, name), form,
                                 (given.flags & GEMMA3_PAN_AND_SCAN) != 0);
    result.pixels.insert(result.pixels.end(), picture.pixels.begin(), picture.pixels.end());
    result.crops.push_back(static_cast<uint32_t>(picture.crops));
    result.count += size_t{1} + result.crops.back();
  }
  return result;
}

template <typename T>
std::string_view as_bytes(const std::vector<T> &values) {
  return {reinterpret_cast<const char *>(values.data()), values.size() * sizeof(T)};
}

struct Free {
  void operator()(char *memory) const { gemma3_free(memory); }
};
using Freed = std::unique_ptr<char, Free>;

}  // namespace

extern "C" {

gemma3_status gemma3_bundle_vision(const gemma3_bundle *bundle, gemma3_vision *vision,
                                   gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::fill_versioned(vision, vision_of(*required(bundle, "bundle").bundle), "vision");
  });
}

gemma3_status gemma3_model_vision(const gemma3_model *model, gemma3_vision *vision,
                                  gemma3_error *error) {
  return guarded(error, [&] {
    gemma3::fill_versioned(vision, vision_of(required(model, "model").model->bundle()), "vision");
  });
}

gemma3_status gemma3_read_pictures(const gemma3_vision *vision, const gemma3_pictures *pictures,
                                   float **pixels, size_t *images, uint32_t **crops,
                                   gemma3_error *error) {
  return guarded(error, [&] {
    required(pixels, "pixels");
    required(images, "images");
    const gemma3::images::Form form = form_of(versioned(vision, "vision"));
    const Images found = read_pictures(form, versioned(pictures, "pictures"));
    Freed crop_counts(give(as_bytes(found.crops)));
    *pixels = reinterpret_cast<float *>(give(as_bytes(found.pixels)));
    *images = found.count;
    if (crops != nullptr) *crops = reinterpret_cast<uint32_t *>(crop_counts.release());
  });
}

}  // extern "C"
